//! What people are told of a fitted guard.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{BinaryMetrics, HazardMetrics, Measurement, metrics::shown};

/// What a fitted guard is worth on rows that it was not fitted on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardReport {
    /// Rows that the guard was fitted on.
    pub fitted_rows: u64,
    /// Quality on held-out rows of all sources.
    pub held_out: BinaryMetrics,
    /// Quality on held-out rows, source by source.
    pub by_source: BTreeMap<String, BinaryMetrics>,
    /// Quality on held-out rows of each hazard.
    pub by_hazard: Vec<HazardMetrics>,
}

impl GuardReport {
    /// Of a guard fitted on `fitted_rows` rows, measured on others.
    pub fn new(fitted_rows: usize, measured: Measurement) -> Self {
        let Measurement { all, by_source, by_hazard, .. } = measured;
        Self { fitted_rows: fitted_rows as u64, held_out: all, by_source, by_hazard }
    }
}

/// One line about the quality of a guard on some rows.
pub fn metrics_line(name: &str, metrics: &BinaryMetrics) -> String {
    let auc = metrics.auc.map_or_else(|| "one class only".to_owned(), |auc| format!("AUC {auc:.3}"));
    let [accuracy, precision, recall] =
        [metrics.accuracy, metrics.precision, metrics.recall].map(|value| shown(value, 2));
    let at_few = metrics.recall_at_1_percent.map(|recall| format!(" ({recall:.2} at 1% false positives)"));
    let at_few = at_few.unwrap_or_default();
    let BinaryMetrics { n, positives, .. } = metrics;
    format!(
        "{name}: {auc}, accuracy {accuracy}, precision {precision}, recall {recall}{at_few} (n={n}, {positives} unsafe)"
    )
}

impl fmt::Display for GuardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guard, fitted on {} rows; {}", self.fitted_rows, metrics_line("held-out rows", &self.held_out))?;
        self.by_source.iter().try_for_each(|(source, metrics)| write!(f, "\n  {}", metrics_line(source, metrics)))
    }
}
