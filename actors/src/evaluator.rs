//! The evaluator: measures the global adapter.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    address::Question,
    compute::{Compute, Panicked},
    faults::{Faults, ON_PURPOSE, ServerFault},
    ports::{Benchmarks, Evaluation, PortError, PortResult},
    protocol::server::EvaluateOrder,
};

/// To the evaluator.
pub(crate) type EvaluateMessage = Question<EvaluateOrder, PortResult<Evaluation>>;

/// The actor that runs the benchmarks. It keeps nothing between rounds.
#[derive(Clone, Copy)]
pub(crate) struct Evaluator;

/// What it works with.
#[derive(Clone)]
pub(crate) struct EvaluatorState {
    pub(crate) benchmarks: Arc<dyn Benchmarks>,
    /// What goes wrong on purpose.
    pub(crate) faults: Faults,
    pub(crate) compute: Compute,
    /// How long an evaluation may take.
    pub(crate) limit: Duration,
}

impl Actor for Evaluator {
    type Msg = EvaluateMessage;
    type State = EvaluatorState;
    type Arguments = EvaluatorState;

    async fn pre_start(
        &self,
        _: ActorRef<EvaluateMessage>,
        state: EvaluatorState,
    ) -> Result<EvaluatorState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<EvaluateMessage>,
        Question(order, reply): EvaluateMessage,
        state: &mut EvaluatorState,
    ) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(state.evaluate(order).await?);
        Ok(())
    }
}

impl EvaluatorState {
    async fn evaluate(
        &self,
        EvaluateOrder { id, global, scope }: EvaluateOrder,
    ) -> Result<PortResult<Evaluation>, Panicked> {
        let round = id.round;
        if self.faults.of_server(round, ServerFault::EvaluationFailure).is_some() {
            return Ok(Err(PortError::Failed(ON_PURPOSE.to_owned())));
        }
        let benchmarks = Arc::clone(&self.benchmarks);
        let work = move |cancel: &_| benchmarks.evaluate(round, &global, scope, cancel);
        Ok(self.compute.run_within(self.limit, work).await?.unwrap_or_else(|overdue| Err(overdue.into())))
    }
}
