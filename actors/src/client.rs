//! A client: shows its rows to its guard, trains on what the guard leaves of them, and reports once a ticket.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    cancel::CancelFlag,
    compute::{AbortOnDrop, Compute, Panicked},
    fanout::{Address, Answer},
    faults::{ClientFault, Faults, ON_PURPOSE, not_finite, of_another_layout},
    policy::{Assessed, GuardPolicy, count_unguarded},
    ports::{
        ClientAlgorithm, ClientMemories, ClientRows, LocalTrainer, LocalTraining, PortResult, TrainTask, TurnEnd,
        TurnStart,
    },
    protocol::{
        Attempt, ChatRow, ClientId, RoundId, Ticket, TrainRows,
        messages::{AssessRequest, ClientMessage, ClientReport, GuardMessage, LocalWork, Parcel, TurnRequest},
    },
    records::{DropReason, GuardCounts},
    streams::{Purpose, stream},
};

/// The actor of one selected client. Between turns it holds nothing: rows and adapter live as long as its turn.
#[derive(Clone, Copy)]
pub(crate) struct Client;

/// What every client of a run works with.
pub(crate) struct Site {
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
    /// What becomes of a row that it calls unsafe.
    pub(crate) policy: GuardPolicy,
}

/// One client's own.
pub(crate) struct ClientState {
    id: ClientId,
    site: Arc<Site>,
    /// The turn at hand, if there is one.
    turn: Option<Turn>,
}

/// A turn at hand: dropping it cancels its work.
struct Turn {
    ticket: Ticket,
    reply: RpcReplyPort<ClientReport>,
    _work: AbortOnDrop,
}

impl Actor for Client {
    type Msg = ClientMessage;
    type State = ClientState;
    type Arguments = (ClientId, Arc<Site>);

    async fn pre_start(
        &self,
        _: ActorRef<ClientMessage>,
        (id, site): (ClientId, Arc<Site>),
    ) -> Result<ClientState, ActorProcessingErr> {
        Ok(ClientState { id, site, turn: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<ClientMessage>,
        message: ClientMessage,
        state: &mut ClientState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ClientMessage::TakeTurn(request, reply) => state.start_turn(&myself, request, reply),
            ClientMessage::Abandon(ticket) => state.abandon(ticket),
            ClientMessage::TurnOver(ticket, result) => end_turn(&mut state.turn, state.id, ticket, result)?,
        }
        Ok(())
    }
}

impl ClientState {
    /// Begins a turn; one that is still at hand is cancelled, for whoever asked for it has gone on.
    fn start_turn(
        &mut self,
        myself: &ActorRef<ClientMessage>,
        TurnRequest { ticket, parcel }: TurnRequest,
        reply: RpcReplyPort<ClientReport>,
    ) {
        let (client, site, myself) = (self.id, Arc::clone(&self.site), myself.clone());
        let work = AbortOnDrop::spawn(async move {
            let result = site.take_turn(ticket, client, parcel).await;
            let _ = myself.cast(ClientMessage::TurnOver(ticket, result));
        });
        self.turn = Some(Turn { ticket, reply, _work: work });
    }

