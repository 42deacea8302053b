//! What a round's reports come to: pure bookkeeping.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    faults::{ClientFault, ServerFault},
    ports::Evaluation,
    protocol::{ClientId, ClientUpdate, LocalTraining, LocalWork, RequestId, RoundId, TrainReport, TurnEnd},
    records::{
        ClientOutcome, ClientRecord, ClientRole, DropReason, GuardCounts, PhaseSeconds, RejectReason, RoundOutcome,
        RoundRecord,
    },
};

/// What came of asking a client, under the last id that it was asked under.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reported {
    pub(crate) client: ClientId,
    pub(crate) id: RequestId,
    /// What the server sent it, in all attempts.
    pub(crate) bytes_down: u64,
    pub(crate) answer: Result<TrainReport, DropReason>,
    /// What was put in to go wrong with its turn, and did.
    pub(crate) fault: Option<ClientFault>,
    /// How its adapter differs in layout from what it was sent, if it does: found when the server gathers.
    #[serde(skip)]
    pub(crate) misfit: Option<String>,
}

/// An update, and what its client remembers if the update counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delivered {
    pub(crate) update: ClientUpdate,
    pub(crate) memory: Option<Arc<[u8]>>,
}

/// Bytes of adapters, and of other vectors of their size, that a round moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// From clients to the server.
    pub(crate) up: u64,
    /// From the server to clients, once an attempt.
    pub(crate) down: u64,
}

impl Reported {
    /// The client's row, and its update if it sent one for this very request (invariant R-2). The outcome of a client with
    /// an update is provisional: screening may still refuse it.
    pub(crate) fn resolve_outcome(self, round: RoundId) -> (ClientRecord, Option<Delivered>) {
        let Self { client, id, answer, fault, misfit, .. } = self;
        let mut record = ClientRecord {
            round,
            client,
            role: ClientRole::Honest,
            staleness: 0,
            outcome: ClientOutcome::Accepted,
            attempt: id.attempt.0,
            guard: GuardCounts::default(),
            n_examples: 0.0,
            steps: 0,
            train_tokens: 0,
            train_loss: None,
            train_seconds: 0.0,
            reused: false,
            update_norm: None,
            clipped_to: None,
            trust: None,
            fault,
        };
        let report = match answer {
            Ok(report) if report.id == id && report.client == client => report,
            Ok(report) => {
                tracing::warn!(%client, ?id, answered = ?report.id, "report for another request refused");
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
            LocalWork::Trained { training, end: TurnEnd { extras, memory } } => {
                record.n_examples = if training.n_examples.is_finite() { training.n_examples } else { 0.0 };
                record.steps = training.steps;
                record.train_tokens = training.tokens;
                // A row could not say what is not finite.
                record.train_loss = Some(training.mean_loss).filter(|loss| loss.is_finite());
                record.train_seconds = training.seconds;
                record.reused = training.reused;
                if let Some(difference) = misfit {
                    record.outcome = ClientOutcome::Rejected(RejectReason::LayoutMismatch(difference));
                    return (record, None);
                }
                let LocalTraining { adapter, n_examples, .. } = training;
                let update = ClientUpdate { client, adapter, n_examples, trust: 1.0, extras };
                (record, Some(Delivered { update, memory }))
            }
        }
    }

    fn bytes_up(&self) -> u64 {
        self.answer.as_ref().map_or(0, TrainReport::size_bytes)
    }
}

impl Traffic {
    /// What these reports and the turns before them moved.
    pub(crate) fn of<'a>(reports: impl Iterator<Item = &'a Reported>) -> Self {
        let mut traffic = Self { up: 0, down: 0 };
        for reported in reports {
            traffic.up += reported.bytes_up();
            traffic.down += reported.bytes_down;
        }
        traffic
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
        clipped: clients.iter().filter(|record| record.clipped_to.is_some()).count() as u32,
        rejected: count(|outcome| matches!(outcome, ClientOutcome::Rejected(_))),
        dropped: count(|outcome| matches!(outcome, ClientOutcome::Dropped(_))),
        rows: guard,
        train_loss: mean_loss(clients),
        train_tokens,
        trainings_reused: clients.iter().filter(|record| record.reused).count() as u32,
        train_tokens_per_second: training_speed(clients, seconds.train),
        update_norm: None,
        strategy: BTreeMap::new(),
        adapter_bytes_up: traffic.up,
        adapter_bytes_down: traffic.down,
        simulated_seconds: None,
        seconds,
        align: None,
        eval: Evaluation::new(),
        warnings: Vec::new(),
        faults: BTreeMap::new(),
        adapter_sha256: String::new(),
    }
}

