//! Predicates of rounds and client outcomes (R).

use std::collections::BTreeSet;

use super::{
    Checked, Difference, Evidence, Finding, RunTerms, RunTrace, expect, expect_each, replay::Replay, require, summaries,
};
use crate::{
    protocol::{ClientId, RoundId},
    records::{ClientOutcome, ClientRecord, RoundEvent, RoundOutcome, RoundRecord},
};

/// rounds are numbered without gaps, each has exactly one row per reporting client and summarizes these rows, and each
/// selected client reports once.
pub(super) fn one_outcome_each(evidence: &Evidence) -> Checked {
    let trace = &evidence.trace;
    for (record, expected) in trace.rounds.iter().zip(1..) {
        expect(format!("row {expected} of the rounds"), &RoundId(expected), &record.round)?;
    }
    let last = trace.rounds.len() as u32;
    if let Some(stray) = trace.clients.iter().find(|record| !(1..=last).contains(&record.round.0)) {
        let place = format!("the row of {} in {}", stray.client, stray.round);
        return Err(Difference::new(place, format!("a round from 1 to {last}"), stray.round));
    }
    for record in &trace.rounds {
        let clients: Vec<&ClientRecord> = trace.clients_of(record.round).collect();
        summaries::check(record, &clients)?;
    }
    if let Some(terms) = &evidence.terms {
        Replay::of(terms, trace)?;
    }
    if !evidence.events.is_empty() {
        check_events(trace, &evidence.events)?;
    }
    Ok(Finding::Holds)
}

/// Requires exactly one event per client and round.
fn check_events(trace: &RunTrace, events: &[RoundEvent]) -> Result<(), Difference> {
    let finished = events.iter().filter_map(|event| match event {
        RoundEvent::ClientFinished(record) => Some((record.round, record.client)),
        _ => None,
    });
    let reported = events.iter().filter_map(|event| match event {
        RoundEvent::ClientReported { round, client } => Some((*round, *client)),
        _ => None,
    });
    let rounds = events.iter().filter_map(|event| match event {
        RoundEvent::RoundFinished(record) => Some(record.round),
        _ => None,
    });
    let rows: Vec<(RoundId, ClientId)> = trace.clients.iter().map(|record| (record.round, record.client)).collect();
    expect_each("events of clients that have finished", &rows, &finished.collect::<Vec<_>>())?;
    let mut reported: Vec<_> = reported.collect();
    reported.sort_unstable();
    expect_each("events of clients that have reported", &rows, &reported)?;
    let expected: Vec<RoundId> = trace.rounds.iter().map(|record| record.round).collect();
    expect_each("events of rounds", &expected, &rounds.collect::<Vec<_>>())
}

/// an update counts once, for its own request, and the strategy receives exactly the accepted updates.
pub(super) fn each_update_once(evidence: &Evidence) -> Checked {
    let trace = &evidence.trace;
    let mut counted = BTreeSet::new();
    for record in trace.clients.iter().filter(|record| record.outcome == ClientOutcome::Accepted) {
        let asked_in = record.round.0.checked_sub(record.staleness);
        let place = format!("{}, {}", record.round, record.client);
        require(asked_in.is_some_and(|round| round > 0), &place, "staleness below the round", record.staleness)?;
        let is_new = counted.insert((record.client, asked_in));
        require(is_new, place, "an update that has not counted", format!("that of round {asked_in:?} again"))?;
    }
    if let Some(witnesses) = &evidence.witnesses {
        for call in &witnesses.aggregated {
            let accepted: Vec<ClientId> = accepted_in(trace, call.round).map(|record| record.client).collect();
            let given: Vec<ClientId> = call.updates.iter().map(|(client, _)| *client).collect();
            expect(format!("{}, clients whose updates the strategy was given", call.round), &accepted, &given)?;
        }
    }
    match &evidence.terms {
        Some(terms) => check_requests(terms, trace)?,
        None if evidence.witnesses.is_none() => {
            return Ok(Finding::CannotBeTold("it needs what the run was asked for"));
        }
        None => {}
    }
    Ok(Finding::Holds)
}

