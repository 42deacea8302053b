//! Replay of the selection: which round asked which client, given the work under way.

use std::collections::BTreeMap;

use super::{Difference, RunTerms, RunTrace, expect, require};
use crate::{
    gather::Late,
    protocol::{ClientId, RoundId, wire},
    records::{ClientOutcome, ClientRecord, DropReason},
    transport::InFlight,
};

/// Selecting round of each client row, in the order of the rows.
pub(super) struct Replay {
    pub(super) asked_in: Vec<RoundId>,
}

/// Clients under way, with the rounds that selected them.
type UnderWay = BTreeMap<ClientId, RoundId>;

impl Replay {
    /// Replays a run from its first round: a selected client reports in that round or, if late work counts, in a later one.
    ///
    /// # Errors
    ///
    /// [`Difference`] if a client reports that was not asked, or a required report is missing.
    pub(super) fn of(terms: &RunTerms, trace: &RunTrace) -> Result<Self, Difference> {
        let mut under_way = UnderWay::new();
        let mut asked_in = Vec::with_capacity(trace.clients.len());
        for round in trace.rounds.iter().map(|record| record.round) {
            let busy: Vec<ClientId> = under_way.keys().copied().collect();
            let selected = terms.sampler.fill_up(&busy, terms.seed, round, terms.clients, terms.cohort);
            under_way.extend(selected.into_iter().map(|client| (client, round)));
            let (mut asked, mut reported) = (under_way.len(), 0);
            for record in trace.clients_of(round) {
                let since = under_way.remove(&record.client);
                let not_asked = || {
                    let place = format!("{round}, {}", record.client);
                    Difference::new(place, "a report of a client that was asked", "one of a client that was not")
                };
                asked_in.push(since.ok_or_else(not_asked)?);
                if is_sent(record) {
                    reported += 1;
                } else {
                    asked -= 1;
                }
            }
            let expected = expected_reports(terms, asked);
            let is_met = reported == expected || (may_end_early(terms) && reported < expected);
            let place = format!("{round}, reports of the {asked} clients under way");
            require(is_met, place, expected, reported)?;
            check_in_flight(trace, round, &under_way)?;
        }
        Ok(Self { asked_in })
    }

    /// Returns the client rows with their selecting rounds.
    pub(super) fn rows<'a>(&'a self, trace: &'a RunTrace) -> impl Iterator<Item = (&'a ClientRecord, RoundId)> {
        trace.clients.iter().zip(self.asked_in.iter().copied())
    }
}

/// Number of reports that a round waits for, its deadline aside.
fn expected_reports(terms: &RunTerms, under_way: usize) -> usize {
    match (counts_late(terms), terms.gather.first) {
        (true, Some(first)) => under_way.min(first as usize),
        // Discarded late clients have a row, too.
        _ => under_way,
    }
}

fn may_end_early(terms: &RunTerms) -> bool {
    counts_late(terms) && terms.gather.deadline_seconds.is_some()
}

fn counts_late(terms: &RunTerms) -> bool {
    terms.devices.is_some() && matches!(terms.gather.late, Late::Count { .. })
}

/// Requires a checkpoint's work under way to be that of the clients that were asked and have not reported.
fn check_in_flight(trace: &RunTrace, round: RoundId, under_way: &UnderWay) -> Result<(), Difference> {
    let Some(state) = trace.checkpoint(round) else { return Ok(()) };
    let place = format!("the checkpoint of {round}, clients under way and the rounds that asked them");
    let ledger = if state.in_flight.is_empty() {
        InFlight::default()
    } else {
        wire::decode(&state.in_flight).map_err(|error| Difference::new(&place, "readable reports", error))?
    };
    let found: UnderWay =
        ledger.arrivals.values().map(|arrival| (arrival.reported.client, arrival.reported.id.round)).collect();
    expect(place, under_way, &found)
}

/// Returns whether the client was sent an order.
pub(super) const fn is_sent(record: &ClientRecord) -> bool {
    !matches!(record.outcome, ClientOutcome::Dropped(DropReason::NoInstructions(_)))
}
