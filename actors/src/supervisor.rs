//! The supervisor: starts every actor of a run and puts a successor in the place of each that dies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;

use crate::{
    aggregator::{Aggregator, AggregatorArgs},
    archivist::{Archivist, ArchivistState, CommitGate},
    cai::{CaiGenerator, CaiState},
    client::{Client, Screener, Site},
    compute::Compute,
    evaluator::{Evaluator, EvaluatorState},
    fanout::Address,
    faults::Faults,
    guard::{Guard, GuardArgs},
    policy::{Assessed, GuardPolicy},
    ports::{Benchmarks, ClientAlgorithm, ClientMemories, ClientRows, LocalTrainer, Observer, Realigner, RunStore},
    protocol::{
        ClientId,
        messages::{Cohort, CommitRequest, Crew, SupervisorMessage},
    },
    records::RoundEvent,
};

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
    pub(crate) guard: Option<GuardPost>,
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
pub(crate) struct GuardPost {
    pub(crate) args: GuardArgs,
    pub(crate) assessed: Assessed,
    pub(crate) policy: GuardPolicy,
}

pub(crate) struct SupervisorState {
    observer: Arc<dyn Observer>,
    guard: Option<Post<Guard>>,
    aggregator: Post<Aggregator>,
    cai: Option<Post<CaiGenerator>>,
    evaluator: Option<Post<Evaluator>>,
    /// Nobody succeeds the archivist: emptied when it dies, so that whoever asks for it learns that it is gone.
    archivist: Option<watch::Sender<ActorRef<CommitRequest>>>,
    /// What clients work with.
    site: Arc<Site>,
    clients: Cast<Client>,
}

/// The actors of the last cohort mustered. No other client has one (invariant M-1).
struct Cast<A: Actor> {
    posts: BTreeMap<ClientId, Post<A>>,
    /// Who holds which post. A large cohort that is dismissed sends as many notices of death, and none of them may cost a
    /// look at every post.
    holders: HashMap<ActorId, ClientId>,
}

/// A role that is always filled: who fills it now, and what a successor starts with.
struct Post<A: Actor> {
    kind: &'static str,
    actor: A,
    args: A::Arguments,
    holder: watch::Sender<ActorRef<A::Msg>>,
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
            SupervisorMessage::Crew(reply) => {
                if let Some(crew) = state.crew() {
                    let _ = reply.send(crew);
                }
            }
            SupervisorMessage::Muster(cohort, reply) => {
                let _ = reply.send(state.muster(&myself.get_cell(), &cohort).await?);
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
        let (guard, use_of_guard) =
            args.guard.map(|GuardPost { args, assessed, policy }| (args, (assessed, policy))).unzip();
        let guard = Post::fill_if("guard", Guard, guard, supervisor).await?;
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
        let archivist = ArchivistState { store: Some(args.store), commits: args.commits, compute: compute.clone() };
        let (archivist, _) = Actor::spawn_linked(None, Archivist, archivist, supervisor.clone()).await?;
        let screener = guard.as_ref().zip(use_of_guard).map(|(guard, (assessed, policy))| Screener {
            guard: guard.address(),
            assessed,
            policy,
        });
        Ok(Self {
            observer: args.observer,
            guard,
            aggregator: Post::fill("aggregator", Aggregator, args.aggregator, supervisor).await?,
            cai: Post::fill_if("cai", CaiGenerator, cai, supervisor).await?,
            evaluator: Post::fill_if("evaluator", Evaluator, evaluator, supervisor).await?,
            archivist: Some(watch::Sender::new(archivist)),
            site: Arc::new(Site {
                rows: args.rows,
                trainer: args.trainer,
                algorithm: args.algorithm,
                memories: args.memories,
                screener,
                seed: args.seed,
                faults: args.faults,
                compute,
            }),
            clients: Cast::default(),
        })
    }

    fn crew(&self) -> Option<Crew> {
        Some(Crew {
            aggregator: self.aggregator.address(),
            archivist: Address::new(self.archivist.as_ref()?.subscribe()),
            cai: self.cai.as_ref().map(Post::address),
            evaluator: self.evaluator.as_ref().map(Post::address),
        })
    }

    async fn muster(&mut self, supervisor: &ActorCell, cohort: &[ClientId]) -> Result<Cohort, SpawnErr> {
        let mut last = std::mem::take(&mut self.clients);
        for &client in cohort {
            let post = match last.posts.remove(&client) {
                Some(post) => post,
                None => Post::fill("client", Client, (client, Arc::clone(&self.site)), supervisor).await?,
            };
            self.clients.insert(client, post);
        }
        for post in last.posts.into_values() {
            post.holder.borrow().stop(None);
        }
        Ok(self.clients.posts.iter().map(|(&client, post)| (client, post.address())).collect())
    }