fn accepted_in(trace: &RunTrace, round: RoundId) -> impl Iterator<Item = &ClientRecord> {
    trace.clients_of(round).filter(|record| record.outcome == ClientOutcome::Accepted)
}

/// Requires each report to answer the round that selected its client, under an existing attempt.
fn check_requests(terms: &RunTerms, trace: &RunTrace) -> Result<(), Difference> {
    let replay = Replay::of(terms, trace)?;
    for (record, asked_in) in replay.rows(trace) {
        let place = |what: &str| format!("{}, {}, {what}", record.round, record.client);
        expect(place("staleness"), &(record.round.0 - asked_in.0), &record.staleness)?;
        let is_attempt = (1..=terms.max_attempts).contains(&record.attempt);
        require(is_attempt, place("attempt"), format!("1 to {}", terms.max_attempts), record.attempt)?;
    }
    Ok(())
}

/// no round below quorum is committed, and an uncommitted round changes neither adapter nor strategy nor client states.
pub(super) fn uncommitted_changes_nothing(evidence: &Evidence) -> Checked {
    let trace = &evidence.trace;
    let mut before = trace.start_sha256.as_ref();
    for record in &trace.rounds {
        if let Some(terms) = &evidence.terms {
            check_quorum(terms.quorum, record)?;
        }
        if record.outcome != RoundOutcome::Committed {
            let place = |what: &str| format!("{}, which was not committed, {what}", record.round);
            if let Some(before) = before {
                expect(place("adapter_sha256 (expected: that before)"), before, &record.adapter_sha256)?;
            }
            expect(place("update_norm"), &None, &record.update_norm)?;
            require(record.align.is_none(), place("align"), "none", "a realignment")?;
            check_state(trace, record)?;
        }
        before = Some(&record.adapter_sha256);
    }
    check_memories(trace)?;
    Ok(Finding::Holds)
}

fn check_quorum(quorum: u32, record: &RoundRecord) -> Result<(), Difference> {
    let is_enough = record.accepted >= quorum.max(1);
    let (agrees, expected) = match record.outcome {
        RoundOutcome::Committed => (is_enough, "skipped or failed"),
        RoundOutcome::Skipped(_) => (!is_enough, "committed or failed"),
        // An aggregator that dies does not get to count.
        RoundOutcome::Failed(_) => (true, ""),
    };
    let place = format!("{}, outcome with {} accepted and a quorum of {quorum}", record.round, record.accepted);
    require(agrees, place, expected, record.outcome.name())
}

/// Requires the states before and after an uncommitted round to be equal, if both are stored.
fn check_state(trace: &RunTrace, record: &RoundRecord) -> Result<(), Difference> {
    let states = (trace.checkpoint(record.round.before()), trace.checkpoint(record.round));
    let (Some(before), Some(after)) = states else { return Ok(()) };
    let place = |what: &str| format!("the checkpoint of {}, which was not committed, {what}", record.round);
    require(before.global == after.global, place("adapter"), "that before", "another")?;
    let is_same = before.strategy_state == after.strategy_state;
    require(is_same, place("strategy state"), "that before", "another")
}

/// Requires client states to belong to committed rounds that accepted the client's update.
fn check_memories(trace: &RunTrace) -> Result<(), Difference> {
    for (client, round) in trace.memories.keys() {
        let is_committed =
            trace.rounds.iter().any(|record| record.round == *round && record.outcome == RoundOutcome::Committed);
        let is_accepted = accepted_in(trace, *round).any(|record| record.client == *client);
        let place = format!("what {client} remembers of {round}");
        require(is_committed && is_accepted, place, "nothing, for it did not count", "a client state")?;
    }
    Ok(())
}
