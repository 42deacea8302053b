//! A federation of fakes.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use super::{
    Conduct, EventLog, FakeBenchmarks, FakeGuard, FakeRealigner, FakeRows, FakeScreen, FakeTrainer, MemoryStore,
    Momentum, PushedMean, RememberingClients, WeightedMean, tiny_layout,
};
use crate::{
    cancel::CancelFlag,
    faults::FaultPlan,
    federation::{
        FederationConfig, FederationError, FederationResult, Ports, Schedule, StartState, StrategyFactory,
        run_federation,
    },
    gather::Gather,
    policy::{Assessed, GuardPolicy, RowGuard, VerdictOrder},
    ports::{
        Adversary, Benchmarks, ClientAlgorithm, ClientRows, GuardModel, LocalTrainer, PlainClients, Realigner,
        UpdateScreen,
    },
    protocol::{Adapter, AdapterLayout, ClientId, RoundId},
    sampler::CohortSampler,
};

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
    /// Which row gets which verdict.
    pub verdicts: VerdictOrder,
    /// What becomes of rows that it calls unsafe.
    pub policy: GuardPolicy,
    /// Malicious clients, if there are any.
    pub adversary: Option<Arc<dyn Adversary>>,
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
                attack_seed: 1,
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
                faults: FaultPlan::default(),
                devices: None,
                gather: Gather::BARRIER,
                ranks: None,
            },
            rows: Arc::new(FakeRows::new(8, false)),
            trainer: Arc::new(FakeTrainer::new(|_, _, _| Conduct::Honest)),
            guard: None,
            assessed: Assessed::Both,
            verdicts: VerdictOrder::Own,
            policy: GuardPolicy::Drop,
            adversary: None,
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
                verdicts: self.verdicts,
                policy: self.policy.clone(),
            }),
            adversary: self.adversary.clone(),
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
        StartState::new(global)
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
