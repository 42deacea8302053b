//! The supervisor: starts every actor of a run and puts a successor in the place of each that dies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use tokio::sync::watch;

use crate::{
    address::Address,
    aggregator::{Aggregator, AggregatorArgs, AggregatorMessage},
    cai::{CaiGenerator, CaiState, RealignMessage},
    checkpointer::{Checkpointer, CheckpointerState, CommitGate, CommitMessage},
    client::{Client, ClientEnv, ClientMessage, Screener},
    compute::Compute,
    evaluator::{EvaluateMessage, Evaluator, EvaluatorState},
    faults::Faults,
    guard::{Guard, GuardArgs},
    policy::{Assessed, GuardPolicy, VerdictOrder},
    ports::{Benchmarks, ClientAlgorithm, ClientMemories, ClientRows, LocalTrainer, Observer, Realigner, RunStore},
    protocol::ClientId,
    records::RoundEvent,
};

/// To the supervisor.
pub(crate) enum SupervisorMessage {
    /// Where can the server's actors be reached?
    ServerActors(RpcReplyPort<ServerActors>),
    /// Start the actors of this cohort, stop those of the last, and say where they can be reached.
    SpawnCohort(Vec<ClientId>, RpcReplyPort<Cohort>),
}

/// A round's clients in order of id, and where they can be reached.
pub(crate) type Cohort = Vec<(ClientId, Address<ClientMessage>)>;

/// Where the actors of the server can be reached.
#[derive(Clone)]
pub(crate) struct ServerActors {
    pub(crate) aggregator: Address<AggregatorMessage>,
    pub(crate) checkpointer: Address<CommitMessage>,
    /// If the run has Constitutional AI.
    pub(crate) cai: Option<Address<RealignMessage>>,
    /// If the run has benchmarks.
    pub(crate) evaluator: Option<Address<EvaluateMessage>>,
}

/// The root of a run's actors. Killing it ends them all.
pub(crate) struct Supervisor;

/// What the actors of a run are made of.
pub(crate) struct SupervisorArgs {
    /// Seed of every random stream.
    pub(crate) seed: u64,
    /// What goes wrong on purpose.
    pub(crate) faults: Faults,
    pub(crate) compute: Compute,
    pub(crate) rows: Arc<dyn ClientRows>,
    pub(crate) trainer: Arc<dyn LocalTrainer>,
    pub(crate) algorithm: Arc<dyn ClientAlgorithm>,
    pub(crate) memories: Arc<dyn ClientMemories>,
    pub(crate) guard: Option<GuardRole>,
    pub(crate) aggregator: AggregatorArgs,
    /// How long realignment and evaluation may take.
    pub(crate) server_timeout: Duration,
    pub(crate) realigner: Option<Arc<dyn Realigner>>,
    pub(crate) benchmarks: Option<Arc<dyn Benchmarks>>,
    pub(crate) store: Box<dyn RunStore>,
    pub(crate) commits: CommitGate,
    pub(crate) observer: Arc<dyn Observer>,
}

/// What the guard is made of, and how clients use it.
pub(crate) struct GuardRole {
    pub(crate) args: GuardArgs,
    pub(crate) assessed: Assessed,
    pub(crate) verdicts: VerdictOrder,
    pub(crate) policy: GuardPolicy,
}

pub(crate) struct SupervisorState {
    observer: Arc<dyn Observer>,
    guard: Option<Supervised<Guard>>,
    aggregator: Supervised<Aggregator>,
    cai: Option<Supervised<CaiGenerator>>,
    evaluator: Option<Supervised<Evaluator>>,
    /// Nobody succeeds the checkpointer: emptied when it dies, so that whoever asks for it learns that it is gone.
    checkpointer: Option<watch::Sender<ActorRef<CommitMessage>>>,
    /// What clients work with.
    env: Arc<ClientEnv>,
    clients: Clients<Client>,
}

/// The actors of the last cohort mustered. No other client has one (invariant M-1).
struct Clients<A: Actor> {
    by_id: BTreeMap<ClientId, Supervised<A>>,
    /// Which client each actor is. A large cohort that is dismissed sends as many notices of death, and none of them may cost a
    /// look at every client.
    by_actor: HashMap<ActorId, ClientId>,
}