/// How many faults were put in and struck, by name.
pub(crate) fn faults(clients: &[ClientRecord], server: [Option<ServerFault>; 3]) -> BTreeMap<String, u32> {
    let of_clients = clients.iter().filter_map(|record| record.fault).map(ClientFault::name);
    let mut counts = BTreeMap::new();
    for name in of_clients.chain(server.into_iter().flatten().map(ServerFault::name)) {
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

/// Tokens a second of the trainings that were computed: what was reused took neither part of the phase.
fn training_speed(clients: &[ClientRecord], train_seconds: f64) -> Option<f64> {
    let computed: u64 = clients.iter().filter(|record| !record.reused).map(|record| record.train_tokens).sum();
    (computed > 0 && train_seconds > 0.0).then(|| computed as f64 / train_seconds)
}

/// Mean of the accepted clients' losses, weighted by tokens; `None` if there is no token.
fn mean_loss(clients: &[ClientRecord]) -> Option<f64> {
    let accepted = clients.iter().filter(|record| record.outcome == ClientOutcome::Accepted);
    let (sum, tokens) = accepted
        .filter_map(|record| Some((record.train_loss?, record.train_tokens as f64)))
        .fold((0.0, 0.0), |(sum, tokens), (loss, weight)| (sum + loss * weight, tokens + weight));
    (tokens > 0.0).then(|| sum / tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::{Adapter, Attempt, Payload},
        testing::tiny_layout,
    };

    fn id(round: u32, attempt: u32) -> RequestId {
        RequestId { round: RoundId(round), attempt: Attempt(attempt) }
    }

    fn reported(client: u32, asked: RequestId, answered: RequestId, tokens: u64, mean_loss: f64) -> Reported {
        let adapter = Adapter::zeros(tiny_layout());
        let training = LocalTraining {
            adapter,
            n_examples: 5.0,
            steps: 3,
            tokens,
            learning_rate_sum: 0.3,
            mean_loss,
            seconds: 0.5,
            reused: false,
        };
        let guard = GuardCounts {
            kept: 5,
            filtered: 2,
            replaced: 3,
            reweighted: 1,
            kept_unsafe: 1,
            filtered_safe: 1,
            malformed: 2,
            cut: 3,
            reweighted_weight: 0.25,
            reweighted_unsafe_weight: 0.125,
        };
        let beside = |extras: Payload| extras.with_vector("beside", Adapter::zeros(tiny_layout()));
        let extras = if client == 2 { beside(Payload::default()) } else { Payload::default() };
        let work = LocalWork::Trained { training, end: TurnEnd { extras, memory: None } };
        let report = TrainReport { id: answered, client: ClientId(client), guard, work, fault: None };
        Reported { client: ClientId(client), id: asked, bytes_down: 32, misfit: None, answer: Ok(report), fault: None }
    }

    #[test]
    fn r_2_a_report_for_another_round_attempt_or_client_is_stale() {
        let asked = id(3, 2);
        let (record, update) = reported(1, asked, asked, 10, 1.0).resolve_outcome(RoundId(1));
        assert_eq!((record.outcome, record.attempt), (ClientOutcome::Accepted, 2));
        assert!((update.unwrap().update.n_examples - 5.0).abs() < 1e-12);
        let mut other_client = reported(1, asked, asked, 10, 1.0);
        other_client.client = ClientId(2);
        for stale in [reported(1, asked, id(2, 2), 10, 1.0), reported(1, asked, id(3, 1), 10, 1.0), other_client] {
            let (record, update) = stale.resolve_outcome(RoundId(1));
            assert_eq!((record.outcome, update), (ClientOutcome::Rejected(RejectReason::Stale), None));
        }
    }

    #[test]
    fn a_loss_that_is_not_finite_is_left_out_of_its_row_and_of_the_mean() {
        let asked = id(1, 1);
        let losses = [f64::NAN, f64::INFINITY, 2.0];
        let reports = losses.map(|loss| reported(1, asked, asked, 100, loss));
        let clients: Vec<ClientRecord> =
            reports.into_iter().map(|report| report.resolve_outcome(RoundId(1)).0).collect();
        let found: Vec<_> = clients.iter().map(|record| record.train_loss).collect();
        assert_eq!(found, [None, None, Some(2.0)]);
        assert_eq!(mean_loss(&clients), Some(2.0));
    }

    #[test]
    fn a_summary_counts_outcomes_rows_bytes_and_weighs_losses_by_tokens() {
        let asked = id(1, 1);
        let silent = Reported {
            client: ClientId(3),
            id: id(1, 3),
            bytes_down: 96,
            answer: Err(DropReason::Crashed),
            fault: None,
            misfit: None,
        };
        let reports = [reported(1, asked, asked, 300, 1.0), reported(2, asked, asked, 100, 2.0), silent];
        let traffic = Traffic::of(reports.iter());
        // Client 2 sends a vector beside its adapter.
        assert_eq!(traffic, Traffic { up: 3 * 32, down: 5 * 32 });
        let clients: Vec<ClientRecord> =
            reports.into_iter().map(|reported| reported.resolve_outcome(RoundId(1)).0).collect();
        let seconds = PhaseSeconds { train: 2.0, ..PhaseSeconds::default() };
        let record = summary(RoundId(1), RoundOutcome::Committed, seconds, &clients, traffic);
        assert_eq!((record.accepted, record.rejected, record.dropped), (2, 0, 1));
        assert_eq!((record.rows.kept, record.rows.filtered), (10, 4));
        assert_eq!((record.rows.replaced, record.rows.reweighted, record.rows.malformed), (6, 2, 4));
        assert_eq!(record.rows.cut, 6);
        assert!((record.rows.reweighted_weight - 0.5).abs() < 1e-12);
        assert!((record.rows.reweighted_unsafe_weight - 0.25).abs() < 1e-12);
        assert_eq!(record.train_loss, Some(1.25));
        assert!((record.train_tokens_per_second.unwrap() - 200.0).abs() < 1e-12);
        assert_eq!(record.cohort, [ClientId(1), ClientId(2), ClientId(3)]);
    }

    #[test]
    fn a_speed_rests_on_tokens_that_were_computed() {
        let asked = id(1, 1);
        let clients = |reused: [bool; 2]| -> Vec<ClientRecord> {
            let records = [reported(1, asked, asked, 300, 1.0), reported(2, asked, asked, 100, 1.0)].into_iter();
            records
                .zip(reused)
                .map(|(report, reused)| ClientRecord { reused, ..report.resolve_outcome(RoundId(1)).0 })
                .collect()
        };
        let speed = |reused: [bool; 2], train: f64| {
            let seconds = PhaseSeconds { train, ..PhaseSeconds::default() };
            let traffic = Traffic { up: 0, down: 0 };
            let record = summary(RoundId(1), RoundOutcome::Committed, seconds, &clients(reused), traffic);
            assert_eq!(record.train_tokens, 400, "what was reused was trained on, too");
            (record.trainings_reused, record.train_tokens_per_second)
        };
        assert_eq!(speed([false, false], 2.0), (0, Some(200.0)));
        assert_eq!(speed([true, false], 2.0), (1, Some(50.0)));
        assert_eq!(speed([true, true], 0.001), (2, None));
        assert_eq!(speed([false, false], 0.0), (0, None));
    }
}
