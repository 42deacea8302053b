//! Fake ports: a federation without a model, to test the round and to measure what orchestration costs.
//!
//! Every fake is deterministic in what it computes and misbehaves on demand. A [`Rehearsal`] holds one of each.

mod memory;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

use crate::{
    cancel::CancelFlag,
    federation::{
        FederationConfig, FederationError, FederationResult, Ports, Schedule, StartState, StrategyFactory,
        run_federation,
    },
    policy::{Assessed, GuardPolicy, RowGuard},
    ports::{
        BenchmarkScore, Benchmarks, Candidate, ClientAlgorithm, ClientRows, ClientUpdate, Evaluation, EvaluationScope,
        GuardModel, Judgement, LocalTrainer, LocalTraining, NewMemories, Observer, PlainClients, PortError, PortResult,
        Realigner, Realignment, RealignmentReport, RunStore, Strategy, TrainTask, UpdateScreen,
    },
    protocol::{Adapter, AdapterLayout, ChatRow, ClientId, RoundId, RowDigest, RowLabel, TrainRows, Verdict},
    records::{ClientRecord, RoundEvent, RoundRecord},
    sampler::CohortSampler,
    streams::{Purpose, stream},
};

pub use memory::{PushedMean, RememberingClients};

use memory::Readings;

/// How often a fake that waits looks at its cancel flag.
const POLL: Duration = Duration::from_millis(1);

/// Numbers that one thread combines at a time.
const CHUNK: usize = 1 << 14;

/// How a fake port behaves in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Does its work.
    Honest,
    /// Does its work after this long.
    Slow(Duration),
    /// Gives an error.
    Fails,
    /// Panics.
    Panics,
    /// Never ends, but heeds its cancel flag.
    Hangs,
    /// Heeds not even its cancel flag, for this long.
    Deaf(Duration),
    /// Gives a value that is not finite: a trainer and a strategy an adapter, a guard a probability.
    NotFinite,
    /// Gives something of the wrong shape: a trainer an adapter of another layout, a guard too few verdicts.
    WrongShape,
}

impl Conduct {
    /// Waits, fails or panics, as the conduct asks.
    fn act(self, cancel: &CancelFlag) -> PortResult<()> {
        match self {
            Self::Honest | Self::NotFinite | Self::WrongShape => {}
            Self::Slow(delay) | Self::Deaf(delay) => thread::sleep(delay),
            Self::Fails => return Err(PortError::Failed("rehearsed failure".to_owned())),
            // Without the panic hook: a rehearsed panic should not fill the terminal.
            Self::Panics => std::panic::resume_unwind(Box::new("rehearsed panic")),
            Self::Hangs => {
                while !cancel.is_cancelled() {
                    thread::sleep(POLL);
                }
            }
        }
        if cancel.is_cancelled() { Err(PortError::Cancelled) } else { Ok(()) }
    }
}

/// An adapter layout of one target: 8 numbers.
pub fn tiny_layout() -> Arc<AdapterLayout> {
    layout_of_rank(1)
}

/// An adapter layout of one target of 4 by 4, with the given rank.
pub fn layout_of_rank(rank: usize) -> Arc<AdapterLayout> {
    let name = |matrix| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{matrix}.weight");
    Arc::new(AdapterLayout::new([(name('A'), [rank, 4]), (name('B'), [4, rank])]))
}

