//! What actors say to each other: plain data, every message of a round with the [`Ticket`] that it is about.
//!
//! The enums pair each question with the port for its answer. What they carry could cross a wire as it is: adapters, rows
//! and counts, whose sizes are known before sending. Nothing here behaves.

use std::{collections::BTreeMap, sync::Arc};

use ractor::RpcReplyPort;

use super::{Adapter, ChatRow, ClientId, RoundId, RowDigest, Ticket, Verdict};
use crate::{
    compute::Panicked,
    fanout::Address,
    faults::ClientFault,
    federation::{FederationError, FederationResult},
    ports::{
        ClientUpdate, Evaluation, EvaluationScope, Extras, Instructions, LocalTraining, PortResult, Realignment,
        TurnEnd,
    },
    records::{ClientRecord, DropReason, GuardCounts, RejectReason, RoundRecord},
};

/// To a client.
#[derive(Debug)]
pub(crate) enum ClientMessage {
    /// It is the client's turn to screen its rows and train.
    TakeTurn(TurnRequest, RpcReplyPort<ClientReport>),
    /// Nobody waits for this turn any more.
    Abandon(Ticket),
    /// From its own work: the turn is over.
    TurnOver(Ticket, Result<ClientReport, Panicked>),
}

/// What a client needs for its turn.
#[derive(Clone, Debug)]
pub(crate) struct TurnRequest {
    pub(crate) ticket: Ticket,
    pub(crate) parcel: Parcel,
}

/// What the server sends a client: the global adapter to start from, and what its strategy says.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) global: Adapter,
    pub(crate) instructions: Instructions,
}

/// What a client did in its turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClientReport {
    pub(crate) ticket: Ticket,
    pub(crate) client: ClientId,
    pub(crate) guard: GuardCounts,
    pub(crate) work: LocalWork,
    /// What was put in to go wrong, and did.
    pub(crate) fault: Option<ClientFault>,
}

/// What came of a client's turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LocalWork {
    /// It trained on what its guard left of its rows.
    Trained { training: LocalTraining, end: TurnEnd },
    /// It did not, for this reason.
    Dropped(DropReason),
}

/// To the guard.
#[derive(Debug)]
pub(crate) enum GuardMessage {
    /// Which of these rows are unsafe?
    Assess(AssessRequest, RpcReplyPort<Assessment>),
    /// From its own work: a batch is done.
    BatchDone(Arc<[RowDigest]>, Result<PortResult<()>, Panicked>),
}

/// A client's rows, shown to its guard alone.
#[derive(Clone, Debug)]
pub(crate) struct AssessRequest {
    pub(crate) ticket: Ticket,
    pub(crate) client: ClientId,
    pub(crate) rows: Arc<[ChatRow]>,
}

/// One verdict a row in the order of the rows, or in words why there are none.
pub(crate) type Assessment = Result<Vec<Verdict>, String>;

/// To the aggregator.
#[derive(Debug)]
pub(crate) enum AggregatorMessage {
    /// What are this round's clients to be sent?
    Instruct(InstructRequest, RpcReplyPort<Result<Instructions, String>>),
    /// Which of these updates may enter the global adapter?
    Screen(ScreenRequest, RpcReplyPort<Vec<ScreenedUpdate>>),
    /// What is the next global adapter?
    Aggregate(AggregateRequest, RpcReplyPort<Aggregation>),
}

/// The strategy whose instructions are asked for.
#[derive(Clone, Debug)]
pub(crate) struct InstructRequest {
    pub(crate) ticket: Ticket,
    pub(crate) global: Adapter,
    pub(crate) strategy: StrategyState,
}

/// Updates to check against the adapter that they started from.
#[derive(Clone, Debug)]
pub(crate) struct ScreenRequest {
    pub(crate) ticket: Ticket,
    pub(crate) global: Adapter,
    pub(crate) updates: Vec<ClientUpdate>,
}

