//! Rows and training that misbehave on demand.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use rand_chacha::rand_core::Rng;

use super::{Conduct, adapter, layout_of_rank, lock};
use crate::{
    cancel::CancelFlag,
    ports::{ClientRows, LocalTrainer, LocalTraining, PortResult, TrainTask},
    protocol::{ChatRow, ClientId, RoundId, RowLabel, TrainRows},
    streams::{Purpose, stream},
};

/// Rows without content: as many for each client, every fourth labelled unsafe. Counts those that are still held.
#[derive(Debug, Default)]
pub struct FakeRows {
    per_client: u32,
    all_unsafe: bool,
    fetched: AtomicU32,
    /// Every answer that may still be held by somebody.
    held: Mutex<Vec<Weak<[ChatRow]>>>,
    peak_held: AtomicUsize,
}

impl FakeRows {
    /// So many rows for each client, and whether all of them are unsafe.
    pub fn new(per_client: u32, all_unsafe: bool) -> Self {
        Self { per_client, all_unsafe, ..Self::default() }
    }

    /// How often rows were asked for.
    pub fn fetched(&self) -> u32 {
        self.fetched.load(Ordering::SeqCst)
    }

    /// How many clients' rows were in memory at once, at most.
    pub fn peak_held(&self) -> usize {
        self.peak_held.load(Ordering::SeqCst)
    }
}

impl ClientRows for FakeRows {
    fn rows(&self, client: ClientId) -> PortResult<Arc<[ChatRow]>> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let row = |index| {
            let mut row = ChatRow::single_turn(format!("question {index} of {client}"), "answer");
            let is_unsafe = self.all_unsafe || index % 4 == 3;
            row.label = Some(if is_unsafe { RowLabel::Unsafe } else { RowLabel::Safe });
            row
        };
        let rows: Arc<[ChatRow]> = (0..self.per_client).map(row).collect();
        let mut held = lock(&self.held);
        held.retain(|rows| rows.strong_count() > 0);
        held.push(Arc::downgrade(&rows));
        self.peak_held.fetch_max(held.len(), Ordering::SeqCst);
        Ok(rows)
    }
}

/// How a trainer treats a client in a round when called for the n-th time, from 1.
pub type TrainerConduct = dyn Fn(ClientId, RoundId, u32) -> Conduct + Send + Sync;

/// Adds numbers to the adapter that depend on client and round alone.
pub struct FakeTrainer {
    conduct: Box<TrainerConduct>,
    calls: Mutex<BTreeMap<(ClientId, RoundId), u32>>,
    at_work: AtomicUsize,
    peak: AtomicUsize,
    unsafe_rows: AtomicU32,
    responses: Mutex<BTreeMap<String, u32>>,
}

impl FakeTrainer {
    /// A trainer that behaves as told.
    pub fn new(conduct: impl Fn(ClientId, RoundId, u32) -> Conduct + Send + Sync + 'static) -> Self {
        Self {
            conduct: Box::new(conduct),
            calls: Mutex::default(),
            at_work: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            unsafe_rows: AtomicU32::new(0),
            responses: Mutex::default(),
        }
    }

    /// How many were at work at once, at most.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// How many are at work now.
    pub fn at_work(&self) -> usize {
        self.at_work.load(Ordering::SeqCst)
    }

    /// How often each client was trained in each round.
    pub fn calls(&self) -> BTreeMap<(ClientId, RoundId), u32> {
        lock(&self.calls).clone()
    }

    /// How many rows labelled unsafe it was given.
    pub fn unsafe_rows(&self) -> u32 {
        self.unsafe_rows.load(Ordering::SeqCst)
    }

    /// How often it was given each response.
    pub fn responses(&self) -> BTreeMap<String, u32> {
        lock(&self.responses).clone()
    }

    fn train_as(
        conduct: Conduct,
        task: &TrainTask,
        rows: &TrainRows,
        cancel: &CancelFlag,
    ) -> PortResult<LocalTraining> {
        conduct.act(cancel)?;
        let mut noise = stream(7, Purpose::BatchOrder, task.round, Some(task.client));
        let mut step = || (noise.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
        let global = task.global.trainable();
        let layout = if conduct == Conduct::WrongShape { layout_of_rank(2) } else { Arc::clone(global.layout()) };
        let drift = |index| task.correction.drift.as_ref().map_or(0.0, |drift| 0.25 * drift[index]);
        let trained = adapter(&layout, |index| match conduct {
            Conduct::NotFinite if index == 5 => f32::NAN,
            _ => global.values().get(index).map_or(0.0, |value| value - drift(index)) + step(),
        });
        Ok(LocalTraining {
            adapter: trained,
            n_examples: rows.weight_sum(),
            steps: 2,
            tokens: 10 * rows.rows().len() as u64,
            learning_rate_sum: 0.5,
            mean_loss: 1.5,
            seconds: 0.0,
            reused: false,
        })
    }
}

impl LocalTrainer for FakeTrainer {
    fn train(&self, task: &TrainTask, rows: &TrainRows, cancel: &CancelFlag) -> PortResult<LocalTraining> {
        let call = {
            let mut calls = lock(&self.calls);
            let call = calls.entry((task.client, task.round)).or_insert(0);
            *call += 1;
            *call
        };
        let unsafe_rows = rows.rows().iter().filter(|row| row.label == Some(RowLabel::Unsafe)).count() as u32;
        self.unsafe_rows.fetch_add(unsafe_rows, Ordering::SeqCst);
        for response in rows.rows().iter().filter_map(ChatRow::response) {
            *lock(&self.responses).entry(response.to_owned()).or_insert(0) += 1;
        }
        let at_work = AtWork::begin(&self.at_work);
        self.peak.fetch_max(at_work.now, Ordering::SeqCst);
        Self::train_as((self.conduct)(task.client, task.round, call), task, rows, cancel)
    }
}

/// Counts who is at work, also past a panic.
struct AtWork<'a> {
    count: &'a AtomicUsize,
    now: usize,
}

impl<'a> AtWork<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        Self { count, now: count.fetch_add(1, Ordering::SeqCst) + 1 }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}
