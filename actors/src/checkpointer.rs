//! The checkpointer: keeps what rounds leave behind.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    address::Question,
    cancel::CancelFlag,
    compute::{Compute, Panicked},
    ports::{PortError, PortResult, RunStore, StateAfter},
    protocol::{
        ClientId, GlobalModel,
        server::{CommitOrder, StrategyState},
    },
    records::{ClientRecord, RoundRecord},
};

/// To the checkpointer; the answer is the record as stored.
pub(crate) type CommitMessage = Question<CommitOrder, PortResult<Box<RoundRecord>>>;

/// The actor that owns the run's store. There is one store, so there is no second checkpointer: if it dies, the run ends.
pub(crate) struct Checkpointer;

pub(crate) struct CheckpointerState {
    /// Lent to a blocking thread during a commit; gone if the store panicked.
    pub(crate) store: Option<Box<dyn RunStore>>,
    pub(crate) commits: CommitGate,
    pub(crate) compute: Compute,
}

/// Lets commits through one at a time, until a run that was cancelled closes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommitGate(Arc<Mutex<()>>);

impl CommitGate {
    /// Waits until no commit is under way. None begins afterwards, for the run's flag is raised by then.
    pub(crate) async fn close(&self) {
        let _no_commit = self.0.lock().await;
    }
}

impl Actor for Checkpointer {
    type Msg = CommitMessage;
    type State = CheckpointerState;
    type Arguments = CheckpointerState;

    async fn pre_start(
        &self,
        _: ActorRef<CommitMessage>,
        state: CheckpointerState,
    ) -> Result<CheckpointerState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<CommitMessage>,
        Question(order, reply): CommitMessage,
        state: &mut CheckpointerState,
    ) -> Result<(), ActorProcessingErr> {
        let CommitOrder { id, global, strategy, in_flight, memories, record, clients } = order;
        tracing::trace!(?id, "round to commit");
        let round = Leaves { global, strategy, in_flight, memories, clients };
        let _ = reply.send(state.commit(round, record).await?);
        Ok(())
    }
}

impl CheckpointerState {
    async fn commit(
        &mut self,
        round: Leaves,
        record: Box<RoundRecord>,
    ) -> Result<PortResult<Box<RoundRecord>>, Panicked> {
        let mut store = self.store.take().ok_or_else(|| Panicked("the run store is lost".to_owned()))?;
        let gate = Arc::clone(&self.commits.0);
        let work = move |cancel: &CancelFlag| {
            let _commit = gate.blocking_lock();
            if cancel.is_cancelled() {
                return (store, Err(PortError::Cancelled));
            }
            let stored = store_round(store.as_mut(), &round, record);
            (store, stored)
        };
        let (store, stored) = self.compute.run_without_slot(work).await?;
        self.store = Some(store);
        Ok(stored)
    }
}

/// What a round leaves behind beside its row.
struct Leaves {
    global: GlobalModel,
    strategy: StrategyState,
    in_flight: Arc<[u8]>,
    memories: Vec<(ClientId, Arc<[u8]>)>,
    clients: Vec<ClientRecord>,
}

/// Stores the checkpoint, then the rows, whose seconds of commit are therefore those of the checkpoint.
fn store_round(store: &mut dyn RunStore, round: &Leaves, mut record: Box<RoundRecord>) -> PortResult<Box<RoundRecord>> {
    let begun = Instant::now();
    record.adapter_sha256 = round.global.sha256();
    store.checkpoint(StateAfter {
        round: record.round,
        global: &round.global,
        strategy: &round.strategy.bytes,
        in_flight: &round.in_flight,
        memories: &round.memories,
    })?;
    record.seconds.commit = begun.elapsed().as_secs_f64();
    store.append(&record, &round.clients)?;
    Ok(record)
}