/// A role that is always filled: who fills it now, and what a successor starts with.
struct Supervised<A: Actor> {
    kind: &'static str,
    actor: A,
    args: A::Arguments,
    current: watch::Sender<ActorRef<A::Msg>>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        args: SupervisorArgs,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        Ok(SupervisorState::start(&myself.get_cell(), args).await?)
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::ServerActors(reply) => {
                if let Some(actors) = state.server_actors() {
                    let _ = reply.send(actors);
                }
            }
            SupervisorMessage::SpawnCohort(cohort, reply) => {
                let _ = reply.send(state.spawn_cohort(&myself.get_cell(), &cohort).await?);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let (dead, reason) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => (actor, reason.unwrap_or_default()),
            _ => return Ok(()),
        };
        Ok(state.replace(&myself.get_cell(), dead.get_id(), &reason).await?)
    }
}

impl SupervisorState {
    async fn start(supervisor: &ActorCell, args: SupervisorArgs) -> Result<Self, SpawnErr> {
        let compute = args.compute;
        let (guard, use_of_guard) = args
            .guard
            .map(|GuardRole { args, assessed, verdicts, policy }| (args, (assessed, verdicts, policy)))
            .unzip();
        let guard = Supervised::spawn_if("guard", Guard, guard, supervisor).await?;
        let cai = args.realigner.map(|realigner| CaiState {
            realigner,
            faults: args.faults.clone(),
            compute: compute.clone(),
            limit: args.server_timeout,
        });
        let evaluator = args.benchmarks.map(|benchmarks| EvaluatorState {
            benchmarks,
            faults: args.faults.clone(),
            compute: compute.clone(),
            limit: args.server_timeout,
        });
        let checkpointer =
            CheckpointerState { store: Some(args.store), commits: args.commits, compute: compute.clone() };
        let (checkpointer, _) = Actor::spawn_linked(None, Checkpointer, checkpointer, supervisor.clone()).await?;
        let screener = guard.as_ref().zip(use_of_guard).map(|(guard, (assessed, verdicts, policy))| Screener {
            guard: guard.address(),
            assessed,
            verdicts,
            policy,
        });
        Ok(Self {
            observer: args.observer,
            guard,
            aggregator: Supervised::spawn("aggregator", Aggregator, args.aggregator, supervisor).await?,
            cai: Supervised::spawn_if("cai", CaiGenerator, cai, supervisor).await?,
            evaluator: Supervised::spawn_if("evaluator", Evaluator, evaluator, supervisor).await?,
            checkpointer: Some(watch::Sender::new(checkpointer)),
            env: Arc::new(ClientEnv {
                rows: args.rows,
                trainer: args.trainer,
                algorithm: args.algorithm,
                memories: args.memories,
                screener,
                seed: args.seed,
                faults: args.faults,
                compute,
            }),
            clients: Clients::default(),
        })
    }

    fn server_actors(&self) -> Option<ServerActors> {
        Some(ServerActors {
            aggregator: self.aggregator.address(),
            checkpointer: Address::new(self.checkpointer.as_ref()?.subscribe()),
            cai: self.cai.as_ref().map(Supervised::address),
            evaluator: self.evaluator.as_ref().map(Supervised::address),
        })
    }

    async fn spawn_cohort(&mut self, supervisor: &ActorCell, cohort: &[ClientId]) -> Result<Cohort, SpawnErr> {
        let mut last = std::mem::take(&mut self.clients);
        for &client in cohort {
            let role = match last.by_id.remove(&client) {
                Some(role) => role,
                None => Supervised::spawn("client", Client, (client, Arc::clone(&self.env)), supervisor).await?,
            };
            self.clients.insert(client, role);
        }
        for role in last.by_id.into_values() {
            role.current.borrow().stop(None);
        }
        Ok(self.clients.by_id.iter().map(|(&client, role)| (client, role.address())).collect())
    }

    /// Puts a successor in the place of an actor that died. Whoever has no role was dismissed, or is not to be replaced.
    async fn replace(&mut self, supervisor: &ActorCell, dead: ActorId, reason: &str) -> Result<(), SpawnErr> {
        let mut replaced = self.aggregator.restart(dead, supervisor).await?;
        replaced = replaced.or(restart(self.guard.as_ref(), dead, supervisor).await?);
        replaced = replaced.or(restart(self.cai.as_ref(), dead, supervisor).await?);
        replaced = replaced.or(restart(self.evaluator.as_ref(), dead, supervisor).await?);
        replaced = replaced.or(self.clients.restart(dead, supervisor).await?);
        if let Some(kind) = replaced {
            tracing::warn!(kind, reason, "actor died and was started again");
            self.observer.observe(&RoundEvent::ActorRestarted { kind });
        }
        self.checkpointer.take_if(|checkpointer| checkpointer.borrow().get_id() == dead);
        Ok(())
    }
}