fn adapter(layout: &Arc<AdapterLayout>, value: impl FnMut(usize) -> f32) -> Adapter {
    let values = (0..layout.len()).map(value).collect();
    Adapter::new(Arc::clone(layout), values).unwrap_or_else(|_| Adapter::zeros(Arc::clone(layout)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        let layout = if conduct == Conduct::WrongShape { layout_of_rank(2) } else { Arc::clone(task.global.layout()) };
        let drift = |index| task.correction.drift.as_ref().map_or(0.0, |drift| 0.25 * drift[index]);
        let trained = adapter(&layout, |index| match conduct {
            Conduct::NotFinite if index == 5 => f32::NAN,
            _ => task.global.values().get(index).map_or(0.0, |value| value - drift(index)) + step(),
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

/// Knows every label, and remembers how often it was asked for each row.
pub struct FakeGuard {
    conduct: Box<dyn Fn(u32) -> Conduct + Send + Sync>,
    calls: AtomicU32,
    assessed: Mutex<BTreeMap<RowDigest, u32>>,
}

impl FakeGuard {
    /// A guard that behaves as told in its n-th call, from 1.
    pub fn new(conduct: impl Fn(u32) -> Conduct + Send + Sync + 'static) -> Self {
        Self { conduct: Box::new(conduct), calls: AtomicU32::new(0), assessed: Mutex::default() }
    }

    /// How often a verdict was computed for each row.
    pub fn assessed(&self) -> BTreeMap<RowDigest, u32> {
        lock(&self.assessed).clone()
    }
}

impl GuardModel for FakeGuard {
    fn version(&self) -> &'static str {
        "fake-1"
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let conduct = (self.conduct)(self.calls.fetch_add(1, Ordering::SeqCst) + 1);
        conduct.act(cancel)?;
        let mut assessed = lock(&self.assessed);
        let verdict = |row: &ChatRow| {
            *assessed.entry(row.digest()).or_insert(0) += 1;
            let is_unsafe = row.label == Some(RowLabel::Unsafe);
            let unsafe_probability =
                if conduct == Conduct::NotFinite { f32::NAN } else { f32::from(u8::from(is_unsafe)) };
            Verdict { unsafe_probability, is_unsafe, hazards: Vec::new(), is_malformed: false }
        };
        let shown = rows.len() - usize::from(conduct == Conduct::WrongShape);
        Ok(rows[..shown].iter().map(verdict).collect())
    }
}

/// Clips every delta that is longer than its bound, or misbehaves.
#[derive(Debug)]
pub struct FakeScreen {
    /// The longest delta that it keeps.
    pub bound: f64,
    /// Clients that it refuses.
    pub refused: Vec<ClientId>,
    /// How it behaves.
    pub conduct: Conduct,
}

impl UpdateScreen for FakeScreen {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn judge(
        &self,
        _: RoundId,
        _: &Adapter,
        candidates: &[Candidate<'_>],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<Judgement>> {
        self.conduct.act(cancel)?;
        let judge = |candidate: &Candidate<'_>| match candidate {
            _ if self.conduct == Conduct::NotFinite => Judgement::Clip(f64::NAN),
            Candidate { update, .. } if self.refused.contains(&update.client) => {
                Judgement::Reject("refused".to_owned())
            }
            Candidate { delta_norm, .. } if *delta_norm > self.bound => Judgement::Clip(self.bound),
            _ => Judgement::Keep,
        };
        let judged = candidates.len() - usize::from(self.conduct == Conduct::WrongShape);
        Ok(candidates[..judged].iter().map(judge).collect())
    }
}

/// The mean of the updates weighted by their examples, as FedAvg.
#[derive(Clone, Copy, Debug)]
pub struct WeightedMean;

impl Strategy for WeightedMean {
    fn name(&self) -> &'static str {
        "weighted mean"
    }

    fn aggregate(&mut self, _: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
        let total: f64 = updates.iter().map(|update| update.n_examples).sum();
        let mut mean = vec![0.0_f32; global.values().len()];
        mean.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, mean)| {
            let mut sums = vec![0.0_f64; mean.len()];
            for update in updates {
                let weight = update.n_examples / total;
                for (sum, &value) in sums.iter_mut().zip(&update.adapter.values()[chunk * CHUNK..]) {
                    *sum += weight * f64::from(value);
                }
            }
            for (mean, sum) in mean.iter_mut().zip(sums) {
                *mean = sum as f32;
            }
        });
        Adapter::new(Arc::clone(global.layout()), mean).map_err(|error| PortError::Failed(error.to_string()))
    }
}

/// The weighted mean with momentum .9 on its delta: a strategy that remembers, and misbehaves in given rounds.
pub struct Momentum {
    memory: Vec<f32>,
    conduct: Arc<dyn Fn(RoundId, u32) -> Conduct + Send + Sync>,
    calls: Arc<AtomicU32>,
}

impl Strategy for Momentum {
    fn name(&self) -> &'static str {
        "momentum"
    }

    fn aggregate(&mut self, round: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
        let conduct = (self.conduct)(round, self.calls.fetch_add(1, Ordering::SeqCst) + 1);
        let mean = WeightedMean.aggregate(round, global, updates)?;
        self.memory.resize(mean.values().len(), 0.0);
        for ((momentum, &mean), &global) in self.memory.iter_mut().zip(mean.values()).zip(global.values()) {
            *momentum = 0.9 * *momentum + (mean - global);
        }
        // Misbehaves only now, with its memory already changed.
        conduct.act(&CancelFlag::new())?;
        Ok(adapter(global.layout(), |index| match conduct {
            Conduct::NotFinite => f32::INFINITY,
            _ => global.values()[index] + self.memory[index],
        }))
    }

    fn state(&self) -> Vec<u8> {
        self.memory.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        let (values, rest) = state.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(PortError::Failed(format!("expected a multiple of 4 bytes, found {}", state.len())));
        }
        self.memory = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Ok(())
    }
}

