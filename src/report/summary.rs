//! `summary.json`: what a run comes to.

use std::collections::BTreeMap;

use fedward_actors::{
    ports::{Evaluation, RealignmentCost},
    records::{GuardCounts, RoundOutcome, RoundRecord},
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
    /// Of them, those that changed the global adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<u32>,
    /// Tokens trained on by clients.
    pub train_tokens: u64,
    /// Seconds of all rounds.
    pub seconds: f64,
    /// Highest memory use of the process so far, in bytes.
    pub peak_memory_bytes: u64,
    /// Highest use of a CUDA device's memory so far, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_memory_bytes: Option<u64>,
    /// Updates that entered an aggregation.
    pub accepted: u64,
    /// Of them, those of rounds that changed the global adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// Of them, those that the update screen had scaled down.
    pub clipped: u64,
    /// Updates refused.
    pub rejected: u64,
    /// Clients that sent none.
    pub dropped: u64,
    /// Faults that were put in on purpose, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, u64>,
    /// What became of clients' rows, counted each time a client was selected.
    #[serde(flatten)]
    pub rows: GuardCounts,
    /// What realignments cost.
    #[serde(default)]
    pub realignments: RealignmentCost,
}

impl Totals {
    /// Sums over rounds.
    pub fn of(rounds: &[RoundRecord], peak_memory_bytes: u64) -> Self {
        let committed: Vec<_> = rounds.iter().filter(|round| round.outcome == RoundOutcome::Committed).collect();
        let counted = committed.iter().map(|round| u64::from(round.accepted));
        let mut totals = Self {
            rounds: rounds.len() as u32,
            committed: Some(committed.len() as u32),
            counted: Some(counted.sum()),
            peak_memory_bytes,
            ..Self::default()
        };
        for round in rounds {
            totals.train_tokens += round.train_tokens;
            totals.seconds += round.seconds.total();
            totals.accepted += u64::from(round.accepted);
            totals.clipped += u64::from(round.clipped);
            totals.rejected += u64::from(round.rejected);
            totals.dropped += u64::from(round.dropped);
            totals.rows += round.rows;
            for (fault, count) in &round.faults {
                *totals.faults.entry(fault.clone()).or_default() += u64::from(*count);
            }
            if let Some(align) = &round.align {
                totals.realignments += align.cost;
            }
        }
        totals
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
