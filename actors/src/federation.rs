//! A federation as its user sees it: what it is made of, how it runs, what it gives.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use ractor::{Actor, ActorRef, SpawnErr};
use serde::{Deserialize, Serialize};

use crate::{
    address::ask,
    aggregator::AggregatorArgs,
    cancel::CancelFlag,
    checkpointer::CommitGate,
    compute::Compute,
    coordinator::{Coordinator, RunRounds, Server},
    devices::DeviceProfile,
    faults::{FaultPlan, Faults},
    gather::Gather,
    guard::{GuardArgs, VerdictCache},
    policy::RowGuard,
    ports::{
        Adversary, Benchmarks, ClientAlgorithm, ClientMemories, ClientRows, LocalTrainer, Observer, PortError,
        Realigner, RunStore, Strategy, UpdateScreen,
    },
    protocol::{ClientRanks, GlobalModel, RoundId, server::StrategyState, wire},
    sampler::CohortSampler,
    supervisor::{GuardRole, Supervisor, SupervisorArgs, SupervisorMessage},
    transport::{InFlight, LocalTransport, SimulatedTransport, Transport},
};

/// The longest that cancelled work may keep its compute slot, whatever the client timeout.
const LONGEST_GRACE: Duration = Duration::from_secs(10);

/// How long a run that was cancelled waits for a commit under way.
const COMMIT_GRACE: Duration = Duration::from_millis(250);

/// How a federation runs.
#[derive(Clone, Debug)]
pub struct FederationConfig {
    /// Seed of every random stream but those of faults.
    pub seed: u64,
    /// Seed of who is struck by faults.
    pub attack_seed: u64,
    /// Clients in the federation.
    pub clients: u32,
    /// Clients selected a round.
    pub cohort: u32,
    /// The last round to run; rounds count from 1.
    pub rounds: u32,
    /// The fewest accepted updates that a round is aggregated from.
    pub quorum: u32,
    /// Pieces of work that compute at the same time.
    pub slots: usize,
    /// How often an actor that died is asked again, the first time included.
    pub max_attempts: u32,
    /// How long a client may take over one attempt: catches hangs, nothing else. Its guard may take half.
    pub client_timeout: Duration,
    /// How long each step of the server may take: instructions, screening, aggregation, realignment, evaluation. Catches
    /// hangs, nothing else.
    pub server_timeout: Duration,
    /// After which rounds the global adapter is realigned.
    pub align: Schedule,
    /// After which rounds the global adapter is evaluated.
    pub evaluate: Schedule,
    /// How cohorts are drawn.
    pub sampler: CohortSampler,
    /// What goes wrong on purpose.
    pub faults: FaultPlan,
    /// What clients run on, where time is simulated.
    pub devices: Option<DeviceProfile>,
    /// When a round stops waiting for clients.
    pub gather: Gather,
    /// How many of the adapter's ranks each client trains: all of them where nothing is said.
    pub ranks: Option<ClientRanks>,
}

/// In which rounds something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// In none.
    Never,
    /// In every round whose number is a multiple of this.
    Every(NonZeroU32),
    /// In the last round alone.
    LastRound,
}

impl Schedule {
    /// Whether it is to be done in `round` of a run that ends with round number `rounds`.
    pub const fn is_due(self, round: RoundId, rounds: u32) -> bool {
        match self {
            Self::Never => false,
            Self::Every(n) => round.0.is_multiple_of(n.get()),
            Self::LastRound => round.0 == rounds,
        }
    }
}

/// Makes the run's strategy: at the start, and anew after a failure, which is why it may be called more than once.
pub type StrategyFactory = Arc<dyn Fn() -> Box<dyn Strategy> + Send + Sync>;

/// What a federation needs from the outside.
pub struct Ports {
    /// The rows that each client holds.
    pub rows: Arc<dyn ClientRows>,
    /// Local training.
    pub trainer: Arc<dyn LocalTrainer>,
    /// The guard that clients screen their rows with; without one, all rows are trained on.
    pub guard: Option<RowGuard>,
    /// Malicious clients, if there are any.
    pub adversary: Option<Arc<dyn Adversary>>,
    /// The update-level defence, if the run has one.
    pub screen: Option<Arc<dyn UpdateScreen>>,
    /// The server's side of the federated algorithm.
    pub strategy: StrategyFactory,
    /// The clients' side of it.
    pub algorithm: Arc<dyn ClientAlgorithm>,
    /// What clients remember: what the store was given with earlier rounds.
    pub memories: Arc<dyn ClientMemories>,
    /// Constitutional AI, if the run has it.
    pub realigner: Option<Arc<dyn Realigner>>,
    /// Benchmarks, if the run has them.
    pub benchmarks: Option<Arc<dyn Benchmarks>>,
    /// Where rounds are stored.
    pub store: Box<dyn RunStore>,
    /// Who listens.
    pub observer: Arc<dyn Observer>,
}

