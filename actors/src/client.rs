//! A client: shows its rows to its guard, trains on what the guard leaves of them, and reports once a ticket.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    address::{Address, Answer},
    cancel::CancelFlag,
    compute::{AbortOnDrop, Compute, Panicked},
    faults::{ClientFault, Faults, ON_PURPOSE, not_finite, of_another_layout},
    guard::{self, GuardMessage},
    policy::{Assessed, GuardPolicy, VerdictOrder, count_unguarded},
    ports::{ClientAlgorithm, ClientMemories, ClientRows, LocalTrainer, PortResult, TrainTask, TurnStart},
    protocol::{
        AssessOrder, Attempt, ChatRow, ClientId, LocalTraining, LocalWork, RequestId, RoundId, TrainOrder, TrainReport,
        TrainRows, TurnEnd,
    },
    records::{DropReason, GuardCounts},
    streams::{Purpose, stream},
};

/// To a client.
#[derive(Debug)]
pub(crate) enum ClientMessage {
    /// Filter your rows, train, report.
    Train(TrainOrder, RpcReplyPort<TrainReport>),
    /// Nobody waits for this task any more.
    Abandon(RequestId),
    /// From its own work: the task is over.
    Done(RequestId, Result<TrainReport, Panicked>),
}

/// The actor of one selected client. Between tasks it holds nothing: rows and adapter live as long as its task.
#[derive(Clone, Copy)]
pub(crate) struct Client;

/// What every client of a run works with.
pub(crate) struct ClientEnv {
    pub(crate) rows: Arc<dyn ClientRows>,
    pub(crate) trainer: Arc<dyn LocalTrainer>,
    /// What the strategy has clients do beside training.
    pub(crate) algorithm: Arc<dyn ClientAlgorithm>,
    /// What clients remember of earlier rounds.
    pub(crate) memories: Arc<dyn ClientMemories>,
    /// The guard that the server handed out, if it did.
    pub(crate) screener: Option<Screener>,
    /// Seed of every random stream.
    pub(crate) seed: u64,
    /// What goes wrong on purpose.
    pub(crate) faults: Faults,
    pub(crate) compute: Compute,
}

/// A guard as clients use it.
pub(crate) struct Screener {
    pub(crate) guard: Address<GuardMessage>,
    /// What of a row it is shown.
    pub(crate) assessed: Assessed,
    /// Which row gets which verdict.
    pub(crate) verdicts: VerdictOrder,
    /// What becomes of a row that it calls unsafe.
    pub(crate) policy: GuardPolicy,
}

/// One client's own.
pub(crate) struct ClientState {
    client: ClientId,
    env: Arc<ClientEnv>,
    /// The task at hand, if there is one.
    task: Option<Task>,
}

/// A task at hand: dropping it cancels its work.
struct Task {
    id: RequestId,
    reply: RpcReplyPort<TrainReport>,
    _work: AbortOnDrop,
}

impl Actor for Client {
    type Msg = ClientMessage;
    type State = ClientState;
    type Arguments = (ClientId, Arc<ClientEnv>);

    async fn pre_start(
        &self,
        _: ActorRef<ClientMessage>,
        (client, env): (ClientId, Arc<ClientEnv>),
    ) -> Result<ClientState, ActorProcessingErr> {
        Ok(ClientState { client, env, task: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<ClientMessage>,
        message: ClientMessage,
        state: &mut ClientState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ClientMessage::Train(order, reply) => state.start_task(&myself, order, reply),
            ClientMessage::Abandon(id) => state.abandon(id),
            ClientMessage::Done(id, result) => end_task(&mut state.task, state.client, id, result)?,
        }
        Ok(())
    }
}

impl ClientState {
    /// Begins a task; one that is still at hand is cancelled, for whoever asked for it has gone on.
    fn start_task(&mut self, myself: &ActorRef<ClientMessage>, order: TrainOrder, reply: RpcReplyPort<TrainReport>) {
        let (id, env, myself) = (order.id, Arc::clone(&self.env), myself.clone());
        let work = AbortOnDrop::spawn(async move {
            let result = env.run(order).await;
            let _ = myself.cast(ClientMessage::Done(id, result));
        });
        self.task = Some(Task { id, reply, _work: work });
    }

    fn abandon(&mut self, id: RequestId) {
        self.task.take_if(|task| task.id == id);
    }
}

/// Reports a finished task, once; a task that is no longer at hand is over already (invariant R-2).
fn end_task(
    at_hand: &mut Option<Task>,
    client: ClientId,
    id: RequestId,
    result: Result<TrainReport, Panicked>,
) -> Result<(), Panicked> {
    let Some(task) = at_hand.take_if(|task| task.id == id) else {
        tracing::debug!(%client, ?id, "late result of an abandoned task ignored");
        return Ok(());
    };
    if task.reply.send(result?).is_err() {
        tracing::debug!(%client, ?id, "report came too late and is not counted");
    }
    Ok(())
}

impl ClientEnv {
    /// Runs one client's task from its first row to its report.
    ///
    /// No step waits for another actor while it holds a compute slot, so that tasks cannot block one another.
    pub(crate) async fn run(&self, order: TrainOrder) -> Result<TrainReport, Panicked> {
        let TrainOrder { id, client, .. } = order;
        let fault = self.faults.of_client(id.round, client);
        let report = |guard, work, fault| TrainReport { id, client, guard, work, fault };
        let dropped = |guard, reason| Ok(report(guard, LocalWork::Dropped(reason), None));

        let rows = match self.fetch_rows(client).await? {
            Ok(rows) => rows,
            Err(error) => return dropped(GuardCounts::default(), DropReason::TrainingFailed(error.to_string())),
        };
        if fault == Some(ClientFault::GuardOutage) && self.screener.is_some() {
            let reason = DropReason::GuardUnavailable(ON_PURPOSE.to_owned());
            return Ok(report(GuardCounts::default(), LocalWork::Dropped(reason), fault));
        }
        let (rows, counts) = match self.screen(id, client, rows).await {
            Ok(screened) => screened,
            Err(reason) => return dropped(GuardCounts::default(), DropReason::GuardUnavailable(reason)),
        };
        if rows.weight_sum() <= 0.0 {
            return dropped(counts, DropReason::NoRows);
        }
        match self.train(order, rows).await? {
            Ok((training, end)) => {
                let (training, fault) = strike(fault, id.attempt, training)?;
                Ok(report(counts, LocalWork::Trained { training, end }, fault))
            }
            Err(error) => dropped(counts, DropReason::TrainingFailed(error.to_string())),
        }
    }

