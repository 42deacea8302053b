//! What a run leaves behind, in memory: its state, its rows and its events.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{lock, memory::Readings};
use crate::{
    federation::StartState,
    ports::{Observer, PortError, PortResult, RunStore, StateAfter},
    protocol::{ClientId, RoundId},
    records::{ClientRecord, RoundEvent, RoundRecord},
};

/// What a [`MemoryStore`] holds.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// State after each round, as checkpointed.
    pub checkpoints: Vec<StartState>,
    /// Rows of the rounds.
    pub rounds: Vec<RoundRecord>,
    /// Rows of the clients.
    pub clients: Vec<ClientRecord>,
    /// What clients remembered after rounds that took them in.
    pub memories: BTreeMap<(ClientId, RoundId), Arc<[u8]>>,
}

/// A run store in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    pub(super) stored: Arc<Mutex<Stored>>,
    pub(super) readings: Arc<Readings>,
    /// The round whose checkpoint fails, if any.
    pub fails_in: Option<RoundId>,
    /// How long a checkpoint takes.
    pub checkpoint_takes: Duration,
}

impl MemoryStore {
    /// What it holds now.
    pub fn stored(&self) -> Stored {
        lock(&self.stored).clone()
    }
}

impl RunStore for MemoryStore {
    fn checkpoint(&mut self, state: StateAfter<'_>) -> PortResult<()> {
        let StateAfter { round, global, strategy, in_flight, memories } = state;
        if self.fails_in == Some(round) {
            return Err(PortError::Failed("no space left".to_owned()));
        }
        thread::sleep(self.checkpoint_takes);
        let state = StartState {
            round,
            global: global.clone(),
            strategy_state: strategy.to_vec(),
            in_flight: in_flight.to_vec(),
        };
        let mut stored = lock(&self.stored);
        stored.memories.extend(memories.iter().map(|(client, memory)| ((*client, round), Arc::clone(memory))));
        stored.checkpoints.push(state);
        Ok(())
    }

    fn append(&mut self, record: &RoundRecord, clients: &[ClientRecord]) -> PortResult<()> {
        let mut stored = lock(&self.stored);
        stored.rounds.push(record.clone());
        stored.clients.extend_from_slice(clients);
        Ok(())
    }
}

/// Keeps every event; clones share it.
#[derive(Clone, Debug, Default)]
pub struct EventLog(Arc<Mutex<Vec<RoundEvent>>>);

impl EventLog {
    /// The events so far.
    pub fn events(&self) -> Vec<RoundEvent> {
        lock(&self.0).clone()
    }

    /// How many actors of a kind were started again.
    pub fn restarts(&self, kind: &str) -> usize {
        let is_restart = |event: &&RoundEvent| matches!(event, RoundEvent::ActorRestarted { kind: of } if *of == kind);
        lock(&self.0).iter().filter(is_restart).count()
    }
}

impl Observer for EventLog {
    fn observe(&self, event: &RoundEvent) {
        lock(&self.0).push(event.clone());
    }
}
