//! What a round says of itself: outcomes, rows for the run's files, events for observers.

mod events;
mod outcomes;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    faults::ClientFault,
    ports::{Evaluation, RealignmentReport},
    protocol::{ClientId, RoundId},
};

pub use events::{Phase, RoundEvent};
pub use outcomes::{ClientOutcome, ClientRole, DropReason, RejectReason, RoundOutcome};

/// What became of rows by the guard's verdicts, and how these compare with what is known of the rows. Its names are those of
/// `rounds.jsonl`; `clients.jsonl` had shorter ones once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardCounts {
    /// Rows trained on as they are: the guard called them safe, or there is none.
    #[serde(rename = "rows_kept", alias = "kept")]
    pub kept: u64,
    /// Rows left out.
    #[serde(rename = "rows_filtered", alias = "filtered")]
    pub filtered: u64,
    /// Rows whose response gave way to a refusal.
    #[serde(rename = "rows_replaced", alias = "replaced", default)]
    pub replaced: u64,
    /// Rows whose loss counts less.
    #[serde(rename = "rows_reweighted", alias = "reweighted", default)]
    pub reweighted: u64,
    /// Kept though labelled unsafe.
    #[serde(rename = "rows_kept_unsafe", alias = "kept_unsafe")]
    pub kept_unsafe: u64,
    /// Filtered, replaced or reweighted though labelled safe.
    #[serde(rename = "rows_filtered_safe", alias = "filtered_safe")]
    pub filtered_safe: u64,
    /// Called unsafe since the guard's answer could not be read.
    #[serde(rename = "rows_malformed", alias = "malformed", default)]
    pub malformed: u64,
    /// Of which the guard read only a part, being too long for it.
    #[serde(rename = "rows_cut", alias = "cut", default)]
    pub cut: u64,
    /// The weights of the reweighted rows, added up.
    #[serde(default)]
    pub reweighted_weight: f64,
    /// Those of the reweighted rows labelled unsafe.
    #[serde(default)]
    pub reweighted_unsafe_weight: f64,
}

