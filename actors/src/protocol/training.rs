//! A client's task: the order that asks for it, the report that answers, and what is in them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Adapter, ChatRow, ClientId, GlobalModel, ModelVersion, Payload, RequestId, SimTime, Verdict};
use crate::{
    faults::ClientFault,
    records::{DropReason, GuardCounts},
};

/// To a client: filter your rows, train on what is left, report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOrder {
    /// What the report has to name.
    pub id: RequestId,
    /// Who is to train.
    pub client: ClientId,
    /// The version of the global model that is sent along.
    pub version: ModelVersion,
    /// When it is sent.
    pub at: SimTime,
    /// The model to start from.
    pub global: GlobalModel,
    /// What the strategy says beside it.
    pub instructions: Payload,
}

impl TrainOrder {
    /// Returns the size of its model and vectors, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.global.size_bytes() + self.instructions.size_bytes()
    }
}

/// From a client: what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// The order that it answers.
    pub id: RequestId,
    /// Who reports.
    pub client: ClientId,
    /// What the guard did with its rows.
    pub guard: GuardCounts,
    /// What came of it.
    pub work: LocalWork,
    /// What was put in to go wrong, and did.
    pub fault: Option<ClientFault>,
}

/// What came of a client's task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LocalWork {
    /// It trained on what its guard left of its rows.
    Trained {
        /// What training gave.
        training: LocalTraining,
        /// What the client's side of the algorithm adds.
        end: TurnEnd,
    },
    /// It did not, for this reason.
    Dropped(DropReason),
}

impl TrainReport {
    /// Returns the size of its adapter and vectors, in bytes.
    pub fn size_bytes(&self) -> u64 {
        match &self.work {
            LocalWork::Trained { training, end } => training.adapter.size_bytes() + end.extras.size_bytes(),
            LocalWork::Dropped(_) => 0,
        }
    }
}

/// What local training gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalTraining {
    /// The adapter after training.
    pub adapter: Adapter,
    /// The weights of the rows that had a response to learn from, added up: their number where all weigh the same.
    pub n_examples: f64,
    /// Optimizer steps done.
    pub steps: u32,
    /// Tokens trained on (forward and backward; padding not counted).
    pub tokens: u64,
    /// Learning rates of all steps, added up: steps times the rate where it is constant.
    pub learning_rate_sum: f64,
    /// Mean loss over the steps, as the rows weigh.
    pub mean_loss: f64,
    /// Seconds spent on it, on whatever clock the trainer has; 0 if it was reused.
    pub seconds: f64,
    /// Whether the same training had been done before and its result was taken instead of computed.
    pub reused: bool,
}

/// What a turn leaves beside the trained adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnEnd {
    /// What the client sends.
    pub extras: Payload,
    /// What the client remembers, if the round takes its update and is committed (invariants R-3, C-1).
    #[serde(with = "super::wire::optional_bytes")]
    pub memory: Option<Arc<[u8]>>,
}

/// What a client sends back: its adapter and what it says of its training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientUpdate {
    /// Who trained.
    pub client: ClientId,
    /// The adapter after local training.
    pub adapter: Adapter,
    /// Rows that it trained on, each counted by its weight: the aggregation weight of FedAvg.
    pub n_examples: f64,
    /// What the update screen multiplies its aggregation weight by, from 0 to 1; 1 where none weighs.
    pub trust: f64,
    /// What its algorithm adds.
    pub extras: Payload,
}

/// A client's rows, shown to its guard alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssessOrder {
    /// The client's task that asks.
    pub id: RequestId,
    /// Whose rows.
    pub client: ClientId,
    /// The rows.
    pub rows: Arc<[ChatRow]>,
}

/// One verdict per row in the order of the rows, or in words why there are none.
pub type Assessment = Result<Vec<Verdict>, String>;