impl<A: Actor> Default for Clients<A> {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), by_actor: HashMap::new() }
    }
}

impl<A: Actor + Copy> Clients<A>
where
    A::Arguments: Clone,
{
    fn insert(&mut self, client: ClientId, role: Supervised<A>) {
        self.by_actor.insert(role.current_id(), client);
        self.by_id.insert(client, role);
    }

    /// Restarts the client whose actor was `dead`, if there is one, and returns its kind.
    async fn restart(&mut self, dead: ActorId, supervisor: &ActorCell) -> Result<Option<&'static str>, SpawnErr> {
        let Some(client) = self.by_actor.remove(&dead) else { return Ok(None) };
        let Some(role) = self.by_id.get(&client) else { return Ok(None) };
        let replaced = role.restart(dead, supervisor).await?;
        self.by_actor.insert(role.current_id(), client);
        Ok(replaced)
    }
}

impl<A: Actor + Copy> Supervised<A>
where
    A::Arguments: Clone,
{
    async fn spawn(kind: &'static str, actor: A, args: A::Arguments, supervisor: &ActorCell) -> Result<Self, SpawnErr> {
        let (first, _) = A::spawn_linked(None, actor, args.clone(), supervisor.clone()).await?;
        Ok(Self { kind, actor, args, current: watch::Sender::new(first) })
    }

    async fn spawn_if(
        kind: &'static str,
        actor: A,
        args: Option<A::Arguments>,
        supervisor: &ActorCell,
    ) -> Result<Option<Self>, SpawnErr> {
        match args {
            None => Ok(None),
            Some(args) => Ok(Some(Self::spawn(kind, actor, args, supervisor).await?)),
        }
    }

    fn address(&self) -> Address<A::Msg> {
        Address::new(self.current.subscribe())
    }

    fn current_id(&self) -> ActorId {
        self.current.borrow().get_id()
    }

    /// Restarts the actor if it was `dead`, and returns its kind.
    async fn restart(&self, dead: ActorId, supervisor: &ActorCell) -> Result<Option<&'static str>, SpawnErr> {
        if self.current_id() != dead {
            return Ok(None);
        }
        let (successor, _) = A::spawn_linked(None, self.actor, self.args.clone(), supervisor.clone()).await?;
        self.current.send_replace(successor);
        Ok(Some(self.kind))
    }
}

async fn restart<A: Actor + Copy>(
    role: Option<&Supervised<A>>,
    dead: ActorId,
    supervisor: &ActorCell,
) -> Result<Option<&'static str>, SpawnErr>
where
    A::Arguments: Clone,
{
    match role {
        None => Ok(None),
        Some(role) => role.restart(dead, supervisor).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An actor that does nothing but be alive.
    #[derive(Clone, Copy)]
    struct Idle;

    impl Actor for Idle {
        type Msg = ();
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle_supervisor_evt(
            &self,
            _: ActorRef<()>,
            _: SupervisionEvent,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_post_is_known_by_who_holds_it_now_and_by_nobody_else() {
        let (supervisor, _) = Actor::spawn(None, Idle, ()).await.unwrap();
        let root = supervisor.get_cell();
        let mut clients = Clients::default();
        for client in [ClientId(3), ClientId(5)] {
            clients.insert(client, Supervised::spawn("client", Idle, (), &root).await.unwrap());
        }
        let (dismissed, _) = Actor::spawn(None, Idle, ()).await.unwrap();
        assert_eq!(clients.restart(dismissed.get_id(), &root).await.unwrap(), None);

        // A successor that dies has a successor, too.
        let mut dead = Vec::new();
        for _ in 0..3 {
            dead.push(clients.by_id[&ClientId(5)].current_id());
            assert_eq!(clients.restart(dead[dead.len() - 1], &root).await.unwrap(), Some("client"));
            // Told twice of one death, nobody is started twice.
            assert_eq!(clients.restart(dead[dead.len() - 1], &root).await.unwrap(), None);
        }
        let now: HashMap<_, _> = clients.by_id.iter().map(|(&client, role)| (role.current_id(), client)).collect();
        assert_eq!(clients.by_actor, now);
        assert!(dead.iter().all(|dead| !now.contains_key(dead)));
        supervisor.kill();
    }
}
