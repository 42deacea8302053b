//! What the actors need from the outside, as traits: training, rows, guard, realignment, evaluation, storage.
//!
//! Every method here blocks and may take long; actors call them on blocking threads, under a compute permit where they
//! compute. Each polls its [`CancelFlag`] and ends with `Cancelled` soon after it was raised. Expected failure is a value.

mod strategy;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    cancel::CancelFlag,
    protocol::{Adapter, ChatRow, ClientId, GlobalModel, RoundId, TrainRows, Verdict},
    records::{ClientRecord, ClientRole, RoundRecord},
};

pub use strategy::{ClientAlgorithm, ClientMemories, LocalCorrection, NewMemories, PlainClients, Strategy, TurnStart};

pub use crate::protocol::{ClientUpdate, LocalTraining, TurnEnd};

/// Why a port did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The cancel flag was raised.
    #[error("cancelled")]
    Cancelled,
    /// The work could not be done; the text is for people.
    #[error("{0}")]
    Failed(String),
}

/// What every port returns.
pub type PortResult<T> = Result<T, PortError>;

/// The rows that each client holds.
pub trait ClientRows: Send + Sync + 'static {
    /// The rows of one client. Called when the client trains, so that an idle client costs no rows.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if the rows cannot be read.
    fn rows(&self, client: ClientId) -> PortResult<Arc<[ChatRow]>>;
}

/// One client's local work in one round.
#[derive(Clone, Debug)]
pub struct TrainTask {
    /// Who trains.
    pub client: ClientId,
    /// In which round.
    pub round: RoundId,
    /// The model to start from.
    pub global: GlobalModel,
    /// What the federated algorithm adds to plain fine-tuning.
    pub correction: LocalCorrection,
}

/// Local fine-tuning of a model's trainable adapter on a client's rows.
pub trait LocalTrainer: Send + Sync + 'static {
    /// Trains from `task.global` on `rows`: a row of weight w pulls w times as hard as one of weight 1, whatever else is in
    /// its batch. The result depends on the arguments alone (invariant D-1).
    ///
    /// # Errors
    ///
    /// [`PortError::Cancelled`] soon after the flag is raised, [`PortError::Failed`] if training cannot be done.
    fn train(&self, task: &TrainTask, rows: &TrainRows, cancel: &CancelFlag) -> PortResult<LocalTraining>;
}

/// A safety classifier of rows.
pub trait GuardModel: Send + Sync + 'static {
    /// Names this guard's weights and threshold; a verdict is computed once a version (invariant S-2).
    fn version(&self) -> &str;

    /// One verdict a row, in the order of the rows.
    ///
    /// # Errors
    ///
    /// [`PortError::Cancelled`] or [`PortError::Failed`]; the caller then trains on none of the rows (invariant S-1).
    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>>;
}

/// An update that is to be judged: valid in layout and values, and its client's only one this round.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What the client sent.
    pub update: &'a ClientUpdate,
    /// Euclidean norm of its delta: local minus global adapter.
    pub delta_norm: f64,
}

/// What an update screen says of one update.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// It enters the aggregation as it is.
    Keep,
    /// Its delta is scaled down to this norm first.
    Clip(f64),
    /// It enters as it is, and its aggregation weight is multiplied by this trust, from 0 to 1.
    Weigh(f64),
    /// It does not enter; the text says why.
    Reject(String),
}

/// An update-level defence: looks at what clients send before it is aggregated.
pub trait UpdateScreen: Send + Sync + 'static {
    /// Its name in scenarios and records.
    fn name(&self) -> &'static str;

    /// One judgement a candidate, in their order, which is that of [`ClientId`]. It depends on the arguments alone
    /// (invariant D-1).
    ///
    /// # Errors
    ///
    /// [`PortError::Cancelled`] or [`PortError::Failed`]; none of the updates then enters (invariant A-3).
    fn judge(
        &self,
        round: RoundId,
        global: &Adapter,
        candidates: &[Candidate<'_>],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<Judgement>>;
}

/// Malicious clients, acting together or alone: who they are, and what they send in the place of what they trained.
pub trait Adversary: Send + Sync + 'static {
    /// Returns what `client` is up to: the same in every round.
    fn role(&self, client: ClientId) -> ClientRole;

    /// Returns what malicious clients send, each at most one of the round's `updates`, which come in order of [`ClientId`].
    /// Whoever is not named sends what it trained. It depends on the arguments alone (invariant D-1), and sees all updates:
    /// what its clients are to know of others is its own affair.
    ///
    /// # Errors
    ///
    /// [`PortError::Cancelled`] or [`PortError::Failed`]; malicious clients then send nothing.
    fn forge(
        &self,
        round: RoundId,
        global: &Adapter,
        updates: &[ClientUpdate],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<(ClientId, Adapter)>>;
}

/// What a realignment gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Realignment {
    /// The trainable adapter after realignment.
    pub adapter: Adapter,
    /// What it did and cost.
    pub report: RealignmentReport,
    /// What it left out of what it was to do, in words; the round takes them over.
    pub warnings: Vec<String>,
}

/// What a realignment did and cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RealignmentReport {
    /// Red prompts asked, or prepared pairs looked at.
    pub red_prompts: u64,
    /// Revisions worth training on: those of preference pairs included.
    pub revisions: u64,
    /// Answers that the guard is sure to be safe: trained on unrevised.
    pub good_answers: u64,
    /// Revisions and pairs discarded, by reason.
    pub discarded: BTreeMap<String, u64>,
    /// Tokens generated in all turns.
    pub generated_tokens: u64,
    /// Optimizer steps, those on preferences included.
    pub steps: u64,
    /// Tokens trained on, both sides of preference pairs included.
    pub train_tokens: u64,
    /// Mean loss over the steps of supervised fine-tuning, if there were any and it is finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_loss: Option<f64>,
    /// What training on preferences did, if there was any.
    pub preference: Option<PreferenceReport>,
    /// What each part cost.
    pub cost: RealignmentCost,
}

