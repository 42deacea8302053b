//! Predicate of injected faults (F).

use std::collections::BTreeMap;

use super::{
    Checked, Difference, Evidence, Finding, RunTerms, RunTrace, expect,
    replay::{Replay, is_sent},
    require,
};
use crate::{
    faults::{ClientFault, Faults, ON_PURPOSE, ServerFault},
    protocol::RoundId,
    records::{ClientOutcome, ClientRecord, ClientRole, DropReason, RejectReason, RoundRecord},
};

/// F-1: recorded faults are those that the seed draws, have the outcome that such a failure has otherwise, and are counted in
/// their round.
pub(super) fn as_drawn(evidence: &Evidence) -> Checked {
    let trace = &evidence.trace;
    for record in &trace.clients {
        check_outcome(record)?;
    }
    for round in &trace.rounds {
        check_counts(trace, round)?;
    }
    match &evidence.terms {
        Some(terms) => check_draws(terms, trace)?,
        None => return Ok(Finding::CannotBeTold("it needs what the run was asked for")),
    }
    Ok(Finding::Holds)
}

/// Requires the outcome of a fault, or of its absence.
fn check_outcome(record: &ClientRecord) -> Result<(), Difference> {
    let outcome = &record.outcome;
    let is_late = *outcome == ClientOutcome::Dropped(DropReason::Late);
    let is_of_guard = |reason: &str| reason == ON_PURPOSE;
    let agrees = match record.fault {
        None => {
            !matches!(outcome, ClientOutcome::Dropped(DropReason::Offline))
                && !matches!(outcome, ClientOutcome::Dropped(DropReason::GuardUnavailable(reason)) if is_of_guard(reason))
        }
        Some(ClientFault::Offline) => is_late || matches!(outcome, ClientOutcome::Dropped(DropReason::Offline)),
        Some(ClientFault::GuardOutage) => {
            is_late || matches!(outcome, ClientOutcome::Dropped(DropReason::GuardUnavailable(_)))
        }
        // Whoever is asked again may come to anything.
        Some(ClientFault::Crash) => true,
        // What a malicious client sends is put in the place of what its fault left.
        Some(ClientFault::NotFinite | ClientFault::OtherLayout) if record.role == ClientRole::Malicious => true,
        // A training that goes wrong by itself, too, may be refused for the other reason; where nothing could be screened, nothing
        // else is known of an update.
        Some(ClientFault::NotFinite | ClientFault::OtherLayout) => {
            let is_refused = |reason: &RejectReason| {
                matches!(reason.name(), "not_finite" | "layout_mismatch" | "screen_unavailable")
            };
            is_late || matches!(outcome, ClientOutcome::Rejected(reason) if is_refused(reason))
        }
    };
    let fault = record.fault.map_or("no fault", ClientFault::name);
    let place = format!("{}, {}, outcome with {fault}", record.round, record.client);
    require(agrees, place, "the outcome that it has otherwise", outcome)
}

/// Requires a round to count the faults of its clients; it may have faults of the server besides.
fn check_counts(trace: &RunTrace, round: &RoundRecord) -> Result<(), Difference> {
    let mut expected: BTreeMap<&str, u32> = BTreeMap::new();
    for fault in trace.clients_of(round.round).filter_map(|record| record.fault) {
        *expected.entry(fault.name()).or_default() += 1;
    }
    let is_of_server = |name: &str| ServerFault::ALL.iter().any(|fault| fault.name() == name);
    let found = round.faults.iter().filter(|(name, _)| !is_of_server(name));
    let found: BTreeMap<&str, u32> = found.map(|(name, count)| (name.as_str(), *count)).collect();
    expect(format!("{}, faults (expected: those of its clients)", round.round), &expected, &found)
}

/// Requires recorded faults to be those that the seed draws.
fn check_draws(terms: &RunTerms, trace: &RunTrace) -> Result<(), Difference> {
    let faults = Faults::new(terms.attack_seed, terms.faults.clone());
    for (record, asked_in) in Replay::of(terms, trace)?.rows(trace) {
        let drawn = faults.of_client(asked_in, record.client);
        let is_sent = is_sent(record);
        // Without an order nothing strikes. Of the others an absent client is certain to show it, and a spoilt update where it is
        // the client's own that entered; a turn that ends otherwise may have ended before the fault.
        let is_own_update = record.role == ClientRole::Honest && record.outcome == ClientOutcome::Accepted;
        let agrees = match (record.fault, drawn) {
            (Some(fault), _) => drawn == Some(fault) && is_sent,
            (None, Some(ClientFault::Offline)) => !is_sent,
            (None, Some(ClientFault::NotFinite | ClientFault::OtherLayout)) => !is_own_update,
            (None, Some(ClientFault::GuardOutage | ClientFault::Crash) | None) => true,
        };
        let place = format!("{}, {}, fault", record.round, record.client);
        require(agrees, place, named(drawn), named(record.fault))?;
    }
    for round in &trace.rounds {
        for fault in ServerFault::ALL.into_iter().filter(|fault| round.faults.contains_key(fault.name())) {
            let is_drawn = is_drawn(&faults, round.round, fault);
            require(is_drawn, format!("{}, faults", round.round), format!("no {}", fault.name()), "one")?;
        }
    }
    Ok(())
}

fn is_drawn(faults: &Faults, round: RoundId, fault: ServerFault) -> bool {
    faults.of_server(round, fault).is_some()
}

fn named(fault: Option<ClientFault>) -> &'static str {
    fault.map_or("none", ClientFault::name)
}
