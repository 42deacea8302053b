//! The embedded guard: features of the base model, a logistic head, a threshold.

use std::{collections::BTreeMap, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult},
    protocol::{ChatRow, RoundId, RowLabel, Verdict, hex},
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{BinaryMetrics, LogisticHead};
use crate::model::{ChatModel, ModelError};

/// Every so many rows of a source is held out to measure the guard.
const HELD_OUT_EVERY: usize = 5;

/// A guard on a base model that the program has loaded anyway.
pub struct EmbeddedGuard {
    model: Arc<ChatModel>,
    head: LogisticHead,
    layers: usize,
    max_length: usize,
    threshold: f64,
    version: String,
}

/// What a fitted guard is worth on rows that it was not fitted on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardReport {
    /// Rows that the head was fitted on.
    pub fitted_rows: u64,
    /// Quality on held-out rows of all sources.
    pub held_out: BinaryMetrics,
    /// Quality on held-out rows, source by source.
    pub by_source: BTreeMap<String, BinaryMetrics>,
}

impl std::fmt::Display for GuardReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |name: &str, metrics: &BinaryMetrics| {
            let auc = metrics.auc.map_or_else(|| "one class only".to_owned(), |auc| format!("AUC {auc:.3}"));
            let BinaryMetrics { n, positives, accuracy, precision, recall, .. } = metrics;
            format!(
                "{name}: {auc}, accuracy {accuracy:.2}, precision {precision:.2}, recall {recall:.2} (n={n}, {positives} unsafe)"
            )
        };
        write!(f, "guard, fitted on {} rows; {}", self.fitted_rows, line("held-out rows", &self.held_out))?;
        self.by_source.iter().try_for_each(|(source, metrics)| write!(f, "\n  {}", line(source, metrics)))
    }
}

/// Where a guard reads and how much of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Blocks of the base model below the head.
    pub layers: usize,
    /// Tokens of a row that are read.
    pub max_length: usize,
}

/// Fits a head on labelled rows by source, and measures it on every fifth row of each source, which it does not see.
///
/// # Errors
///
/// [`ModelError`] if features cannot be computed, or with rows of one class only.
pub fn fit(
    model: &ChatModel,
    sources: &BTreeMap<String, Vec<ChatRow>>,
    reading: Reading,
    threshold: f64,
    seed: u64,
    cancel: &CancelFlag,
) -> Result<(LogisticHead, GuardReport), ModelError> {
    let mut rng = stream(seed, Purpose::Guard, RoundId::START, None);
    let (mut fitted, mut held_out) = (Vec::new(), Vec::new());
    for (source, rows) in sources {
        let mut rows: Vec<_> = rows.iter().filter(|row| row.label.is_some()).cloned().collect();
        rows.shuffle(&mut rng);
        for (index, row) in rows.into_iter().enumerate() {
            let side = if index % HELD_OUT_EVERY == 0 { &mut held_out } else { &mut fitted };
            side.push((source.clone(), row));
        }
    }
    let features = |rows: &[(String, ChatRow)]| {
        let rows: Vec<_> = rows.iter().map(|(_, row)| row.clone()).collect();
        model.features(&rows, reading.layers, reading.max_length, model.threads, cancel)
    };
    let labels = |rows: &[(String, ChatRow)]| -> Vec<bool> {
        rows.iter().map(|(_, row)| row.label == Some(RowLabel::Unsafe)).collect()
    };
    let head = LogisticHead::fit(&features(&fitted)?, &labels(&fitted)).ok_or_else(|| ModelError::Invalid {
        path: "guard".into(),
        problem: "its training rows are all safe or all unsafe; it needs labelled rows of both kinds".into(),
    })?;
    let scores: Vec<f64> = features(&held_out)?.iter().map(|row| head.probability(row)).collect();
    let report = report(fitted.len(), &held_out, &scores, &labels(&held_out), threshold);
    Ok((head, report))
}

fn report(fitted: usize, rows: &[(String, ChatRow)], scores: &[f64], labels: &[bool], threshold: f64) -> GuardReport {
    let mut by_source: BTreeMap<String, (Vec<f64>, Vec<bool>)> = BTreeMap::new();
    for ((source, _), (&score, &label)) in rows.iter().zip(scores.iter().zip(labels)) {
        let (scores, labels) = by_source.entry(source.clone()).or_default();
        scores.push(score);
        labels.push(label);
    }
    GuardReport {
        fitted_rows: fitted as u64,
        held_out: BinaryMetrics::measure(scores, labels, threshold),
        by_source: by_source
            .into_iter()
            .map(|(source, (scores, labels))| (source, BinaryMetrics::measure(&scores, &labels, threshold)))
            .collect(),
    }
}

impl EmbeddedGuard {
    /// A guard of a fitted head.
    pub fn new(model: Arc<ChatModel>, head: LogisticHead, reading: Reading, threshold: f64) -> Self {
        let mut hash = Sha256::new();
        hash.update(model.sha256.as_bytes());
        hash.update(serde_json::to_vec(&(&head, reading, threshold)).unwrap_or_default());
        let version = format!("embedded-{}", &hex(&hash.finalize())[..12]);
        let Reading { layers, max_length } = reading;
        Self { model, head, layers, max_length, threshold, version }
    }
}

impl GuardModel for EmbeddedGuard {
    fn version(&self) -> &str {
        &self.version
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        // One thread: the caller holds one compute slot, and clients train on the others meanwhile.
        let features = self.model.features(rows, self.layers, self.max_length, 1, cancel).map_err(PortError::from)?;
        let verdict = |features: &Vec<f32>| {
            let probability = self.head.probability(features);
            // NaN must not pass for safe: the comparison fails closed.
            let is_safe = probability < self.threshold;
            Verdict { unsafe_probability: probability as f32, is_unsafe: !is_safe, hazards: Vec::new() }
        };
        Ok(features.iter().map(verdict).collect())
    }
}
