//! Constitutional AI on the server: realigns the global adapter after aggregation.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    address::Question,
    compute::{Compute, Panicked},
    faults::{Faults, ON_PURPOSE, ServerFault},
    ports::{PortError, PortResult, Realigner, Realignment},
    protocol::{GlobalModel, RoundId, server::RealignOrder},
    screening,
};

/// To the Constitutional AI actor.
pub(crate) type RealignMessage = Question<RealignOrder, PortResult<Realignment>>;

/// The actor that realigns. It keeps nothing between rounds.
#[derive(Clone, Copy)]
pub(crate) struct CaiGenerator;

/// What it works with.
#[derive(Clone)]
pub(crate) struct CaiState {
    pub(crate) realigner: Arc<dyn Realigner>,
    /// What goes wrong on purpose.
    pub(crate) faults: Faults,
    pub(crate) compute: Compute,
    /// How long a realignment may take.
    pub(crate) limit: Duration,
}

impl Actor for CaiGenerator {
    type Msg = RealignMessage;
    type State = CaiState;
    type Arguments = CaiState;

    async fn pre_start(&self, _: ActorRef<RealignMessage>, state: CaiState) -> Result<CaiState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<RealignMessage>,
        Question(order, reply): RealignMessage,
        state: &mut CaiState,
    ) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(state.realign(order.id.round, order.global).await?);
        Ok(())
    }
}

impl CaiState {
    /// Realigns, and lets no adapter through that the aggregator would not (invariants ).
    async fn realign(&self, round: RoundId, global: GlobalModel) -> Result<PortResult<Realignment>, Panicked> {
        if self.faults.of_server(round, ServerFault::RealignmentFailure).is_some() {
            return Ok(Err(PortError::Failed(ON_PURPOSE.to_owned())));
        }
        let realigner = Arc::clone(&self.realigner);
        let work = move |cancel: &_| {
            let realignment = realigner.realign(round, &global, cancel)?;
            screening::check(global.trainable(), &realignment.adapter)
                .map_err(|error| PortError::Failed(error.to_string()))?;
            Ok(realignment)
        };
        Ok(self.compute.run_within(self.limit, work).await?.unwrap_or_else(|overdue| Err(overdue.into())))
    }
}
