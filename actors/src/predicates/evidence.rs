//! The evidence that predicates are checked against.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    devices::DeviceProfile,
    faults::FaultPlan,
    federation::{FederationConfig, StartState},
    gather::Gather,
    ports::Judgement,
    protocol::{Adapter, ClientId, RoundId, RowDigest},
    records::{ClientRecord, RoundEvent, RoundRecord},
    sampler::CohortSampler,
};

/// Everything known about a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Settings of the run, if known.
    pub terms: Option<RunTerms>,
    /// Stored rows and states.
    pub trace: RunTrace,
    /// Stored data that could not be read, in words; empty for an intact run.
    pub damage: Vec<String>,
    /// Events of the run; empty if they were not kept.
    pub events: Vec<RoundEvent>,
    /// Repetitions of the run.
    pub reruns: Vec<Rerun>,
    /// Observations made while it ran, if any were made.
    pub witnesses: Option<Witnesses>,
}

/// Settings that determine cohorts, faults and their outcomes.
#[derive(Clone, Debug, PartialEq)]
pub struct RunTerms {
    /// Seed of the cohorts.
    pub seed: u64,
    /// Seed of the faults.
    pub attack_seed: u64,
    /// Clients in the federation.
    pub clients: u32,
    /// Clients selected per round.
    pub cohort: u32,
    /// Minimum number of accepted updates for an aggregation.
    pub quorum: u32,
    /// Maximum number of attempts per request, the first included.
    pub max_attempts: u32,
    /// Sampler of the cohorts.
    pub sampler: CohortSampler,
    /// Injected faults.
    pub faults: FaultPlan,
    /// Devices of the clients, if time is simulated.
    pub devices: Option<DeviceProfile>,
    /// When a round stops waiting for clients.
    pub gather: Gather,
}

impl From<&FederationConfig> for RunTerms {
    fn from(config: &FederationConfig) -> Self {
        Self {
            seed: config.seed,
            attack_seed: config.attack_seed,
            clients: config.clients,
            cohort: config.cohort,
            quorum: config.quorum,
            max_attempts: config.max_attempts,
            sampler: config.sampler,
            faults: config.faults.clone(),
            devices: config.devices,
            gather: config.gather,
        }
    }
}

/// Rows and states that a run stored, from its first round to its last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunTrace {
    /// SHA-256 of the initial adapter, if known.
    pub start_sha256: Option<String>,
    /// Rows of the rounds.
    pub rounds: Vec<RoundRecord>,
    /// Rows of the clients.
    pub clients: Vec<ClientRecord>,
    /// States after rounds, ascending; possibly only the most recent ones.
    pub checkpoints: Vec<StartState>,
    /// Client states by the round that stored them.
    pub memories: BTreeMap<(ClientId, RoundId), Arc<[u8]>>,
    /// Final adapter, if stored separately from its checkpoint.
    pub adapter: Option<Adapter>,
}

impl RunTrace {
    /// Returns the rows of a round's clients.
    pub fn clients_of(&self, round: RoundId) -> impl Iterator<Item = &ClientRecord> {
        self.clients.iter().filter(move |record| record.round == round)
    }

    /// Returns the state after a round, if it is kept.
    pub fn checkpoint(&self, round: RoundId) -> Option<&StartState> {
        self.checkpoints.iter().find(|state| state.round == round)
    }
}

/// Repetition of a run.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// How it differs from the run.
    pub occasion: Occasion,
    /// Stored rows and states, or in words why the run failed.
    pub trace: Result<RunTrace, String>,
}

/// How a repetition differs from the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It had another number of slots and another order of replies.
    Reordered,
    /// It was interrupted, and resumed after this round.
    Resumed(RoundId),
}

/// Observations made at the ports while a run ran.
#[derive(Clone, Debug, Default)]
pub struct Witnesses {
    /// Compute slots of the run.
    pub slots: usize,
    /// Calls of the strategy, in order.
    pub aggregated: Vec<Aggregated>,
    /// Judgements of the update screen; empty without one.
    pub judged: BTreeMap<(RoundId, ClientId), Judged>,
    /// Number of verdicts computed per row.
    pub assessed: BTreeMap<RowDigest, u32>,
    /// Number of rows per training that no guard had assessed.
    pub unscreened: BTreeMap<(RoundId, ClientId), u32>,
    /// Maximum number of concurrent trainings.
    pub peak_training: usize,
    /// Maximum number of clients whose rows were in memory at the same time.
    pub peak_rows: usize,
}

/// One call of the strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregated {
    /// The round.
    pub round: RoundId,
    /// Clients of the updates, with the Euclidean norm of each delta.
    pub updates: Vec<(ClientId, f64)>,
}

/// Judgement of an update screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Euclidean norm of the delta as sent.
    pub delta_norm: f64,
    /// The judgement.
    pub judgement: Judgement,
}