/// Halves every value of the adapter, or misbehaves.
#[derive(Debug)]
pub struct FakeRealigner(pub Conduct);

impl Realigner for FakeRealigner {
    fn realign(&self, _: RoundId, global: &Adapter, cancel: &CancelFlag) -> PortResult<Realignment> {
        self.0.act(cancel)?;
        let halved = adapter(global.layout(), |index| match self.0 {
            Conduct::NotFinite => f32::NAN,
            _ => global.values()[index] / 2.0,
        });
        let report = RealignmentReport { steps: 1, ..RealignmentReport::default() };
        Ok(Realignment { adapter: halved, report, warnings: Vec::new() })
    }
}

/// Scores an adapter by its norm, or misbehaves.
#[derive(Debug)]
pub struct FakeBenchmarks(pub Conduct);

impl Benchmarks for FakeBenchmarks {
    fn evaluate(
        &self,
        _: RoundId,
        adapter: &Adapter,
        scope: EvaluationScope,
        cancel: &CancelFlag,
    ) -> PortResult<Evaluation> {
        self.0.act(cancel)?;
        let n = if scope == EvaluationScope::Full { 100 } else { 10 };
        let values = BTreeMap::from([("norm".to_owned(), adapter.l2_norm())]);
        Ok(BTreeMap::from([("norm".to_owned(), BenchmarkScore { n, values })]))
    }
}

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
    stored: Arc<Mutex<Stored>>,
    readings: Arc<Readings>,
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
    fn checkpoint(
        &mut self,
        round: RoundId,
        global: &Adapter,
        strategy_state: &[u8],
        memories: &NewMemories,
    ) -> PortResult<()> {
        if self.fails_in == Some(round) {
            return Err(PortError::Failed("no space left".to_owned()));
        }
        thread::sleep(self.checkpoint_takes);
        let state = StartState { round, global: global.clone(), strategy_state: strategy_state.to_vec() };
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

/// A federation of fakes: set what the rehearsal is about, then run it.
#[derive(Clone)]
pub struct Rehearsal {
    /// How the federation runs.
    pub config: FederationConfig,
    /// The rows.
    pub rows: Arc<FakeRows>,
    /// The trainer.
    pub trainer: Arc<FakeTrainer>,
    /// The guard, if there is one.
    pub guard: Option<Arc<FakeGuard>>,
    /// What it is shown of rows.
    pub assessed: Assessed,
    /// What becomes of rows that it calls unsafe.
    pub policy: GuardPolicy,
    /// The update screen, if there is one.
    pub screen: Option<Arc<FakeScreen>>,
    /// The strategy.
    pub strategy: StrategyFactory,
    /// What clients do beside training.
    pub algorithm: Arc<dyn ClientAlgorithm>,
    /// The realigner, if there is one.
    pub realigner: Option<Arc<FakeRealigner>>,
    /// The benchmarks, if there are any.
    pub benchmarks: Option<Arc<FakeBenchmarks>>,
    /// The store.
    pub store: MemoryStore,
    /// The observer.
    pub events: EventLog,
    /// What ends it early.
    pub cancel: CancelFlag,
    /// The adapter's layout.
    pub layout: Arc<AdapterLayout>,
}

impl fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehearsal").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Rehearsal {
    /// Honest clients with eight rows each and [`Momentum`]; no guard, no realignment, no benchmarks.
    pub fn new(clients: u32, cohort: u32, rounds: u32) -> Self {
        let rehearsal = Self {
            config: FederationConfig {
                seed: 1,
                clients,
                cohort,
                rounds,
                quorum: 1,
                slots: 2,
                max_attempts: 3,
                client_timeout: Duration::from_mins(1),
                server_timeout: Duration::from_hours(4),
                align: Schedule::Never,
                evaluate: Schedule::Never,
                sampler: CohortSampler::Seeded,
            },
            rows: Arc::new(FakeRows::new(8, false)),
            trainer: Arc::new(FakeTrainer::new(|_, _, _| Conduct::Honest)),
            guard: None,
            assessed: Assessed::Both,
            policy: GuardPolicy::Drop,
            screen: None,
            strategy: Arc::new(|| Box::new(WeightedMean)),
            algorithm: Arc::new(PlainClients),
            realigner: None,
            benchmarks: None,
            store: MemoryStore::default(),
            events: EventLog::default(),
            cancel: CancelFlag::new(),
            layout: tiny_layout(),
        };
        rehearsal.with_strategy(|_, _| Conduct::Honest)
    }

    /// With a trainer that behaves as told.
    #[must_use]
    pub fn with_trainer(mut self, conduct: impl Fn(ClientId, RoundId, u32) -> Conduct + Send + Sync + 'static) -> Self {
        self.trainer = Arc::new(FakeTrainer::new(conduct));
        self
    }

    /// With a guard that behaves as told in its n-th call, from 1.
    #[must_use]
    pub fn with_guard(mut self, conduct: impl Fn(u32) -> Conduct + Send + Sync + 'static) -> Self {
        self.guard = Some(Arc::new(FakeGuard::new(conduct)));
        self
    }

    /// With a [`Momentum`] strategy that behaves as told in a round and its n-th call of the run, from 1.
    #[must_use]
    pub fn with_strategy(mut self, conduct: impl Fn(RoundId, u32) -> Conduct + Send + Sync + 'static) -> Self {
        let (conduct, calls) = (Arc::new(conduct), Arc::new(AtomicU32::new(0)));
        self.strategy = Arc::new(move || {
            let (conduct, calls) = (Arc::clone(&conduct), Arc::clone(&calls));
            Box::new(Momentum { memory: Vec::new(), conduct, calls })
        });
        self
    }

    /// With [`RememberingClients`] and a [`PushedMean`] that behaves as told in a round; of the wrong shape, it has no
    /// instructions.
    #[must_use]
    pub fn with_memory(mut self, conduct: impl Fn(RoundId) -> Conduct + Send + Sync + 'static) -> Self {
        let conduct: Arc<dyn Fn(RoundId) -> Conduct + Send + Sync> = Arc::new(conduct);
        self.algorithm = Arc::new(RememberingClients);
        self.strategy = Arc::new(move || Box::new(PushedMean { control: Vec::new(), conduct: Arc::clone(&conduct) }));
        self
    }

    /// The ports, sharing this rehearsal's fakes.
    pub fn ports(&self) -> Ports {
        Ports {
            rows: Arc::clone(&self.rows) as Arc<dyn ClientRows>,
            trainer: Arc::clone(&self.trainer) as Arc<dyn LocalTrainer>,
            guard: self.guard.clone().map(|guard| RowGuard {
                model: guard as Arc<dyn GuardModel>,
                assessed: self.assessed,
                policy: self.policy.clone(),
            }),
            screen: self.screen.clone().map(|screen| screen as Arc<dyn UpdateScreen>),
            strategy: Arc::clone(&self.strategy),
            algorithm: Arc::clone(&self.algorithm),
            memories: Arc::new(self.store.clone()),
            realigner: self.realigner.clone().map(|realigner| realigner as Arc<dyn Realigner>),
            benchmarks: self.benchmarks.clone().map(|benchmarks| benchmarks as Arc<dyn Benchmarks>),
            store: Box::new(self.store.clone()),
            observer: Arc::new(self.events.clone()),
        }
    }

    /// The state before the first round: an adapter of zeros.
    pub fn start(&self) -> StartState {
        let global = Adapter::zeros(Arc::clone(&self.layout));
        StartState { round: RoundId::START, global, strategy_state: Vec::new() }
    }

    /// Runs from the start.
    ///
    /// # Errors
    ///
    /// As [`run_federation`].
    pub async fn run(&self) -> Result<FederationResult, FederationError> {
        self.run_from(self.start()).await
    }

    /// Runs from a given state.
    ///
    /// # Errors
    ///
    /// As [`run_federation`].
    pub async fn run_from(&self, start: StartState) -> Result<FederationResult, FederationError> {
        run_federation(self.config.clone(), self.ports(), start, self.cancel.clone()).await
    }
}