/// What the check of one update says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScreenedUpdate {
    /// Euclidean norm of the update's delta as it was sent, if it could be measured.
    pub(crate) delta_norm: Option<f64>,
    /// What enters the aggregation, or why nothing does.
    pub(crate) verdict: Result<Admitted, RejectReason>,
}

/// What enters the aggregation of an update.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Admitted {
    pub(crate) adapter: Adapter,
    /// What came beside it, scaled down as its delta was.
    pub(crate) extras: Extras,
    /// The norm that its delta was scaled down to, if it was.
    pub(crate) clipped_to: Option<f64>,
}

/// Updates to combine.
#[derive(Clone, Debug)]
pub(crate) struct AggregateRequest {
    pub(crate) ticket: Ticket,
    pub(crate) quorum: u32,
    pub(crate) global: Adapter,
    pub(crate) strategy: StrategyState,
    /// Screened, in order of client.
    pub(crate) updates: Vec<ClientUpdate>,
}

/// What a strategy remembers, as of the end of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StrategyState {
    /// The last round that it has seen.
    pub(crate) after: RoundId,
    /// As the strategy itself wrote it; empty before it has seen any round.
    pub(crate) bytes: Arc<[u8]>,
}

/// What came of combining updates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Aggregation {
    /// The global adapter moves on.
    Done { global: Adapter, strategy: StrategyState, update_norm: f64, report: BTreeMap<String, f64> },
    /// There were too few updates.
    BelowQuorum { accepted: u32, quorum: u32 },
    /// The updates could not be combined; in words, why.
    Failed(String),
}

/// To the Constitutional AI actor: realign the adapter that comes out of this ticket's round.
#[derive(Debug)]
pub(crate) struct RealignRequest {
    pub(crate) ticket: Ticket,
    pub(crate) global: Adapter,
    pub(crate) reply: RpcReplyPort<PortResult<Realignment>>,
}

/// To the evaluator: measure the adapter that comes out of this ticket's round.
#[derive(Debug)]
pub(crate) struct EvaluateRequest {
    pub(crate) ticket: Ticket,
    pub(crate) global: Adapter,
    pub(crate) scope: EvaluationScope,
    pub(crate) reply: RpcReplyPort<PortResult<Evaluation>>,
}

/// To the archivist: store what a round leaves behind, and answer with the record as stored.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    pub(crate) ticket: Ticket,
    pub(crate) global: Adapter,
    pub(crate) strategy: StrategyState,
    /// What clients remember after the round: nothing new unless it is committed.
    pub(crate) memories: Vec<(ClientId, Arc<[u8]>)>,
    /// Complete but for the hash of the adapter and the seconds of the commit.
    pub(crate) record: Box<RoundRecord>,
    pub(crate) clients: Vec<ClientRecord>,
    pub(crate) reply: RpcReplyPort<PortResult<Box<RoundRecord>>>,
}

/// To the coordinator: run these rounds, first to last.
#[derive(Debug)]
pub(crate) struct RunRounds {
    pub(crate) rounds: Vec<RoundId>,
    pub(crate) reply: RpcReplyPort<Result<FederationResult, FederationError>>,
}

/// To the supervisor.
pub(crate) enum SupervisorMessage {
    /// Where can the server's actors be reached?
    Crew(RpcReplyPort<Crew>),
    /// Start the actors of this cohort, stop those of the last, and say where they can be reached.
    Muster(Vec<ClientId>, RpcReplyPort<Cohort>),
}

/// A round's clients in order of id, and where they can be reached.
pub(crate) type Cohort = Vec<(ClientId, Address<ClientMessage>)>;

/// Where the actors of the server can be reached.
#[derive(Clone)]
pub(crate) struct Crew {
    pub(crate) aggregator: Address<AggregatorMessage>,
    pub(crate) archivist: Address<CommitRequest>,
    /// If the run has Constitutional AI.
    pub(crate) cai: Option<Address<RealignRequest>>,
    /// If the run has benchmarks.
    pub(crate) evaluator: Option<Address<EvaluateRequest>>,
}
