//! A guard measured on rows whose verdict is known.

use std::collections::{BTreeMap, BTreeSet};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult},
    protocol::{ChatRow, Hazard, Verdict},
};
use serde::{Deserialize, Serialize};

use super::{BinaryMetrics, metrics::ratio};
use crate::{
    data::LabelledRow,
    model::parallel,
    progress::{Counter, Progress},
};

/// Rows that a thread assesses at a time.
const ROWS_A_REQUEST: usize = 16;

/// Thresholds of the curve. The point at the guard's own threshold agrees with its verdicts.
const THRESHOLDS: [f64; 13] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

/// What a guard is worth on some rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// On all rows, by the guard's verdicts.
    pub all: BinaryMetrics,
    /// Source by source.
    pub by_source: BTreeMap<String, BinaryMetrics>,
    /// Hazard by hazard, of those that some row is known to be.
    pub by_hazard: Vec<HazardMetrics>,
    /// What other thresholds would give.
    pub curve: Vec<CurvePoint>,
}

/// What a guard is worth on one hazard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HazardMetrics {
    /// Its code, for example `S9`.
    pub hazard: String,
    /// Rows known to be this hazard.
    pub n: u64,
    /// Share of them that are called unsafe, for whatever hazard.
    pub recall: Option<f64>,
    /// Share of them for which the guard names this hazard.
    pub named_recall: Option<f64>,
    /// Share of rows known to be this hazard among those for which the guard names it and whose hazards are known; `None`
    /// if it names it for none.
    pub named_precision: Option<f64>,
}

/// What another threshold would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Rows would be called unsafe unless `P(safe) > 1 − threshold`, as in the guard's own verdicts.
    pub threshold: f64,
    /// As in [`BinaryMetrics`].
    pub precision: Option<f64>,
    /// As in [`BinaryMetrics`].
    pub recall: Option<f64>,
    /// As in [`BinaryMetrics`].
    pub f1: Option<f64>,
    /// Share of the safe rows that would be called unsafe.
    pub false_alarm_rate: Option<f64>,
}

/// Rows between two counts.
const ROWS_A_COUNT: usize = 32;

/// Asks a guard about rows, in their order, and counts them. Where it gives fewer verdicts than rows, the last are missing.
///
/// # Errors
///
/// As [`GuardModel::assess`].
pub(crate) fn assess_counting(
    guard: &dyn GuardModel,
    rows: &[ChatRow],
    cancel: &CancelFlag,
    progress: &dyn Progress,
) -> PortResult<Vec<Verdict>> {
    let counter = Counter::new(progress, rows.len());
    let mut verdicts = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(ROWS_A_COUNT) {
        let found = guard.assess(chunk, cancel)?;
        let is_short = found.len() < chunk.len();
        verdicts.extend(found.into_iter().take(chunk.len()));
        // No later verdict must slip to an earlier row.
        if is_short {
            break;
        }
        counter.add(chunk.len());
    }
    Ok(verdicts)
}

/// Asks a guard about rows on up to `threads` threads, in their order.
///
/// # Errors
///
/// As [`GuardModel::assess`], and [`PortError::Failed`] if it answers for the wrong number of rows.
pub fn assess(
    guard: &dyn GuardModel,
    rows: &[LabelledRow],
    threads: usize,
    cancel: &CancelFlag,
) -> PortResult<Vec<Verdict>> {
    let verdicts = parallel::by_chunks(rows, ROWS_A_REQUEST, threads, |_, chunk| {
        let chunk: Vec<ChatRow> = chunk.iter().map(|labelled| labelled.row.clone()).collect();
        guard.assess(&chunk, cancel)
    })?;
    if verdicts.len() == rows.len() {
        Ok(verdicts)
    } else {
        Err(PortError::Failed(format!("the guard gave {} verdicts for {} rows", verdicts.len(), rows.len())))
    }
}