/// Where a run begins: before the first round, or after the last one stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StartState {
    /// The last round done; [`RoundId::START`] if none is.
    pub round: RoundId,
    /// The global model after it.
    pub global: GlobalModel,
    /// What the strategy remembers of it; empty at the start.
    pub strategy_state: Vec<u8>,
    /// What was under way when it ended; empty at the start and where the server waits for all.
    pub in_flight: Vec<u8>,
}

impl StartState {
    /// Returns the state before the first round.
    pub fn new(global: impl Into<GlobalModel>) -> Self {
        Self { round: RoundId::START, global: global.into(), strategy_state: Vec::new(), in_flight: Vec::new() }
    }
}

/// What a federation that ran to its end gives.
#[derive(Clone, Debug, PartialEq)]
pub struct FederationResult {
    /// The global model after the last round.
    pub global: GlobalModel,
    /// Rounds run by this call; those before a resume are not among them.
    pub rounds_done: u32,
}

/// Why a federation ended before its last round. What was committed stays committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FederationError {
    /// The configuration contradicts itself; the text names setting, value and what is allowed.
    #[error("{0}")]
    Invalid(String),
    /// The cancel flag was raised.
    #[error("cancelled")]
    Cancelled,
    /// A round could not be stored.
    #[error("{round} could not be stored: {reason}")]
    Store {
        /// Which.
        round: RoundId,
        /// Why.
        reason: PortError,
    },
    /// Something that must not happen did.
    #[error("{0}; this is a bug")]
    Bug(String),
    /// An actor that nothing goes on without died: a bug.
    #[error("the {0} died and the run cannot go on without it; this is a bug")]
    ActorLost(&'static str),
}

impl FederationConfig {
    fn faults_of_run(&self) -> Faults {
        Faults::new(self.attack_seed, self.faults.clone())
    }

    /// Checks that the settings fit together.
    ///
    /// # Errors
    ///
    /// [`FederationError::Invalid`] names the first that does not.
    pub fn check(&self) -> Result<(), FederationError> {
        let Self { clients, cohort, quorum, slots, max_attempts, client_timeout, server_timeout, .. } = self;
        let invalid = if *clients == 0 {
            "clients must be at least 1, found 0".to_owned()
        } else if !(1..=*clients).contains(cohort) {
            format!("cohort must be from 1 to the {clients} clients, found {cohort}")
        } else if !(1..=*cohort).contains(quorum) {
            format!("quorum must be from 1 to the cohort of {cohort}, found {quorum}")
        } else if !(1..=tokio::sync::Semaphore::MAX_PERMITS).contains(slots) {
            format!("slots must be at least 1 and at most {}, found {slots}", tokio::sync::Semaphore::MAX_PERMITS)
        } else if *max_attempts == 0 {
            "max_attempts must be at least 1, found 0".to_owned()
        } else if client_timeout.is_zero() {
            "client_timeout must be more than 0 seconds, found 0".to_owned()
        } else if server_timeout.is_zero() {
            "server_timeout must be more than 0 seconds, found 0".to_owned()
        } else if let Some(complaint) = self.faults.complaint() {
            complaint
        } else if let Some(complaint) = self.gather.complaint() {
            complaint
        } else if let Some((name, complaint)) = self.devices.as_ref().and_then(DeviceProfile::complaint) {
            format!("devices.{name}: {complaint}")
        } else if self.ranks.as_ref().is_some_and(|ranks| ranks.all().contains(&0)) {
            "ranks must be at least 1, found 0".to_owned()
        } else if self.gather.needs_time() && self.devices.is_none() {
            "gather: a number of reports or a deadline needs devices, for who is first is a matter of simulated time"
                .to_owned()
        } else if let Some(first) = self.gather.first.filter(|first| first < quorum) {
            format!("gather: first must be at least the quorum of {quorum}, found {first}")
        } else {
            return Ok(());
        };
        Err(FederationError::Invalid(invalid))
    }
}

/// Runs a federation from `start` to its last round.
///
/// Ends within milliseconds of `cancel` being raised: work on blocking threads is told to stop and not waited for. Only a
/// commit under way is given a moment to end, so that the store is at rest afterwards.
///
/// # Errors
///
/// [`FederationError`]; every round committed until then stays committed, and a run from there equals one without the
/// interruption (invariant C-1).
pub async fn run_federation(
    config: FederationConfig,
    ports: Ports,
    start: StartState,
    cancel: CancelFlag,
) -> Result<FederationResult, FederationError> {
    config.check()?;
    let finite = start.global.check_finite();
    finite.map_err(|error| FederationError::Invalid(format!("the model to start from is unusable: {error}")))?;
    let rounds = (start.round.next().0..=config.rounds).map(RoundId).collect();
    let run = cancel.child();
    let _end_work = run.cancel_on_drop();
    let commits = CommitGate::default();
    let started = start_actors(&config, ports, &run, commits.clone()).await;
    let started = started.map_err(|_| FederationError::ActorLost("supervisor"))?;
    let supervisor = started.supervisor.clone();
    let _end_actors = KillOnDrop(supervisor.clone());
    let server = make_server(config, start, run, started).await?;
    let coordinator = Actor::spawn_linked(None, Coordinator, server, supervisor.get_cell()).await;
    let (coordinator, _) = coordinator.map_err(|_| FederationError::ActorLost("coordinator"))?;
    tokio::select! {
        biased;
        () = cancel.cancelled() => {
            let _ = tokio::time::timeout(COMMIT_GRACE, commits.close()).await;
            Err(FederationError::Cancelled)
        }
        answer = ask(&coordinator, |reply| RunRounds { rounds, reply }) => {
            answer.unwrap_or(Err(FederationError::ActorLost("coordinator")))
        }
    }
}

