//! `summary.json`: what a run comes to.

use fedward_actors::{
    ports::{Evaluation, RealignmentCost},
    records::RoundRecord,
};
use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// All rounds are done.
    Completed,
    /// Somebody stopped it; `--resume` goes on.
    Interrupted,
}

/// Sums over a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Rounds stored.
    pub rounds: u32,
    /// Tokens trained on by clients.
    pub train_tokens: u64,
    /// Seconds of all rounds.
    pub seconds: f64,
    /// Highest memory use of the process so far, in bytes.
    pub peak_memory_bytes: u64,
    /// Updates that entered an aggregation.
    pub accepted: u64,
    /// Of them, those that the update screen had scaled down.
    pub clipped: u64,
    /// Updates refused.
    pub rejected: u64,
    /// Clients that sent none.
    pub dropped: u64,
    /// Rows trained on as they are, counted each time a client was selected.
    pub rows_kept: u64,
    /// Rows that the guard had left out, counted likewise, as are all below.
    pub rows_filtered: u64,
    /// Rows whose response it had replaced by a refusal.
    #[serde(default)]
    pub rows_replaced: u64,
    /// Rows whose loss counts less.
    #[serde(default)]
    pub rows_reweighted: u64,
    /// Rows kept though labelled unsafe.
    pub rows_kept_unsafe: u64,
    /// Rows filtered, replaced or reweighted though labelled safe.
    pub rows_filtered_safe: u64,
    /// Rows called unsafe since the guard's answer could not be read.
    #[serde(default)]
    pub rows_malformed: u64,
    /// Rows of which the guard read only a part, being too long for it.
    #[serde(default)]
    pub rows_cut: u64,
    /// The weights of the reweighted rows, added up.
    #[serde(default)]
    pub reweighted_weight: f64,
    /// Those of the reweighted rows labelled unsafe.
    #[serde(default)]
    pub reweighted_unsafe_weight: f64,
    /// What realignments cost.
    #[serde(default)]
    pub realignments: RealignmentCost,
}

impl Totals {
    /// Sums over rounds.
    pub fn of(rounds: &[RoundRecord], peak_memory_bytes: u64) -> Self {
        let mut totals = Self { rounds: rounds.len() as u32, peak_memory_bytes, ..Self::default() };
        for round in rounds {
            totals.train_tokens += round.train_tokens;
            totals.seconds += round.seconds.total();
            totals.accepted += u64::from(round.accepted);
            totals.clipped += u64::from(round.clipped);
            totals.rejected += u64::from(round.rejected);
            totals.dropped += u64::from(round.dropped);
            totals.rows_kept += round.rows_kept;
            totals.rows_filtered += round.rows_filtered;
            totals.rows_replaced += round.rows_replaced;
            totals.rows_reweighted += round.rows_reweighted;
            totals.rows_kept_unsafe += round.rows_kept_unsafe;
            totals.rows_filtered_safe += round.rows_filtered_safe;
            totals.rows_malformed += round.rows_malformed;
            totals.rows_cut += round.rows_cut;
            totals.reweighted_weight += round.reweighted_weight;
            totals.reweighted_unsafe_weight += round.reweighted_unsafe_weight;
            if let Some(align) = &round.align {
                totals.realignments += align.cost;
            }
        }
        totals
    }

    /// Rows that the guard called unsafe.
    pub const fn rows_called_unsafe(&self) -> u64 {
        self.rows_filtered + self.rows_replaced + self.rows_reweighted
    }

    /// Rows that reached training, each counted by its weight.
    pub const fn rows_trained_on(&self) -> f64 {
        (self.rows_kept + self.rows_replaced) as f64 + self.reweighted_weight
    }

    /// Of them, those labelled unsafe.
    pub const fn unsafe_rows_trained_on(&self) -> f64 {
        self.rows_kept_unsafe as f64 + self.reweighted_unsafe_weight
    }
}

/// What a run comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The scenario's name.
    pub scenario: String,
    /// The variant's name; empty without variants.
    pub variant: String,
    /// How it ended.
    pub status: RunStatus,
    /// Benchmarks of the base model without an adapter, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_eval: Option<Evaluation>,
    /// Benchmarks of the adapter that the run began with.
    pub start_eval: Evaluation,
    /// Benchmarks of the final adapter.
    pub eval: Evaluation,
    /// Sums over the rounds.
    pub totals: Totals,
    /// SHA-256 of the final adapter.
    pub adapter_sha256: String,
    /// What had to be assumed.
    pub assumptions: Vec<String>,
}

impl Summary {
    /// What tells the run from others: the variant's name, or the scenario's where it has no variants.
    pub fn label(&self) -> &str {
        if self.variant.is_empty() { &self.scenario } else { &self.variant }
    }
}