impl GuardCounts {
    /// Rows by what became of them, by name.
    pub const fn by_name(&self) -> [(&'static str, u64); 4] {
        [("kept", self.kept), ("filtered", self.filtered), ("replaced", self.replaced), ("reweighted", self.reweighted)]
    }

    /// Rows that the guard called unsafe.
    pub const fn called_unsafe(&self) -> u64 {
        self.filtered + self.replaced + self.reweighted
    }

    /// All rows that were there, whatever became of them.
    pub const fn all(&self) -> u64 {
        self.kept + self.called_unsafe()
    }

    /// Rows that reached training, each counted by its weight.
    pub const fn trained_on(&self) -> f64 {
        (self.kept + self.replaced) as f64 + self.reweighted_weight
    }

    /// Of them, those labelled unsafe.
    pub const fn unsafe_trained_on(&self) -> f64 {
        self.kept_unsafe as f64 + self.reweighted_unsafe_weight
    }
}

impl std::ops::AddAssign for GuardCounts {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.filtered += other.filtered;
        self.replaced += other.replaced;
        self.reweighted += other.reweighted;
        self.kept_unsafe += other.kept_unsafe;
        self.filtered_safe += other.filtered_safe;
        self.malformed += other.malformed;
        self.cut += other.cut;
        self.reweighted_weight += other.reweighted_weight;
        self.reweighted_unsafe_weight += other.reweighted_unsafe_weight;
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One line of `clients.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientRecord {
    /// The round.
    pub round: RoundId,
    /// The client.
    pub client: ClientId,
    /// What it is up to.
    #[serde(default)]
    pub role: ClientRole,
    /// What became of it.
    pub outcome: ClientOutcome,
    /// The last attempt that it was asked under.
    pub attempt: u32,
    /// What the guard did with its rows; all rows are kept without one.
    pub guard: GuardCounts,
    /// Rows that it trained on, each counted by its weight: what its update weighs in the aggregation. 0 without training.
    #[serde(default)]
    pub n_examples: f64,
    /// Server steps between the version of the global model that it started from and the one that its update met.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub staleness: u32,
    /// Optimizer steps.
    pub steps: u32,
    /// Tokens trained on.
    pub train_tokens: u64,
    /// Mean loss over the steps, if it trained.
    pub train_loss: Option<f64>,
    /// Seconds spent on training; 0 where it was reused.
    pub train_seconds: f64,
    /// Whether its training was not computed but taken from an earlier variant that had done the same.
    pub reused: bool,
    /// Euclidean norm of its delta as it sent it, if it sent an update that could be measured.
    pub update_norm: Option<f64>,
    /// The norm that the update screen scaled its delta down to, if it did.
    pub clipped_to: Option<f64>,
    /// What the update screen multiplied its aggregation weight by, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<f64>,
    /// What was put in to go wrong with its turn, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<ClientFault>,
}

/// Seconds that each step of a round took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// Choosing the cohort.
    pub select: f64,
    /// Handing out the global adapter.
    pub broadcast: f64,
    /// Waiting for the clients: guard and training included.
    pub train: f64,
    /// Checking updates.
    pub screen: f64,
    /// Combining updates.
    pub aggregate: f64,
    /// Constitutional AI.
    pub align: f64,
    /// Benchmarks.
    pub evaluate: f64,
    /// Writing checkpoint and rows.
    pub commit: f64,
}

impl PhaseSeconds {
    /// The phases by name, in the order of the round.
    pub const fn by_name(&self) -> [(&'static str, f64); 8] {
        [
            ("select", self.select),
            ("broadcast", self.broadcast),
            ("train", self.train),
            ("screen", self.screen),
            ("aggregate", self.aggregate),
            ("align", self.align),
            ("evaluate", self.evaluate),
            ("commit", self.commit),
        ]
    }

    /// Seconds of the whole round.
    pub fn total(&self) -> f64 {
        self.by_name().iter().map(|(_, seconds)| seconds).sum()
    }
}

/// One line of `rounds.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// The round.
    pub round: RoundId,
    /// What became of it.
    pub outcome: RoundOutcome,
    /// The clients selected, in order of id.
    pub cohort: Vec<ClientId>,
    /// How many updates entered the aggregation.
    pub accepted: u32,
    /// How many of them the update screen had scaled down first.
    pub clipped: u32,
    /// How many updates were refused.
    pub rejected: u32,
    /// How many clients sent none.
    pub dropped: u32,
    /// What became of the rows of all clients, whether or not their updates were accepted.
    #[serde(flatten)]
    pub rows: GuardCounts,
    /// Mean of the accepted clients' losses, weighted by tokens.
    pub train_loss: Option<f64>,
    /// Tokens trained on by all clients, those of reused trainings included.
    pub train_tokens: u64,
    /// Trainings that were not computed but taken from an earlier variant that had done the same.
    pub trainings_reused: u32,
    /// Tokens of trainings that were computed over the seconds of the train phase; `None` if none was.
    pub train_tokens_per_second: Option<f64>,
    /// Euclidean norm of the global adapter's change in aggregation.
    pub update_norm: Option<f64>,
    /// What the strategy says of itself after the aggregation, by name: empty without one.
    #[serde(default)]
    pub strategy: BTreeMap<String, f64>,
    /// Bytes of adapters, and of other vectors of their size, that clients sent.
    pub adapter_bytes_up: u64,
    /// Bytes of adapters, and of other vectors of their size, that the server sent.
    pub adapter_bytes_down: u64,
    /// Simulated seconds since the start of the run, where the run simulates time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated_seconds: Option<f64>,
    /// Seconds of each phase.
    pub seconds: PhaseSeconds,
    /// What Constitutional AI did, in rounds that have it.
    pub align: Option<RealignmentReport>,
    /// Benchmarks, in rounds that have them.
    pub eval: Evaluation,
    /// What went wrong without ending the round, in words.
    pub warnings: Vec<String>,
    /// How many faults were put in, by name; nothing of those that were not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, u32>,
    /// SHA-256 of the global adapter after the round.
    pub adapter_sha256: String,
}