    fn abandon(&mut self, ticket: Ticket) {
        self.turn.take_if(|turn| turn.ticket == ticket);
    }
}

/// Reports a finished turn, once; a turn that is no longer at hand is over already (invariant R-2).
fn end_turn(
    at_hand: &mut Option<Turn>,
    client: ClientId,
    ticket: Ticket,
    result: Result<ClientReport, Panicked>,
) -> Result<(), Panicked> {
    let Some(turn) = at_hand.take_if(|turn| turn.ticket == ticket) else {
        tracing::debug!(%client, ?ticket, "late result of an abandoned turn ignored");
        return Ok(());
    };
    if turn.reply.send(result?).is_err() {
        tracing::debug!(%client, ?ticket, "report came too late and is not counted");
    }
    Ok(())
}

impl Site {
    /// One client's turn from its first row to its report.
    ///
    /// No step waits for another actor while it holds a compute slot, so that turns cannot block one another.
    pub(crate) async fn take_turn(
        &self,
        ticket: Ticket,
        client: ClientId,
        parcel: Parcel,
    ) -> Result<ClientReport, Panicked> {
        let fault = self.faults.of_client(ticket.round, client);
        let report = |guard, work, fault| ClientReport { ticket, client, guard, work, fault };
        let dropped = |guard, reason| Ok(report(guard, LocalWork::Dropped(reason), None));

        let rows = match self.fetch_rows(client).await? {
            Ok(rows) => rows,
            Err(error) => return dropped(GuardCounts::default(), DropReason::TrainingFailed(error.to_string())),
        };
        if fault == Some(ClientFault::GuardOutage) && self.screener.is_some() {
            let reason = DropReason::GuardUnavailable(ON_PURPOSE.to_owned());
            return Ok(report(GuardCounts::default(), LocalWork::Dropped(reason), fault));
        }
        let (rows, counts) = match self.screen(ticket, client, rows).await {
            Ok(screened) => screened,
            Err(reason) => return dropped(GuardCounts::default(), DropReason::GuardUnavailable(reason)),
        };
        if rows.weight_sum() <= 0.0 {
            return dropped(counts, DropReason::NoRows);
        }
        match self.train(ticket, client, parcel, rows).await? {
            Ok((training, end)) => {
                let (training, fault) = strike(fault, ticket.attempt, training)?;
                Ok(report(counts, LocalWork::Trained { training, end }, fault))
            }
            Err(error) => dropped(counts, DropReason::TrainingFailed(error.to_string())),
        }
    }

    /// Trains as the strategy asks. What the client remembers is read here, and lives as long as its training.
    async fn train(
        &self,
        ticket: Ticket,
        client: ClientId,
        Parcel { global, instructions }: Parcel,
        rows: TrainRows,
    ) -> Result<PortResult<(LocalTraining, TurnEnd)>, Panicked> {
        let (trainer, algorithm, memories) =
            (Arc::clone(&self.trainer), Arc::clone(&self.algorithm), Arc::clone(&self.memories));
        let work = move |cancel: &CancelFlag| {
            let memory = if algorithm.keeps_memory() { memories.memory(client, ticket.round.before())? } else { None };
            let start = TurnStart { global: &global, instructions: &instructions, memory: memory.as_deref() };
            let correction = algorithm.correction(start)?;
            let task = TrainTask { client, round: ticket.round, global: global.clone(), correction };
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
        ticket: Ticket,
        client: ClientId,
        rows: Arc<[ChatRow]>,
    ) -> Result<(TrainRows, GuardCounts), String> {
        let Some(Screener { guard, assessed, policy }) = &self.screener else {
            let counts = count_unguarded(&rows);
            return Ok((TrainRows::new(rows), counts));
        };
        let request = AssessRequest { ticket, client, rows: assessed.shown(&rows) };
        let verdicts = match guard.ask(None, |reply| GuardMessage::Assess(request, reply)).await {
            Answer::Reply(verdicts) => verdicts?,
            Answer::TimedOut | Answer::Died(_) => return Err("the guard stopped while it assessed the rows".to_owned()),
        };
        // Of no round: a client's row gets the same refusal whenever the client is selected.
        let mut refusals = stream(self.seed, Purpose::Refusals, RoundId::START, Some(client));
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
    use crate::protocol::Attempt;

    #[tokio::test]
    async fn r_2_a_turn_is_reported_once_and_only_under_its_own_ticket() {
        let ticket = |attempt| Ticket { round: RoundId(1), attempt: Attempt(attempt) };
        let report = |attempt| ClientReport {
            ticket: ticket(attempt),
            client: ClientId(4),
            guard: GuardCounts::default(),
            work: LocalWork::Dropped(DropReason::NoRows),
            fault: None,
        };
        let (reply, mut answer) = oneshot::channel();
        let turn = Turn { ticket: ticket(2), reply: reply.into(), _work: AbortOnDrop::spawn(async {}) };
        let mut turn = Some(turn);
        end_turn(&mut turn, ClientId(4), ticket(1), Ok(report(1))).unwrap();
        assert!(answer.try_recv().is_err(), "a late result was reported");
        end_turn(&mut turn, ClientId(4), ticket(2), Ok(report(2))).unwrap();
        assert_eq!(answer.try_recv().unwrap(), report(2));
        end_turn(&mut turn, ClientId(4), ticket(2), Ok(report(2))).unwrap();
        assert!(turn.is_none());
    }
}
