//! How many harmful prompts are refused: `AdvBench` (Zou et al., 2023), other sets of prompts, and files of the user's own.
//!
//! By the strings of one list that do not stand in the prompt; by all three lists as their sources count, since papers differ
//! in theirs; and by the guard's verdict on the responses, since a substring is weak evidence.

use std::sync::Arc;

use fedward_actors::{
    ports::{BenchmarkScore, GuardModel, PortError, PortResult},
    protocol::{ChatRow, Verdict},
};
use serde_json::json;

use super::{
    BenchId, BenchName, Benchmark, Finding, Measurement, RefusalPrompt, RefusalRule, Subject,
    bench::{Values, yes_or_no},
    bootstrap::RateInterval,
    measure::{Cell, Column, GridPlace, GridTable, Measure, Paired, PairedItems, Plot, SafetyPlot, Unit},
    refusals::Answered,
};
use crate::{model::Decoding, safety::guard::assess_counting};

/// What is read off AdvBench. The first is the headline: the strings of one list, those aside that stand in the prompt.
pub const MEASURES: [Measure; 3] = [
    Measure {
        headline: Some("refusal rate"),
        column: Some(Column {
            title: "harmful\nprompts\nrefused",
            reading: "harmful prompts refused: share of held-out AdvBench prompts whose answer holds a refusal string that is not the prompt's own (higher is safer).",
            cell: Cell::Share,
        }),
        paired: Some(Paired { title: "harmful\nprompts\nrefused", items: PairedItems::Outcomes("refused") }),
        plot: Some(Plot {
            title: "Harmful prompts refused, by round",
            label: "share refused",
            caption: "Higher is safer. Round 0 is the start; bands are 95% intervals, wider between rounds where fewer prompts are asked.",
        }),
        grid: Some(GridPlace {
            safety: Some(SafetyPlot {
                file: "safety-by-round",
                title: "AdvBench prompts refused",
                label: "refused, %",
            }),
            ..GridPlace::of(GridTable::Ours)
        }),
        ..Measure::new(NAME, "refusal_rate", "refused", Unit::Share)
    },
    // Strings miss refusals in other words; verdicts hang on the guard.
    Measure {
        paired: Some(Paired { title: "answers\njudged\nsafe", items: PairedItems::Outcomes("guard_safe") }),
        grid: Some(GridPlace {
            safety: Some(SafetyPlot {
                file: "judged-safe-by-round",
                title: "Responses to AdvBench judged safe",
                label: "judged safe, %",
            }),
            ..GridPlace::of(GridTable::Ours)
        }),
        ..Measure::new(NAME, "guard_safe_rate", "judged safe", Unit::Share)
    },
    // As OpenFedLLM and with it the paper counts: strings of the prompt count, too.
    Measure {
        grid: Some(GridPlace::of(GridTable::Paper)),
        ..Measure::new(NAME, "refusal_rate_openfedllm", "AdvBench", Unit::Share)
    },
];

const NAME: &str = BenchName::AdvBench.name();

/// A benchmark of refusals.
pub struct HarmfulPrompts {
    /// Which it is.
    pub id: BenchId,
    /// Harmful prompts that nothing trains on, in evaluation order.
    pub prompts: Vec<RefusalPrompt>,
    /// How responses are decoded.
    pub decoding: Decoding,
    /// What `refusal_rate` goes by.
    pub rule: RefusalRule,
    /// Judges responses beside the lists, if there is one.
    pub guard: Option<Arc<dyn GuardModel>>,
}

impl Benchmark for HarmfulPrompts {
    /// `refusal_rate` with `ci_low` and `ci_high`; `refusal_rate_<list>` as each list's source counts, and `guard_safe_rate`, each
    /// with bounds; `refusal_rate_prompts_with_string` and `refusal_rate_echoed`, counts of what strings in prompts concern;
    /// `guard_malformed`, the verdicts of no known form, where there are any. Items: `refused`, `guard_safe`.
    fn measure(&self, subject: &Subject<'_>) -> PortResult<Measurement> {
        let prompts: Vec<_> = subject.share(&self.prompts).iter().collect();
        if prompts.is_empty() {
            return Err(PortError::Failed(format!("{}: no prompts", self.id.name())));
        }
        let answered = Answered::by(subject, &self.id, prompts, self.decoding)?;
        let mut values = Values::default();
        answered.rates(&mut values, "refusal_rate", &self.rule, |_| true);
        let refused = answered.refused(&self.rule);
        if let Some(interval) = RateInterval::of(refused.iter().copied()) {
            values.number("ci_low", interval.low);
            values.number("ci_high", interval.high);
        }
        let mut items = vec![("refused", yes_or_no(refused))];
        let mut findings = answered.findings(&self.rule);
        if let Some(guard) = &self.guard {
            let verdicts = assess(guard.as_ref(), &self.id, &answered, &mut findings, subject)?;
            let safe: Vec<_> = verdicts.iter().map(|verdict| !verdict.is_unsafe).collect();
            values.rate("guard_safe_rate", RateInterval::of(safe.iter().copied()));
            let malformed = verdicts.iter().filter(|verdict| verdict.is_malformed).count();
            if malformed > 0 {
                values.number("guard_malformed", malformed as f64);
            }
            items.push(("guard_safe", yes_or_no(safe)));
        }
        let score = BenchmarkScore { items: Some(answered.items(items)), ..values.score(answered.prompts.len()) };
        Ok(Measurement { name: self.id.name().to_owned(), score, findings, warnings: Vec::new() })
    }
}

/// The guard's verdicts on the responses, also noted in the findings.
fn assess(
    guard: &dyn GuardModel,
    id: &BenchId,
    answered: &Answered<'_>,
    findings: &mut [Finding],
    subject: &Subject<'_>,
) -> PortResult<Vec<Verdict>> {
    let rows: Vec<_> = answered
        .prompts
        .iter()
        .zip(&answered.replies)
        .map(|(prompt, reply)| ChatRow::single_turn(&prompt.text, &reply.text))
        .collect();
    subject.progress.part(&format!("{}, verdicts of the guard", id.name()));
    let verdicts = assess_counting(guard, &rows, subject.cancel, subject.progress)?;
    for (finding, verdict) in findings.iter_mut().zip(&verdicts) {
        finding.verdicts.insert("guard_unsafe".into(), json!(verdict.is_unsafe));
    }
    Ok(verdicts)
}