    /// Puts a successor in the place of an actor that died. Who holds no post was dismissed, or is not to be replaced.
    async fn replace(&mut self, supervisor: &ActorCell, dead: ActorId, reason: &str) -> Result<(), SpawnErr> {
        let mut replaced = self.aggregator.succeed(dead, supervisor).await?;
        replaced = replaced.or(succeed(self.guard.as_ref(), dead, supervisor).await?);
        replaced = replaced.or(succeed(self.cai.as_ref(), dead, supervisor).await?);
        replaced = replaced.or(succeed(self.evaluator.as_ref(), dead, supervisor).await?);
        replaced = replaced.or(self.clients.succeed(dead, supervisor).await?);
        if let Some(kind) = replaced {
            tracing::warn!(kind, reason, "actor died and was started again");
            self.observer.observe(&RoundEvent::ActorRestarted { kind });
        }
        self.archivist.take_if(|archivist| archivist.borrow().get_id() == dead);
        Ok(())
    }
}

impl<A: Actor> Default for Cast<A> {
    fn default() -> Self {
        Self { posts: BTreeMap::new(), holders: HashMap::new() }
    }
}

impl<A: Actor + Copy> Cast<A>
where
    A::Arguments: Clone,
{
    fn insert(&mut self, client: ClientId, post: Post<A>) {
        self.holders.insert(post.held_by(), client);
        self.posts.insert(client, post);
    }

    /// If `dead` held a client's post, fills it anew and says which kind of post it is.
    async fn succeed(&mut self, dead: ActorId, supervisor: &ActorCell) -> Result<Option<&'static str>, SpawnErr> {
        let Some(client) = self.holders.remove(&dead) else { return Ok(None) };
        let Some(post) = self.posts.get(&client) else { return Ok(None) };
        let replaced = post.succeed(dead, supervisor).await?;
        self.holders.insert(post.held_by(), client);
        Ok(replaced)
    }
}

impl<A: Actor + Copy> Post<A>
where
    A::Arguments: Clone,
{
    async fn fill(kind: &'static str, actor: A, args: A::Arguments, supervisor: &ActorCell) -> Result<Self, SpawnErr> {
        let (first, _) = A::spawn_linked(None, actor, args.clone(), supervisor.clone()).await?;
        Ok(Self { kind, actor, args, holder: watch::Sender::new(first) })
    }

    async fn fill_if(
        kind: &'static str,
        actor: A,
        args: Option<A::Arguments>,
        supervisor: &ActorCell,
    ) -> Result<Option<Self>, SpawnErr> {
        match args {
            None => Ok(None),
            Some(args) => Ok(Some(Self::fill(kind, actor, args, supervisor).await?)),
        }
    }

    fn address(&self) -> Address<A::Msg> {
        Address::new(self.holder.subscribe())
    }

    fn held_by(&self) -> ActorId {
        self.holder.borrow().get_id()
    }

    /// If `dead` held this post, fills it anew and says which kind of post it is.
    async fn succeed(&self, dead: ActorId, supervisor: &ActorCell) -> Result<Option<&'static str>, SpawnErr> {
        if self.held_by() != dead {
            return Ok(None);
        }
        let (successor, _) = A::spawn_linked(None, self.actor, self.args.clone(), supervisor.clone()).await?;
        self.holder.send_replace(successor);
        Ok(Some(self.kind))
    }
}

async fn succeed<A: Actor + Copy>(
    post: Option<&Post<A>>,
    dead: ActorId,
    supervisor: &ActorCell,
) -> Result<Option<&'static str>, SpawnErr>
where
    A::Arguments: Clone,
{
    match post {
        None => Ok(None),
        Some(post) => post.succeed(dead, supervisor).await,
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
        let mut cast = Cast::default();
        for client in [ClientId(3), ClientId(5)] {
            cast.insert(client, Post::fill("client", Idle, (), &root).await.unwrap());
        }
        let (dismissed, _) = Actor::spawn(None, Idle, ()).await.unwrap();
        assert_eq!(cast.succeed(dismissed.get_id(), &root).await.unwrap(), None);

        // A successor that dies has a successor, too.
        let mut dead = Vec::new();
        for _ in 0..3 {
            dead.push(cast.posts[&ClientId(5)].held_by());
            assert_eq!(cast.succeed(dead[dead.len() - 1], &root).await.unwrap(), Some("client"));
            // Told twice of one death, nobody is started twice.
            assert_eq!(cast.succeed(dead[dead.len() - 1], &root).await.unwrap(), None);
        }
        let now: HashMap<_, _> = cast.posts.iter().map(|(&client, post)| (post.held_by(), client)).collect();
        assert_eq!(cast.holders, now);
        assert!(dead.iter().all(|dead| !now.contains_key(dead)));
        supervisor.kill();
    }
}