/// What training on preferences did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreferenceReport {
    /// Pairs to draw from.
    pub pairs: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Mean loss over the steps.
    pub mean_loss: f64,
    /// Reward of the chosen minus that of the rejected response, in the last step's batch before the step.
    pub reward_margin: f64,
    /// Share of that batch's pairs whose chosen response has the higher reward.
    pub reward_accuracy: f64,
}

/// What the parts of a realignment cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RealignmentCost {
    /// Making answers, critiques and revisions, and choosing among them.
    pub generate: Cost,
    /// Supervised fine-tuning.
    pub sft: Cost,
    /// Training on preferences, the likelihoods under the reference included.
    pub dpo: Cost,
}

impl RealignmentCost {
    /// The parts by name, in their order.
    pub const fn by_name(&self) -> [(&'static str, Cost); 3] {
        [("generate", self.generate), ("sft", self.sft), ("dpo", self.dpo)]
    }

    /// All parts together.
    pub fn total(&self) -> Cost {
        let mut total = self.generate;
        total += self.sft;
        total += self.dpo;
        total
    }
}

impl std::ops::AddAssign for RealignmentCost {
    fn add_assign(&mut self, other: Self) {
        self.generate += other.generate;
        self.sft += other.sft;
        self.dpo += other.dpo;
    }
}

/// What a piece of work cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Seconds on the clock.
    pub seconds: f64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Floating-point operations by formula, not by measurement.
    pub flops: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.tokens += other.tokens;
        self.flops += other.flops;
    }
}

/// Realigns the global adapter on the server: Constitutional AI.
pub trait Realigner: Send + Sync + 'static {
    /// Realigns `global`, of which it changes the trainable adapter.
    ///
    /// # Errors
    ///
    /// [`PortError::Cancelled`] or [`PortError::Failed`]; the round then keeps the aggregated adapter and says so.
    fn realign(&self, round: RoundId, global: &GlobalModel, cancel: &CancelFlag) -> PortResult<Realignment>;
}

/// One benchmark's outcome: how many prompts it rests on, and named values, each within its own bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkScore {
    /// Prompts or items evaluated: the denominator of every rate.
    pub n: u64,
    /// What was found on each of them, where the benchmark says so: runs over the same items are compared in pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemScores>,
    /// Values by name, for example `refusal_rate`, `ci_low`, `ci_high`.
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// What a benchmark found on each item, in evaluation order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ItemScores {
    /// SHA-256 of the items: of two runs with the same one, the scores in the same place are of the same item.
    pub sha256: String,
    /// One number an item by name, for example `refused`, which is 0 or 1.
    #[serde(flatten, serialize_with = "whole_numbers_without_point")]
    pub scores: BTreeMap<String, Vec<f64>>,
}

/// Writes 1 and not 1.0: most scores are yes or no, and there is one of each prompt in every row.
fn whole_numbers_without_point<S: serde::Serializer>(
    scores: &BTreeMap<String, Vec<f64>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    /// The largest whole numbers that are all exact in `f64`.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Number {
        Whole(i64),
        Other(f64),
    }
    serializer.collect_map(scores.iter().map(|(name, scores)| {
        let number = |&score: &f64| {
            if score.fract() == 0.0 && score.abs() < EXACT { Number::Whole(score as i64) } else { Number::Other(score) }
        };
        (name, scores.iter().map(number).collect::<Vec<_>>())
    }))
}

/// Benchmarks by name.
pub type Evaluation = BTreeMap<String, BenchmarkScore>;

/// How thorough an evaluation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvaluationScope {
    /// A seeded subset, between rounds.
    Interim,
    /// Everything, at the start and the end.
    Full,
}

/// Measures a global model.
pub trait Benchmarks: Send + Sync + 'static {
    /// Runs the benchmarks on `global`.
    ///
    /// # Errors
    ///
    /// [`PortError::Cancelled`] or [`PortError::Failed`]; the round is committed without an evaluation and says so.
    fn evaluate(
        &self,
        round: RoundId,
        global: &GlobalModel,
        scope: EvaluationScope,
        cancel: &CancelFlag,
    ) -> PortResult<Evaluation>;
}

/// The state of a run after a round: what a resumed run goes on from.
#[derive(Clone, Copy, Debug)]
pub struct StateAfter<'a> {
    /// The round.
    pub round: RoundId,
    /// The global model after it.
    pub global: &'a GlobalModel,
    /// What the strategy remembers.
    pub strategy: &'a [u8],
    /// What is under way past the round's end: empty where the server waits for all.
    pub in_flight: &'a [u8],
    /// What the round's clients remember after it.
    pub memories: &'a NewMemories,
}

/// Keeps what rounds leave behind. A round counts as stored once its rows are appended (invariant C-1).
pub trait RunStore: Send + 'static {
    /// Stores the state after a round, what its clients remember included: first, so that rows are never ahead of their
    /// checkpoint.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if it cannot be stored; the run ends, and everything stored before stays readable.
    fn checkpoint(&mut self, state: StateAfter<'_>) -> PortResult<()>;

    /// Appends the round's row and its clients' rows, as one.
    ///
    /// # Errors
    ///
    /// As [`RunStore::checkpoint`].
    fn append(&mut self, record: &RoundRecord, clients: &[ClientRecord]) -> PortResult<()>;
}

/// Listens to what happens, as it happens: metrics, progress bars, logs. Must be quick.
pub trait Observer: Send + Sync + 'static {
    /// One thing has happened.
    fn observe(&self, event: &crate::records::RoundEvent);
}
