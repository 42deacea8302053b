//! A federated algorithm whose clients remember, in fakes: what they remember moves the global adapter, so a run that
//! mixes memories up ends elsewhere.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Conduct, MemoryStore, adapter, lock, strategies::weighted_mean};
use crate::{
    cancel::CancelFlag,
    ports::{
        ClientAlgorithm, ClientMemories, ClientUpdate, LocalCorrection, LocalTraining, PortError, PortResult, Strategy,
        TurnEnd, TurnStart,
    },
    protocol::{Adapter, ClientId, GlobalModel, Payload, RoundId, names},
};

/// Numbers as bytes.
fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Clients that remember half of what they remembered and all of what they have just learnt, and send by how much that
/// moved.
#[derive(Clone, Copy, Debug)]
pub struct RememberingClients;

impl RememberingClients {
    fn memory(start: TurnStart<'_>) -> Vec<f32> {
        start.memory.map_or_else(|| vec![0.0; start.global.values().len()], from_bytes)
    }
}

impl ClientAlgorithm for RememberingClients {
    fn keeps_memory(&self) -> bool {
        true
    }

    fn correction(&self, start: TurnStart<'_>) -> PortResult<LocalCorrection> {
        let control = start.instructions.vector(names::CONTROL).map(Adapter::values);
        let memory = Self::memory(start);
        let drift = (0..memory.len()).map(|index| control.map_or(0.0, |control| control[index]) - memory[index]);
        Ok(LocalCorrection { drift: Some(Arc::new(drift.collect())), ..LocalCorrection::default() })
    }

    fn conclude(&self, start: TurnStart<'_>, training: &LocalTraining) -> PortResult<TurnEnd> {
        let before = Self::memory(start);
        let learnt = training.adapter.values().iter().zip(start.global.values()).map(|(local, global)| local - global);
        let after: Vec<f32> = before.iter().zip(learnt).map(|(before, learnt)| before / 2.0 + learnt).collect();
        let delta = adapter(start.global.layout(), |index| after[index] - before[index]);
        let extras = Payload::default().with_vector(names::CONTROL_DELTA, delta);
        Ok(TurnEnd { extras, memory: Some(to_bytes(&after).into()) })
    }
}

/// The weighted mean, pushed by the sum of what clients say has moved; misbehaves in given rounds.
pub struct PushedMean {
    pub(super) control: Vec<f32>,
    pub(super) conduct: Arc<dyn Fn(RoundId) -> Conduct + Send + Sync>,
}

impl Strategy for PushedMean {
    fn name(&self) -> &'static str {
        "pushed mean"
    }

    fn instructions(&self, round: RoundId, global: &GlobalModel) -> PortResult<Payload> {
        if (self.conduct)(round) == Conduct::WrongShape {
            return Err(PortError::Failed("rehearsed silence".to_owned()));
        }
        let instructions = Payload::default();
        if self.control.is_empty() {
            return Ok(instructions);
        }
        Ok(instructions.with_vector(names::CONTROL, adapter(global.trainable().layout(), |index| self.control[index])))
    }

    fn aggregate(&mut self, round: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let mean = weighted_mean(global.trainable(), updates)?;
        self.control.resize(mean.values().len(), 0.0);
        for delta in updates.iter().filter_map(|update| update.extras.vector(names::CONTROL_DELTA)) {
            for (control, &delta) in self.control.iter_mut().zip(delta.values()) {
                *control += delta / 8.0;
            }
        }
        (self.conduct)(round).act(&CancelFlag::new())?;
        let pushed = adapter(mean.layout(), |index| mean.values()[index] + self.control[index] / 16.0);
        Ok(global.with_trainable(pushed))
    }

    fn state(&self) -> Vec<u8> {
        to_bytes(&self.control)
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        self.control = from_bytes(state);
        Ok(())
    }

    fn report(&self) -> BTreeMap<String, f64> {
        let squares = self.control.iter().map(|&value| f64::from(value).powi(2));
        BTreeMap::from([("control_norm".to_owned(), squares.sum::<f64>().sqrt())])
    }
}

/// Counts what is read of a store and how much of it is held at once.
#[derive(Debug, Default)]
pub(super) struct Readings {
    held: Mutex<Vec<Weak<[u8]>>>,
    read: AtomicUsize,
    peak: AtomicUsize,
}

impl MemoryStore {
    /// How often clients' memories were read, and how many of them were held at once, at most.
    pub fn memories_read(&self) -> (usize, usize) {
        (self.readings.read.load(Ordering::SeqCst), self.readings.peak.load(Ordering::SeqCst))
    }

    /// A store that holds nothing but what clients remembered after `round`.
    #[must_use]
    pub fn memories_after(&self, round: RoundId) -> Self {
        let store = Self::default();
        lock(&store.stored).memories = lock(&self.stored)
            .memories
            .iter()
            .filter(|((_, of), _)| *of <= round)
            .map(|(k, v)| (*k, v.clone()))
            .collect();
        store
    }
}

impl ClientMemories for MemoryStore {
    fn memory(&self, client: ClientId, round: RoundId) -> PortResult<Option<Arc<[u8]>>> {
        self.readings.read.fetch_add(1, Ordering::SeqCst);
        let stored = lock(&self.stored);
        let last = stored.memories.range((client, RoundId::START)..=(client, round)).next_back();
        Ok(last.map(|(_, memory)| {
            let memory: Arc<[u8]> = Arc::from(&**memory);
            let mut held = lock(&self.readings.held);
            held.retain(|memory| memory.strong_count() > 0);
            held.push(Arc::downgrade(&memory));
            self.readings.peak.fetch_max(held.len(), Ordering::SeqCst);
            memory
        }))
    }
}