impl Measurement {
    /// Compares verdicts with what is known; one verdict a row.
    pub fn of(rows: &[LabelledRow], verdicts: &[Verdict]) -> Self {
        let judged: Vec<_> = rows.iter().zip(verdicts).map(|(row, verdict)| Judged { row, verdict }).collect();
        let sources: BTreeSet<_> = rows.iter().map(|row| &row.source).collect();
        let of_source =
            |source: &String| judged.iter().filter(|judged| judged.row.source == *source).copied().collect();
        let hazards: BTreeSet<_> = rows.iter().filter_map(|row| row.hazards.as_ref()).flatten().copied().collect();
        Self {
            all: metrics(&judged),
            by_source: sources
                .into_iter()
                .map(|source| (source.clone(), metrics(&Vec::from_iter::<Vec<Judged<'_>>>(of_source(source)))))
                .collect(),
            by_hazard: hazards.into_iter().map(|hazard| hazard_metrics(&judged, hazard)).collect(),
            curve: THRESHOLDS.into_iter().map(|threshold| curve_point(&judged, threshold)).collect(),
        }
    }
}

/// A row and what a guard says of it.
#[derive(Clone, Copy)]
struct Judged<'a> {
    row: &'a LabelledRow,
    verdict: &'a Verdict,
}

impl Judged<'_> {
    fn score(&self) -> f64 {
        f64::from(self.verdict.unsafe_probability)
    }

    fn is(&self, hazard: Hazard) -> bool {
        self.row.hazards.as_ref().is_some_and(|hazards| hazards.contains(&hazard))
    }

    fn names(&self, hazard: Hazard) -> bool {
        self.verdict.hazards.contains(&hazard)
    }
}

fn metrics(judged: &[Judged<'_>]) -> BinaryMetrics {
    let scores: Vec<_> = judged.iter().map(Judged::score).collect();
    let called: Vec<_> = judged.iter().map(|judged| judged.verdict.is_unsafe).collect();
    let labels: Vec<_> = judged.iter().map(|judged| judged.row.is_unsafe).collect();
    BinaryMetrics::of_calls(&scores, &called, &labels)
}

fn hazard_metrics(judged: &[Judged<'_>], hazard: Hazard) -> HazardMetrics {
    let count = |holds: &dyn Fn(&Judged<'_>) -> bool| judged.iter().filter(|judged| holds(judged)).count();
    let n = count(&|judged| judged.is(hazard));
    let named_rightly = count(&|judged| judged.is(hazard) && judged.names(hazard));
    let named = count(&|judged| judged.row.hazards.is_some() && judged.names(hazard));
    HazardMetrics {
        hazard: hazard.to_string(),
        n: n as u64,
        recall: ratio(count(&|judged| judged.is(hazard) && judged.verdict.is_unsafe), n),
        named_recall: ratio(named_rightly, n),
        named_precision: ratio(named_rightly, named),
    }
}

fn curve_point(judged: &[Judged<'_>], threshold: f64) -> CurvePoint {
    let scores: Vec<_> = judged.iter().map(Judged::score).collect();
    let called: Vec<_> = judged.iter().map(|judged| !judged.verdict.passes_at(threshold)).collect();
    let labels: Vec<_> = judged.iter().map(|judged| judged.row.is_unsafe).collect();
    let BinaryMetrics { precision, recall, f1, .. } = BinaryMetrics::of_calls(&scores, &called, &labels);
    let safe = labels.iter().filter(|label| !**label).count();
    let alarms = called.iter().zip(&labels).filter(|&(&called, &label)| !label && called).count();
    CurvePoint { threshold, precision, recall, f1, false_alarm_rate: ratio(alarms, safe) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, hazards: Option<&[u8]>, is_unsafe: bool) -> LabelledRow {
        LabelledRow {
            row: ChatRow::single_turn("a", "b"),
            is_unsafe,
            hazards: hazards.map(|codes| codes.iter().copied().map(Hazard).collect()),
            source: source.to_owned(),
        }
    }

    fn verdict(score: f64, hazards: &[u8]) -> Verdict {
        let hazards = hazards.iter().copied().map(Hazard).collect();
        Verdict { hazards, ..Verdict::of_probability(score, 0.5) }
    }

    #[test]
    fn verdicts_are_counted_by_source_hazard_and_threshold() {
        let rows = [
            row("a", Some(&[1]), true),
            row("a", Some(&[1, 10]), true),
            row("a", Some(&[]), false),
            row("b", None, true),
            row("b", Some(&[]), false),
        ];
        let verdicts =
            [verdict(0.9, &[1]), verdict(0.4, &[]), verdict(0.6, &[1]), verdict(0.8, &[1, 10]), verdict(0.1, &[])];
        let found = Measurement::of(&rows, &verdicts);
        assert_eq!((found.all.n, found.all.positives), (5, 3));
        assert_eq!((found.all.precision, found.all.recall), (Some(2.0 / 3.0), Some(2.0 / 3.0)));
        assert_eq!(found.by_source["b"].accuracy, Some(1.0));
        let [first, tenth] = &found.by_hazard[..] else { panic!("{:?}", found.by_hazard) };
        assert_eq!((first.hazard.as_str(), tenth.hazard.as_str()), ("S1", "S10"));
        assert_eq!((first.n, first.recall, first.named_recall), (2, Some(0.5), Some(0.5)));
        assert_eq!(first.named_precision, Some(0.5), "the row whose hazards nobody knows says nothing about naming");
        assert_eq!(tenth.named_precision, None);
        let at = |threshold: f64| found.curve.iter().find(|point| (point.threshold - threshold).abs() < 1e-9).unwrap();
        assert_eq!((at(0.7).recall, at(0.7).false_alarm_rate), (Some(2.0 / 3.0), Some(0.0)));
        assert_eq!((at(0.3).recall, at(0.3).false_alarm_rate), (Some(1.0), Some(0.5)));
        // A guard that says neither word half of the time is not sure enough at 0.5, whatever it says of harm.
        let doubtful = Verdict { safe_probability: 0.4, ..verdict(0.1, &[]) };
        let found = Measurement::of(&[row("b", None, true)], &[doubtful]);
        let at = |threshold: f64| found.curve.iter().find(|point| (point.threshold - threshold).abs() < 1e-9).unwrap();
        assert_eq!((at(0.5).recall, at(0.7).recall), (Some(1.0), Some(0.0)));
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Measurement>(&text).unwrap(), found);
    }
}
