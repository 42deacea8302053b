//! What the coordinator asks the server's other actors, and their answers.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Adapter, ClientId, ClientUpdate, GlobalModel, Payload, RequestId, RoundId};
use crate::{
    ports::EvaluationScope,
    records::{ClientRecord, RejectReason, RoundRecord},
};

/// To the aggregator: what are this round's clients to be sent?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstructOrder {
    /// The round that asks.
    pub id: RequestId,
    /// The model that clients start from.
    pub global: GlobalModel,
    /// The strategy whose instructions are asked for.
    pub strategy: StrategyState,
}

/// To the aggregator: which of these updates may enter the global adapter?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScreenOrder {
    /// The round that asks.
    pub id: RequestId,
    /// The adapter that the updates started from.
    pub global: Adapter,
    /// The updates, in order of client.
    pub updates: Vec<ClientUpdate>,
}

/// What the check of one update says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScreenedUpdate {
    /// Euclidean norm of the update's delta as it was sent, if it could be measured.
    pub delta_norm: Option<f64>,
    /// What enters the aggregation, or why nothing does.
    pub verdict: Result<Admitted, RejectReason>,
}

/// What enters the aggregation of an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Admitted {
    /// Its adapter.
    pub adapter: Adapter,
    /// What came beside it, scaled down as its delta was.
    pub extras: Payload,
    /// The norm that its delta was scaled down to, if it was.
    pub clipped_to: Option<f64>,
    /// What its aggregation weight is multiplied by, if the screen weighed it.
    pub trust: Option<f64>,
}

/// To the aggregator: what is the next global adapter?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AggregateOrder {
    /// The round that asks.
    pub id: RequestId,
    /// The fewest updates that are combined.
    pub quorum: u32,
    /// The model that the updates started from.
    pub global: GlobalModel,
    /// The strategy's state to go on from.
    pub strategy: StrategyState,
    /// Screened, in order of client.
    pub updates: Vec<ClientUpdate>,
}

/// What a strategy remembers, as of the end of a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrategyState {
    /// The last round that it has seen.
    pub after: RoundId,
    /// As the strategy itself wrote it; empty before it has seen any round.
    #[serde(with = "super::wire::bytes")]
    pub bytes: Arc<[u8]>,
}

/// What came of combining updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Aggregation {
    /// The global adapter moves on.
    Done {
        /// The next global model.
        global: GlobalModel,
        /// What the strategy remembers of it.
        strategy: StrategyState,
        /// Euclidean norm of the change of its trainable adapter, where that is a length.
        update_norm: Option<f64>,
        /// What the strategy says of itself, by name.
        report: BTreeMap<String, f64>,
    },
    /// There were too few updates.
    BelowQuorum {
        /// How many there were.
        accepted: u32,
        /// How many were needed.
        quorum: u32,
    },
    /// The updates could not be combined; in words, why.
    Failed(String),
}

/// To the Constitutional AI actor: realign the adapter that comes out of this round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealignOrder {
    /// The round that asks.
    pub id: RequestId,
    /// The aggregated model.
    pub global: GlobalModel,
}

/// To the evaluator: measure the adapter that comes out of this round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluateOrder {
    /// The round that asks.
    pub id: RequestId,
    /// The model that the round leaves.
    pub global: GlobalModel,
    /// How thoroughly.
    pub scope: EvaluationScope,
}

/// To the checkpointer: store what a round leaves behind, and answer with the record as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitOrder {
    /// The round that ends.
    pub id: RequestId,
    /// The model that it leaves.
    pub global: GlobalModel,
    /// The strategy's state that goes with it.
    pub strategy: StrategyState,
    /// What is under way past the round's end, as the transport wrote it.
    #[serde(with = "super::wire::bytes")]
    pub in_flight: Arc<[u8]>,
    /// What clients remember after the round: nothing new unless it is committed.
    #[serde(with = "super::wire::bytes_of_clients")]
    pub memories: Vec<(ClientId, Arc<[u8]>)>,
    /// Complete but for the hash of the adapter and the seconds of the commit.
    pub record: Box<RoundRecord>,
    /// The rows of its clients.
    pub clients: Vec<ClientRecord>,
}