/// What a server is made of once its actors are there.
pub(crate) struct Started {
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
    observer: Arc<dyn Observer>,
    adversary: Option<Arc<dyn Adversary>>,
    compute: Compute,
}

pub(crate) async fn start_actors(
    config: &FederationConfig,
    ports: Ports,
    run: &CancelFlag,
    commits: CommitGate,
) -> Result<Started, SpawnErr> {
    let grace = LONGEST_GRACE.min(config.client_timeout / 4);
    let compute = Compute::new(config.slots, run.clone(), grace);
    let faults = config.faults_of_run();
    let guard = ports.guard.map(|RowGuard { model, assessed, verdicts, policy }| {
        let (compute, cache) = (compute.clone(), VerdictCache::default());
        let limit = config.client_timeout / 2;
        GuardRole { args: GuardArgs { model, compute, cache, limit }, assessed, verdicts, policy }
    });
    let args = SupervisorArgs {
        seed: config.seed,
        faults: faults.clone(),
        rows: ports.rows,
        trainer: ports.trainer,
        algorithm: ports.algorithm,
        memories: ports.memories,
        guard,
        aggregator: AggregatorArgs {
            strategy: ports.strategy,
            screen: ports.screen,
            faults,
            compute: compute.clone(),
            limit: config.server_timeout,
        },
        server_timeout: config.server_timeout,
        realigner: ports.realigner,
        benchmarks: ports.benchmarks,
        store: ports.store,
        commits,
        observer: Arc::clone(&ports.observer),
        compute: compute.clone(),
    };
    let (supervisor, _) = Supervisor::spawn(None, Supervisor, args).await?;
    Ok(Started { supervisor, observer: ports.observer, adversary: ports.adversary, compute })
}

pub(crate) async fn make_server(
    config: FederationConfig,
    start: StartState,
    run: CancelFlag,
    Started { supervisor, observer, adversary, compute }: Started,
) -> Result<Server, FederationError> {
    let actors = ask(&supervisor, SupervisorMessage::ServerActors).await;
    let actors = actors.ok_or(FederationError::ActorLost("supervisor"))?;
    let transport = transport(&config, &start.in_flight)?;
    let strategy = StrategyState { after: start.round, bytes: start.strategy_state.into() };
    let (global, faults) = (start.global, config.faults_of_run());
    Ok(Server { config, global, strategy, actors, supervisor, adversary, transport, compute, observer, faults, run })
}

/// The transport that the settings ask for, with what was under way.
fn transport(config: &FederationConfig, in_flight: &[u8]) -> Result<Box<dyn Transport>, FederationError> {
    let Some(devices) = config.devices else { return Ok(Box::new(LocalTransport::new(config.slots))) };
    let in_flight = if in_flight.is_empty() { Ok(InFlight::default()) } else { wire::decode(in_flight) };
    let in_flight =
        in_flight.map_err(|error| FederationError::Invalid(format!("reports in flight cannot be read: {error}")))?;
    Ok(Box::new(SimulatedTransport::new(config.slots, devices, config.seed, in_flight)))
}

/// Kills a run's actors when the run's future ends or is dropped.
struct KillOnDrop(ActorRef<SupervisorMessage>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Conduct, Rehearsal};

    /// The coordinator may learn what cancelled work left undone before it is stopped: that must not become a round.
    #[tokio::test]
    async fn c_1_what_cancelled_work_left_undone_is_not_stored() {
        let run = CancelFlag::new();
        let raise = run.clone();
        let rehearsal = Rehearsal::new(3, 3, 1).with_trainer(move |_, _, _| {
            raise.cancel();
            Conduct::Honest
        });
        let config = rehearsal.config.clone();
        let started = start_actors(&config, rehearsal.ports(), &run, CommitGate::default()).await.unwrap();
        let mut server = make_server(config, rehearsal.start(), run, started).await.unwrap();
        assert_eq!(server.run_rounds(&[RoundId(1)]).await, Err(FederationError::Cancelled));
        assert_eq!(rehearsal.store.stored().checkpoints, []);
    }

    #[test]
    fn a_schedule_is_due_in_its_rounds_alone() {
        let due =
            |schedule: Schedule| (1..=7).filter(|&round| schedule.is_due(RoundId(round), 7)).collect::<Vec<u32>>();
        assert!(due(Schedule::Never).is_empty());
        assert_eq!(due(Schedule::Every(NonZeroU32::MIN)), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(due(Schedule::Every(NonZeroU32::new(3).unwrap())), [3, 6]);
        assert_eq!(due(Schedule::LastRound), [7]);
    }
}
