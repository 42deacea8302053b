//! The federated algorithm: what it asks of clients, what they answer, what either side remembers.

use std::{collections::BTreeMap, sync::Arc};

use super::{LocalTraining, PortError, PortResult};
use crate::protocol::{Adapter, AdapterDelta, ClientId, RoundId};

/// What the server sends every client of a cohort beside the global adapter: plain data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instructions {
    /// Strength μ of the pull to the global adapter while a client trains; 0 is none.
    pub proximal_mu: f64,
    /// The server's control variate, if the algorithm has one and has moved it.
    pub control: Option<Adapter>,
}

impl Instructions {
    /// Size of its vectors on the wire, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.control.as_ref().map_or(0, Adapter::size_bytes)
    }
}

/// What a client sends beside its adapter: plain data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// By how much its control variate has moved, if the algorithm has one.
    pub control_delta: Option<AdapterDelta>,
}

impl Extras {
    /// Size of its vectors on the wire, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.control_delta.as_ref().map_or(0, Adapter::size_bytes)
    }

    /// The same with each of its vectors changed.
    pub(crate) fn map(&self, change: impl Fn(&Adapter) -> Adapter) -> Self {
        Self { control_delta: self.control_delta.as_ref().map(change) }
    }

    /// Its vectors: checked as strictly as adapters (invariants ).
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &Adapter> {
        self.control_delta.iter()
    }
}

/// What a client sends back: its adapter and what it says of its training.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientUpdate {
    /// Who trained.
    pub client: ClientId,
    /// The adapter after local training.
    pub adapter: Adapter,
    /// Rows that it trained on, each counted by its weight: the aggregation weight of FedAvg.
    pub n_examples: f64,
    /// What its algorithm adds.
    pub extras: Extras,
}

/// The server's side of a federated algorithm.
pub trait Strategy: Send + 'static {
    /// Its name in scenarios and records.
    fn name(&self) -> &'static str;

    /// What the clients of `round` are sent beside `global`, the adapter that they start from.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if there is nothing to send; no client then trains.
    fn instructions(&self, round: RoundId, global: &Adapter) -> PortResult<Instructions> {
        let _ = (round, global);
        Ok(Instructions::default())
    }

    /// Combines the accepted updates, which come in [`ClientId`] order, into the next global adapter.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if the updates cannot be combined; the global adapter then stays as it was.
    fn aggregate(&mut self, round: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter>;

    /// What the strategy must remember between rounds; stored with each checkpoint. Empty for stateless strategies.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes up a state that [`Strategy::state`] gave.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if the bytes are not a state of this strategy.
    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        if state.is_empty() {
            Ok(())
        } else {
            Err(PortError::Failed(format!("{} keeps no state, found {} bytes", self.name(), state.len())))
        }
    }

    /// What the strategy says of itself after an aggregation, by name: for the round's row.
    fn report(&self) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }
}

/// What a client has in its hands when its turn begins.
#[derive(Clone, Copy, Debug)]
pub struct TurnStart<'a> {
    /// The adapter to start from.
    pub global: &'a Adapter,
    /// What the server says.
    pub instructions: &'a Instructions,
    /// What the client remembers of its last turn that counted; `None` before the first.
    pub memory: Option<&'a [u8]>,
}

/// How local training departs from plain fine-tuning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalCorrection {
    /// Strength μ of the pull to the adapter started from: the loss gains μ/2 · ‖w − start‖².
    pub proximal_mu: f64,
    /// Subtracted times the learning rate after each step; one number for each of the adapter's.
    pub drift: Option<Arc<Vec<f32>>>,
}

/// What a turn leaves beside the trained adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnEnd {
    /// What the client sends.
    pub extras: Extras,
    /// What the client remembers, if the round takes its update and is committed (invariants R-3, C-1).
    pub memory: Option<Arc<[u8]>>,
}

/// The clients' side of a federated algorithm. The defaults are those of an algorithm without one.
pub trait ClientAlgorithm: Send + Sync + 'static {
    /// Whether clients remember anything between turns.
    fn keeps_memory(&self) -> bool {
        false
    }

    /// What local training has to heed.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if instructions and memory do not fit together; the client then drops out.
    fn correction(&self, start: TurnStart<'_>) -> PortResult<LocalCorrection> {
        Ok(LocalCorrection { proximal_mu: start.instructions.proximal_mu, drift: None })
    }

    /// What the client sends and remembers after training.
    ///
    /// # Errors
    ///
    /// As [`ClientAlgorithm::correction`].
    fn conclude(&self, start: TurnStart<'_>, training: &LocalTraining) -> PortResult<TurnEnd> {
        let _ = (start, training);
        Ok(TurnEnd::default())
    }
}

/// Clients that do nothing beside training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlainClients;

impl ClientAlgorithm for PlainClients {}

/// What clients remember: read in a client's turn, written by the store with the round that it belongs to.
pub trait ClientMemories: Send + Sync + 'static {
    /// What `client` remembered after `round`; `None` if no update of it had counted by then.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if it cannot be read; the client then drops out of its turn.
    fn memory(&self, client: ClientId, round: RoundId) -> PortResult<Option<Arc<[u8]>>>;
}

/// What a round's clients remember after it, in order of client.
pub type NewMemories = [(ClientId, Arc<[u8]>)];
