//! The federated algorithm: what it asks of clients, what they answer, what either side remembers.

use std::{collections::BTreeMap, sync::Arc};

use super::{PortError, PortResult};
use crate::protocol::{
    Adapter, ClientId, ClientUpdate, Factor, GlobalModel, LocalTraining, Payload, RoundId, TurnEnd, names,
};

/// The server's side of a federated algorithm.
pub trait Strategy: Send + 'static {
    /// Its name in scenarios and records.
    fn name(&self) -> &'static str;

    /// What the clients of `round` are sent beside `global`, the model that they start from.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if there is nothing to send; no client then trains.
    fn instructions(&self, round: RoundId, global: &GlobalModel) -> PortResult<Payload> {
        let _ = (round, global);
        Ok(Payload::default())
    }

    /// Combines the accepted updates, which come in [`ClientId`] order, into the next global model:
    /// a trainable adapter of the same layout, on what the strategy leaves frozen.
    ///
    /// # Errors
    ///
    /// [`PortError::Failed`] if the updates cannot be combined; the global model then stays as it was.
    fn aggregate(&mut self, round: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel>;

    /// Whether the numbers of the trainable adapter mean the same in the next round as in this one, so that the length of its
    /// change says how far the model has moved.
    fn keeps_basis(&self) -> bool {
        true
    }

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
    pub instructions: &'a Payload,
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
    /// What stays as it was sent, if only the other factor is trained.
    pub fixed: Option<Factor>,
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
        let proximal_mu = start.instructions.number(names::PROXIMAL_MU).unwrap_or(0.0);
        let fixed = start.instructions.number(names::FIXED_FACTOR).and_then(Factor::from_number);
        Ok(LocalCorrection { proximal_mu, drift: None, fixed })
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
