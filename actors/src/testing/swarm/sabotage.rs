//! Deliberate bugs, one per invariant, to show that each predicate can fail.
//!
//! They are in the ports around the round rather than in the round: a store that loses rows, a strategy that receives updates twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{
    super::{MemoryStore, layout_of_rank, lock},
    watch::Watch,
};
use crate::{
    ports::{ClientRows, ClientUpdate, PortResult, RunStore, StateAfter, Strategy},
    predicates::Invariant,
    protocol::{Adapter, ChatRow, ClientId, GlobalModel, Payload, RoundId, TrainRows},
    records::{ClientRecord, RoundOutcome, RoundRecord},
};

/// Deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The store loses a client's row.
    LosesAClient,
    /// The strategy receives an update twice.
    CountsTwice,
    /// The store changes the adapter of an uncommitted round.
    MovesUncommitted,
    /// The store writes an adapter of another layout.
    ChangesLayout,
    /// The store writes a value that is not finite.
    StoresNotFinite,
    /// The strategy receives longer deltas than the screen let in.
    LengthensDeltas,
    /// The trainer adds a row that no guard has assessed.
    TrainsUnscreened,
    /// The guard computes each verdict twice.
    AssessesTwice,
    /// Early replies weigh more.
    TakesInOrderOfArrival,
    /// Checkpoints lack the strategy's state.
    ForgetsState,
    /// The store drops faults from client rows.
    HidesFaults,
    /// Rows stay in memory.
    HoardsRows,
}

impl Sabotage {
    /// All deliberate bugs, in the order of [`Invariant::ALL`].
    pub const ALL: [Self; 12] = [
        Self::LosesAClient,
        Self::CountsTwice,
        Self::MovesUncommitted,
        Self::ChangesLayout,
        Self::StoresNotFinite,
        Self::LengthensDeltas,
        Self::TrainsUnscreened,
        Self::AssessesTwice,
        Self::TakesInOrderOfArrival,
        Self::ForgetsState,
        Self::HidesFaults,
        Self::HoardsRows,
    ];

    /// Returns the deliberate bug that violates an invariant.
    pub const fn of(invariant: Invariant) -> Self {
        Self::ALL[invariant as usize]
    }
}

/// Run store with a deliberate bug.
pub(super) struct LosesInStore {
    pub(super) store: MemoryStore,
    pub(super) sabotage: Sabotage,
}

impl RunStore for LosesInStore {
    fn checkpoint(&mut self, state: StateAfter<'_>) -> PortResult<()> {
        let changed = match self.sabotage {
            Sabotage::ChangesLayout if state.round.0 > 1 => Some(Adapter::zeros(layout_of_rank(2)).into()),
            Sabotage::StoresNotFinite => Some(with_first(state.global, |_| f32::NAN)),
            _ => None,
        };
        let strategy = if self.sabotage == Sabotage::ForgetsState { &[] } else { state.strategy };
        self.store.checkpoint(StateAfter { global: changed.as_ref().unwrap_or(state.global), strategy, ..state })
    }

    fn append(&mut self, record: &RoundRecord, clients: &[ClientRecord]) -> PortResult<()> {
        let (mut record, mut clients) = (record.clone(), clients.to_vec());
        match self.sabotage {
            Sabotage::LosesAClient => drop(clients.pop()),
            Sabotage::HidesFaults => clients.iter_mut().for_each(|record| record.fault = None),
            Sabotage::MovesUncommitted if record.outcome != RoundOutcome::Committed => {
                if let Some(last) = lock(&self.store.stored).checkpoints.last_mut() {
                    last.global = with_first(&last.global, |value| value + 1.0);
                    record.adapter_sha256 = last.global.sha256();
                }
            }
            _ => {}
        }
        self.store.append(&record, &clients)
    }
}

/// Returns the model with the first value of its adapter changed.
fn with_first(global: &GlobalModel, change: impl Fn(f32) -> f32) -> GlobalModel {
    let adapter = global.trainable();
    let mut values = adapter.values().to_vec();
    values.iter_mut().take(1).for_each(|value| *value = change(*value));
    let changed = Adapter::new(Arc::clone(adapter.layout()), values).unwrap_or_else(|_| adapter.clone());
    global.with_trainable(changed)
}

/// Strategy that receives other updates than the accepted ones.
pub(super) struct Tampered {
    pub(super) inner: Box<dyn Strategy>,
    pub(super) watch: Watch,
    pub(super) sabotage: Sabotage,
}

impl Tampered {
    fn tamper(&self, round: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> Vec<ClientUpdate> {
        match self.sabotage {
            Sabotage::CountsTwice => updates.iter().take(1).chain(updates).cloned().collect(),
            Sabotage::LengthensDeltas => updates.iter().map(|update| lengthened(global, update)).collect(),
            Sabotage::TakesInOrderOfArrival => self.by_arrival(round, updates),
            _ => updates.to_vec(),
        }
    }

    /// Returns the updates with weights that decrease in order of arrival.
    fn by_arrival(&self, round: RoundId, updates: &[ClientUpdate]) -> Vec<ClientUpdate> {
        let seen = self.watch.seen();
        let done: Vec<ClientId> =
            seen.trained.iter().filter(|(of, _)| *of == round).map(|(_, client)| *client).collect();
        let weighed = updates.iter().map(|update| {
            let place = done.iter().position(|client| *client == update.client).unwrap_or(done.len());
            ClientUpdate { n_examples: update.n_examples / (1 + place) as f64, ..update.clone() }
        });
        weighed.collect()
    }
}

/// Returns the update with its delta doubled.
fn lengthened(global: &Adapter, update: &ClientUpdate) -> ClientUpdate {
    let numbers = global.values().iter().zip(update.adapter.values());
    let values = numbers.map(|(global, local)| 2.0 * local - global).collect();
    let adapter = Adapter::new(Arc::clone(global.layout()), values).unwrap_or_else(|_| global.clone());
    ClientUpdate { adapter, ..update.clone() }
}

impl Strategy for Tampered {
    fn name(&self) -> &'static str {
        "tampered"
    }

    fn instructions(&self, round: RoundId, global: &GlobalModel) -> PortResult<Payload> {
        self.inner.instructions(round, global)
    }

    fn aggregate(&mut self, round: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let tampered = self.tamper(round, global.trainable(), updates);
        self.inner.aggregate(round, global, &tampered)
    }

    fn state(&self) -> Vec<u8> {
        self.inner.state()
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        self.inner.restore(state)
    }

    fn report(&self) -> BTreeMap<String, f64> {
        self.inner.report()
    }
}

/// Row source that keeps all rows in memory.
pub(super) struct Hoards {
    inner: Arc<dyn ClientRows>,
    kept: Mutex<Vec<Arc<[ChatRow]>>>,
}

impl Hoards {
    pub(super) fn new(inner: Arc<dyn ClientRows>) -> Self {
        Self { inner, kept: Mutex::default() }
    }
}

impl ClientRows for Hoards {
    fn rows(&self, client: ClientId) -> PortResult<Arc<[ChatRow]>> {
        let rows = self.inner.rows(client)?;
        lock(&self.kept).push(Arc::clone(&rows));
        Ok(rows)
    }
}

/// Returns the rows with an additional one.
pub(super) fn with_own_row(rows: &TrainRows) -> TrainRows {
    let own = ChatRow::single_turn("a row of the trainer's own", "answer");
    TrainRows::new(rows.rows().iter().cloned().chain([own]).collect())
}
