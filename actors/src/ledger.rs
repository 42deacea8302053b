//! What a round's reports come to: pure bookkeeping.

use crate::{
    ports::{ClientUpdate, Evaluation},
    protocol::{
        ClientId, RoundId, Ticket,
        messages::{ClientReport, LocalWork},
    },
    records::{
        ClientOutcome, ClientRecord, DropReason, GuardCounts, PhaseSeconds, RejectReason, RoundOutcome, RoundRecord,
    },
};

/// What came of asking a client, under the last ticket that it was asked under.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reported {
    pub(crate) client: ClientId,
    pub(crate) ticket: Ticket,
    pub(crate) answer: Result<ClientReport, DropReason>,
}

/// Bytes of adapters that a round moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// From clients to the server.
    pub(crate) up: u64,
    /// From the server to clients, once an attempt.
    pub(crate) down: u64,
}

impl Reported {
    /// The client's row, and its update if it sent one for this very ticket (invariant R-2). The outcome of a client with
    /// an update is provisional: screening may still refuse it.
    pub(crate) fn settle(self) -> (ClientRecord, Option<ClientUpdate>) {
        let Self { client, ticket, answer } = self;
        let mut record = ClientRecord {
            round: ticket.round,
            client,
            outcome: ClientOutcome::Accepted,
            attempt: ticket.attempt.0,
            guard: GuardCounts::default(),
            steps: 0,
            train_tokens: 0,
            train_loss: None,
            train_seconds: 0.0,
            update_norm: None,
        };
        let report = match answer {
            Ok(report) if report.ticket == ticket && report.client == client => report,
            Ok(report) => {
                tracing::warn!(%client, ?ticket, answered = ?report.ticket, "report for another ticket refused");
                record.outcome = ClientOutcome::Rejected(RejectReason::Stale);
                return (record, None);
            }
            Err(reason) => {
                record.outcome = ClientOutcome::Dropped(reason);
                return (record, None);
            }
        };
        record.guard = report.guard;
        match report.work {
            LocalWork::Dropped(reason) => {
                record.outcome = ClientOutcome::Dropped(reason);
                (record, None)
            }
            LocalWork::Trained { training, n_examples } => {
                record.steps = training.steps;
                record.train_tokens = training.tokens;
                record.train_loss = Some(training.mean_loss);
                record.train_seconds = training.seconds;
                (record, Some(ClientUpdate { client, adapter: training.adapter, n_examples }))
            }
        }
    }

    fn bytes_up(&self) -> u64 {
        match &self.answer {
            Ok(ClientReport { work: LocalWork::Trained { training, .. }, .. }) => training.adapter.size_bytes(),
            _ => 0,
        }
    }
}

impl Traffic {
    /// What these reports moved, given the size of the global adapter in bytes.
    pub(crate) fn of(reports: &[Reported], adapter_bytes: u64) -> Self {
        let attempts: u64 = reports.iter().map(|reported| u64::from(reported.ticket.attempt.0)).sum();
        Self { up: reports.iter().map(Reported::bytes_up).sum(), down: attempts * adapter_bytes }
    }
}

/// A round's row as far as its clients' rows decide it.
pub(crate) fn summary(
    round: RoundId,
    outcome: RoundOutcome,
    seconds: PhaseSeconds,
    clients: &[ClientRecord],
    traffic: Traffic,
) -> RoundRecord {
    let count =
        |counts: fn(&ClientOutcome) -> bool| clients.iter().filter(|record| counts(&record.outcome)).count() as u32;
    let mut guard = GuardCounts::default();
    for record in clients {
        guard += record.guard;
    }
    let train_tokens: u64 = clients.iter().map(|record| record.train_tokens).sum();
    RoundRecord {
        round,
        outcome,
        cohort: clients.iter().map(|record| record.client).collect(),
        accepted: count(|outcome| matches!(outcome, ClientOutcome::Accepted)),
        rejected: count(|outcome| matches!(outcome, ClientOutcome::Rejected(_))),
        dropped: count(|outcome| matches!(outcome, ClientOutcome::Dropped(_))),
        rows_kept: guard.kept,
        rows_filtered: guard.filtered,
        rows_kept_unsafe: guard.kept_unsafe,
        rows_filtered_safe: guard.filtered_safe,
        train_loss: mean_loss(clients),
        train_tokens,
        train_tokens_per_second: if seconds.train > 0.0 { train_tokens as f64 / seconds.train } else { 0.0 },
        update_norm: None,
        adapter_bytes_up: traffic.up,
        adapter_bytes_down: traffic.down,
        seconds,
        align: None,
        eval: Evaluation::new(),
        warnings: Vec::new(),
        adapter_sha256: String::new(),
    }
}

/// Mean of the accepted clients' losses, weighted by tokens; `None` if there is no token.
fn mean_loss(clients: &[ClientRecord]) -> Option<f64> {
    let accepted = clients.iter().filter(|record| record.outcome == ClientOutcome::Accepted);
    let (sum, tokens) = accepted
        .filter_map(|record| Some((record.train_loss?, record.train_tokens as f64)))
        .fold((0.0, 0.0), |(sum, tokens), (loss, weight)| (sum + loss * weight, tokens + weight));
    (tokens > 0.0).then(|| sum / tokens)
}
