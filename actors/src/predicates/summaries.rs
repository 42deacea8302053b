//! Consistency of a round's row with the rows of its clients.

use super::{Difference, expect, require};
use crate::{
    protocol::ClientId,
    records::{ClientOutcome, ClientRecord, GuardCounts, RoundRecord},
};

/// Relative tolerance of floating-point sums that were stored as text.
const TOLERANCE: f64 = 1e-9;

/// Requires cohort, counts of outcomes and sums of a round to match the rows of its clients.
pub(super) fn check(round: &RoundRecord, clients: &[&ClientRecord]) -> Result<(), Difference> {
    let place = |what: &str| format!("{}, {what}", round.round);
    let named: Vec<ClientId> = clients.iter().map(|record| record.client).collect();
    expect(place("cohort (expected: clients with a row)"), &named, &round.cohort)?;
    let ascends = named.windows(2).all(|pair| pair[0] < pair[1]);
    require(ascends, place("clients"), "each once, in order of id", format!("{named:?}"))?;

    let count = |is: fn(&ClientOutcome) -> bool| clients.iter().filter(|record| is(&record.outcome)).count() as u32;
    let outcomes = [
        count(|outcome| *outcome == ClientOutcome::Accepted),
        count(|outcome| matches!(outcome, ClientOutcome::Rejected(_))),
        count(|outcome| matches!(outcome, ClientOutcome::Dropped(_))),
    ];
    let counted = [round.accepted, round.rejected, round.dropped];
    expect(place("accepted, rejected and dropped (expected: those of its clients' rows)"), &outcomes, &counted)?;

    let sum = |of: fn(&ClientRecord) -> u64| clients.iter().map(|record| of(record)).sum::<u64>();
    expect(place("train_tokens"), &sum(|record| record.train_tokens), &round.train_tokens)?;
    let reused = sum(|record| record.reused.into()) as u32;
    expect(place("trainings_reused"), &reused, &round.trainings_reused)?;
    expect(place("clipped"), &(sum(|record| record.clipped_to.is_some().into()) as u32), &round.clipped)?;
    check_rows(round, clients)?;
    check_loss(round, clients)
}

fn check_rows(round: &RoundRecord, clients: &[&ClientRecord]) -> Result<(), Difference> {
    let mut rows = GuardCounts::default();
    for record in clients {
        rows += record.guard;
    }
    let is_close = |expected: f64, found: f64| (expected - found).abs() <= TOLERANCE * expected.abs().max(1.0);
    let weights = is_close(rows.reweighted_weight, round.rows.reweighted_weight)
        && is_close(rows.reweighted_unsafe_weight, round.rows.reweighted_unsafe_weight);
    let whole = |rows: GuardCounts| GuardCounts { reweighted_weight: 0.0, reweighted_unsafe_weight: 0.0, ..rows };
    let is_sum = weights && whole(rows) == whole(round.rows);
    let place = format!("{}, rows (expected: the sums of its clients' rows)", round.round);
    require(is_sum, place, format!("{rows:?}"), format!("{:?}", round.rows))
}

fn check_loss(round: &RoundRecord, clients: &[&ClientRecord]) -> Result<(), Difference> {
    let accepted = clients.iter().filter(|record| record.outcome == ClientOutcome::Accepted);
    let losses = accepted.filter_map(|record| Some((record.train_loss?, record.train_tokens as f64)));
    let (sum, tokens) = losses.fold((0.0, 0.0), |(sum, tokens), (loss, weight)| (sum + loss * weight, tokens + weight));
    let expected = (tokens > 0.0).then(|| sum / tokens);
    let is_mean = match (expected, round.train_loss) {
        (Some(expected), Some(found)) => (expected - found).abs() <= TOLERANCE * expected.abs().max(1.0),
        (expected, found) => expected == found,
    };
    let place = format!("{}, train_loss (expected: the mean of accepted clients by tokens)", round.round);
    require(is_mean, place, format!("{expected:?}"), format!("{:?}", round.train_loss))
}
