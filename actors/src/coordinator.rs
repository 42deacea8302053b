//! The coordinator: runs the rounds of a federation, one after another.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    cancel::CancelFlag,
    compute::Compute,
    faults::Faults,
    federation::{FederationConfig, FederationError, FederationResult},
    ports::{Adversary, Observer},
    protocol::{GlobalModel, RoundId, server::StrategyState},
    round::run_round,
    supervisor::{ServerActors, SupervisorMessage},
    transport::Transport,
};

/// To the coordinator: run these rounds, first to last.
#[derive(Debug)]
pub(crate) struct RunRounds {
    pub(crate) rounds: Vec<RoundId>,
    pub(crate) reply: RpcReplyPort<Result<FederationResult, FederationError>>,
}

/// The actor that runs rounds, and does nothing else while it runs one. Clients never call it.
pub(crate) struct Coordinator;

/// What the server of a federation knows between two rounds.
pub(crate) struct Server {
    pub(crate) config: FederationConfig,
    /// The model that the next round starts from: that of the last round committed.
    pub(crate) global: GlobalModel,
    /// The strategy's memory that goes with it.
    pub(crate) strategy: StrategyState,
    /// Where the server's other actors are.
    pub(crate) actors: ServerActors,
    /// Spawns cohorts.
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
    /// Malicious clients, if there are any.
    pub(crate) adversary: Option<Arc<dyn Adversary>>,
    /// Carries orders to clients and brings what comes back.
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) compute: Compute,
    pub(crate) observer: Arc<dyn Observer>,
    /// What goes wrong on purpose.
    pub(crate) faults: Faults,
    /// Raised when the run is to end.
    pub(crate) run: CancelFlag,
}

impl Actor for Coordinator {
    type Msg = RunRounds;
    type State = Server;
    type Arguments = Server;

    async fn pre_start(&self, _: ActorRef<RunRounds>, server: Server) -> Result<Server, ActorProcessingErr> {
        Ok(server)
    }

    async fn handle(
        &self,
        _: ActorRef<RunRounds>,
        RunRounds { rounds, reply }: RunRounds,
        server: &mut Server,
    ) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(server.run_rounds(&rounds).await);
        Ok(())
    }
}

impl Server {
    /// Runs these rounds, first to last.
    pub(crate) async fn run_rounds(&mut self, rounds: &[RoundId]) -> Result<FederationResult, FederationError> {
        for &round in rounds {
            run_round(self, round).await?;
        }
        Ok(FederationResult { global: self.global.clone(), rounds_done: rounds.len() as u32 })
    }
}