    /// Trains as the strategy asks. What the client remembers is read here, and lives as long as its training.
    async fn train(
        &self,
        order: TrainOrder,
        rows: TrainRows,
    ) -> Result<PortResult<(LocalTraining, TurnEnd)>, Panicked> {
        let TrainOrder { id, client, global, instructions, .. } = order;
        let (trainer, algorithm, memories) =
            (Arc::clone(&self.trainer), Arc::clone(&self.algorithm), Arc::clone(&self.memories));
        let work = move |cancel: &CancelFlag| {
            let memory = if algorithm.keeps_memory() { memories.memory(client, id.round.before())? } else { None };
            let start =
                TurnStart { global: global.trainable(), instructions: &instructions, memory: memory.as_deref() };
            let correction = algorithm.correction(start)?;
            let task = TrainTask { client, round: id.round, global: global.clone(), correction };
            let training = trainer.train(&task, &rows, cancel)?;
            let end = algorithm.conclude(start, &training)?;
            Ok((training, end))
        };
        self.compute.run(work).await
    }

    async fn fetch_rows(&self, client: ClientId) -> Result<PortResult<Arc<[ChatRow]>>, Panicked> {
        let rows = Arc::clone(&self.rows);
        self.compute.run_without_slot(move |_| rows.rows(client)).await
    }

    /// The rows to train on: all without a guard, else what its verdicts leave of them. No verdict, no row (invariant S-1).
    async fn screen(
        &self,
        id: RequestId,
        client: ClientId,
        rows: Arc<[ChatRow]>,
    ) -> Result<(TrainRows, GuardCounts), String> {
        let Some(Screener { guard: address, assessed, verdicts: dealt, policy }) = &self.screener else {
            let counts = count_unguarded(&rows);
            return Ok((TrainRows::new(rows), counts));
        };
        let order = AssessOrder { id, client, rows: assessed.shown(&rows) };
        let question = |_, reply| GuardMessage::Assess(order.clone(), reply);
        let verdicts = match address.ask_with_retry(guard::ATTEMPTS, None, question).await.1 {
            Answer::Reply(verdicts) => verdicts?,
            Answer::TimedOut | Answer::Died(_) => return Err(guard::STOPPED.to_owned()),
        };
        // Of no round: a client's row fares alike whenever the client is selected.
        let stream_of = |purpose| stream(self.seed, purpose, RoundId::START, Some(client));
        let verdicts = dealt.arranged(verdicts, &mut stream_of(Purpose::VerdictOrder));
        let mut refusals = stream_of(Purpose::Refusals);
        policy.apply(&rows, &verdicts, &mut refusals)
    }
}

/// What a fault leaves of a training, and the fault if it is one that a report shows.
fn strike(
    fault: Option<ClientFault>,
    attempt: Attempt,
    mut training: LocalTraining,
) -> Result<(LocalTraining, Option<ClientFault>), Panicked> {
    match fault {
        Some(ClientFault::Crash) if attempt == Attempt::FIRST => return Err(Panicked(ON_PURPOSE.to_owned())),
        Some(ClientFault::NotFinite) => training.adapter = not_finite(&training.adapter),
        Some(ClientFault::OtherLayout) => training.adapter = of_another_layout(&training.adapter),
        Some(ClientFault::Crash | ClientFault::Offline | ClientFault::GuardOutage) | None => {
            return Ok((training, None));
        }
    }
    Ok((training, fault))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn r_2_a_task_is_reported_once_and_only_under_its_own_id() {
        let id = |attempt| RequestId { round: RoundId(1), attempt: Attempt(attempt) };
        let report = |attempt| TrainReport {
            id: id(attempt),
            client: ClientId(4),
            guard: GuardCounts::default(),
            work: LocalWork::Dropped(DropReason::NoRows),
            fault: None,
        };
        let (reply, mut answer) = oneshot::channel();
        let task = Task { id: id(2), reply: reply.into(), _work: AbortOnDrop::spawn(async {}) };
        let mut task = Some(task);
        end_task(&mut task, ClientId(4), id(1), Ok(report(1))).unwrap();
        assert!(answer.try_recv().is_err(), "a late result was reported");
        end_task(&mut task, ClientId(4), id(2), Ok(report(2))).unwrap();
        assert_eq!(answer.try_recv().unwrap(), report(2));
        end_task(&mut task, ClientId(4), id(2), Ok(report(2))).unwrap();
        assert!(task.is_none());
    }
}
