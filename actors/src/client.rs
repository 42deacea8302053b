//! A client: shows its rows to its guard, trains on what the guard keeps, and reports once a ticket.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    cancel::CancelFlag,
    compute::{AbortOnDrop, Compute, Panicked},
    fanout::{Address, Answer},
    ports::{
        ClientAlgorithm, ClientMemories, ClientRows, LocalTrainer, LocalTraining, PortResult, TrainTask, TurnEnd,
        TurnStart,
    },
    protocol::{
        ChatRow, ClientId, RowLabel, Ticket, Verdict,
        messages::{AssessRequest, ClientMessage, ClientReport, GuardMessage, LocalWork, Parcel, TurnRequest},
    },
    records::{DropReason, GuardCounts},
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
    pub(crate) guard: Option<Address<GuardMessage>>,
    pub(crate) compute: Compute,
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
        let report = |guard, work| ClientReport { ticket, client, guard, work };
        let dropped = |guard, reason| Ok(report(guard, LocalWork::Dropped(reason)));

        let rows = match self.fetch_rows(client).await? {
            Ok(rows) => rows,
            Err(error) => return dropped(GuardCounts::default(), DropReason::TrainingFailed(error.to_string())),
        };
        let (kept, counts) = match self.screen(ticket, client, rows).await {
            Ok(screened) => screened,
            Err(reason) => return dropped(GuardCounts::default(), DropReason::GuardUnavailable(reason)),
        };
        if kept.is_empty() {
            return dropped(counts, DropReason::NoRows);
        }
        let n_examples = kept.len() as u64;
        match self.train(ticket, client, parcel, kept).await? {
            Ok((training, end)) => Ok(report(counts, LocalWork::Trained { training, n_examples, end })),
            Err(error) => dropped(counts, DropReason::TrainingFailed(error.to_string())),
        }
    }

    /// Trains as the strategy asks. What the client remembers is read here, and lives as long as its training.
    async fn train(
        &self,
        ticket: Ticket,
        client: ClientId,
        Parcel { global, instructions }: Parcel,
        rows: Arc<[ChatRow]>,
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

    /// The rows to train on: all without a guard, else those that it calls safe. No verdict, no row (invariant S-1).
    async fn screen(
        &self,
        ticket: Ticket,
        client: ClientId,
        rows: Arc<[ChatRow]>,
    ) -> Result<(Arc<[ChatRow]>, GuardCounts), String> {
        let Some(guard) = &self.guard else {
            let counts = count_verdicts(&rows, |_| false);
            return Ok((rows, counts));
        };
        let request = AssessRequest { ticket, client, rows: Arc::clone(&rows) };
        let verdicts = match guard.ask(None, |reply| GuardMessage::Assess(request, reply)).await {
            Answer::Reply(verdicts) => verdicts?,
            Answer::TimedOut | Answer::Died(_) => return Err("the guard stopped while it assessed the rows".to_owned()),
        };
        keep_safe_rows(rows, &verdicts)
    }
}

/// The rows that have a verdict of safe, and how the verdicts compare with the rows' labels.
fn keep_safe_rows(rows: Arc<[ChatRow]>, verdicts: &[Verdict]) -> Result<(Arc<[ChatRow]>, GuardCounts), String> {
    if verdicts.len() != rows.len() {
        return Err(format!("the guard gave {} verdicts for {} rows", verdicts.len(), rows.len()));
    }
    let counts = count_verdicts(&rows, |row| verdicts[row].is_unsafe);
    if counts.filtered == 0 {
        return Ok((rows, counts));
    }
    let safe = rows.iter().zip(verdicts).filter(|(_, verdict)| !verdict.is_unsafe).map(|(row, _)| row.clone());
    Ok((safe.collect(), counts))
}

fn count_verdicts(rows: &[ChatRow], is_filtered: impl Fn(usize) -> bool) -> GuardCounts {
    let mut counts = GuardCounts::default();
    for (index, row) in rows.iter().enumerate() {
        if is_filtered(index) {
            counts.filtered += 1;
            counts.filtered_safe += u64::from(row.label == Some(RowLabel::Safe));
        } else {
            counts.kept += 1;
            counts.kept_unsafe += u64::from(row.label == Some(RowLabel::Unsafe));
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::protocol::{Attempt, RoundId};

    fn row(label: Option<RowLabel>) -> ChatRow {
        ChatRow { label, ..ChatRow::single_turn("question", "answer") }
    }

    fn verdict(is_unsafe: bool) -> Verdict {
        Verdict { unsafe_probability: f32::from(u8::from(is_unsafe)), is_unsafe, hazards: Vec::new() }
    }

    #[test]
    fn s_1_only_rows_with_a_verdict_of_safe_are_kept() {
        use RowLabel::{Safe, Unsafe};
        let rows: Arc<[ChatRow]> = [Some(Safe), Some(Unsafe), Some(Safe), Some(Unsafe), None].map(row).into();
        let verdicts = [false, true, true, false, true].map(verdict);
        let (kept, counts) = keep_safe_rows(Arc::clone(&rows), &verdicts).unwrap();
        assert_eq!(*kept, [row(Some(Safe)), row(Some(Unsafe))]);
        assert_eq!(counts, GuardCounts { kept: 2, filtered: 3, kept_unsafe: 1, filtered_safe: 1 });
        assert!(keep_safe_rows(rows, &verdicts[1..]).is_err());
    }

    #[test]
    fn without_a_guard_every_row_is_kept_and_the_unsafe_are_counted() {
        let rows = [Some(RowLabel::Unsafe), None, Some(RowLabel::Safe)].map(row);
        let counts = count_verdicts(&rows, |_| false);
        assert_eq!(counts, GuardCounts { kept: 3, kept_unsafe: 1, ..GuardCounts::default() });
    }

    #[tokio::test]
    async fn r_2_a_turn_is_reported_once_and_only_under_its_own_ticket() {
        let ticket = |attempt| Ticket { round: RoundId(1), attempt: Attempt(attempt) };
        let report = |attempt| ClientReport {
            ticket: ticket(attempt),
            client: ClientId(4),
            guard: GuardCounts::default(),
            work: LocalWork::Dropped(DropReason::NoRows),
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
