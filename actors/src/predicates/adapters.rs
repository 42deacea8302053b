//! Predicates of the global adapter (A).

use super::{Checked, Difference, Evidence, Finding, RunTrace, Witnesses, expect, require};
use crate::{
    ports::Judgement,
    protocol::Adapter,
    records::{ClientOutcome, ClientRecord},
};

/// Relative tolerance of delta norms, whose values are rounded to `f32`.
const TOLERANCE: f64 = 1e-5;

/// all stored adapters have the same layout.
pub(super) fn one_layout(evidence: &Evidence) -> Checked {
    let mut adapters = adapters(&evidence.trace);
    let Some((first, adapter)) = adapters.next() else {
        return Ok(Finding::CannotBeTold("no adapter is kept"));
    };
    for (place, other) in adapters {
        let same = adapter.check_same_layout(other);
        same.map_err(|error| Difference::new(place, format!("the layout of {first}"), error))?;
    }
    Ok(Finding::Holds)
}

/// all values of stored adapters and all norms of accepted updates are finite.
pub(super) fn all_finite(evidence: &Evidence) -> Checked {
    let trace = &evidence.trace;
    for (place, adapter) in adapters(trace) {
        adapter.check_finite().map_err(|error| Difference::new(place, "finite values", error))?;
    }
    for state in &trace.checkpoints {
        let place = format!("the checkpoint of {}", state.round);
        state.global.check_finite().map_err(|error| Difference::new(place, "finite frozen terms", error))?;
    }
    for record in trace.clients.iter().filter(|record| record.outcome == ClientOutcome::Accepted) {
        let place = format!("{}, {}, which was accepted, update_norm", record.round, record.client);
        require(
            record.update_norm.is_some_and(f64::is_finite),
            place,
            "a number",
            format!("{:?}", record.update_norm),
        )?;
    }
    if adapters(trace).next().is_none() && !trace.rounds.is_empty() {
        return Ok(Finding::CannotBeTold("no adapter is kept"));
    }
    Ok(Finding::Holds)
}

/// Trainable adapters and their places; the frozen terms of a model have layouts of their own.
fn adapters(trace: &RunTrace) -> impl Iterator<Item = (String, &Adapter)> {
    let states = trace.checkpoints.iter();
    let states = states.map(|state| (format!("the checkpoint of {}", state.round), state.global.trainable()));
    states.chain(trace.adapter.iter().map(|adapter| ("the last adapter".to_owned(), adapter)))
}

/// an accepted update is no longer than the bound it was clipped to, and its trust is from 0 to 1. With witnesses, it was
/// accepted as the screen judged, and entered the aggregation that way.
pub(super) fn only_what_was_let_in(evidence: &Evidence) -> Checked {
    for record in &evidence.trace.clients {
        let place = |what: &str| format!("{}, {}, {what}", record.round, record.client);
        let is_accepted = record.outcome == ClientOutcome::Accepted;
        let is_screened = record.clipped_to.is_some() || record.trust.is_some();
        require(is_accepted || !is_screened, place("clipped_to and trust"), "none, for it did not enter", "a value")?;
        if let Some(clipped_to) = record.clipped_to {
            let longest = record.update_norm.unwrap_or(0.0);
            require((0.0..=longest).contains(&clipped_to), place("clipped_to"), format!("0 to {longest}"), clipped_to)?;
        }
        if let Some(trust) = record.trust {
            require((0.0..=1.0).contains(&trust), place("trust"), "0 to 1", trust)?;
        }
    }
    if let Some(witnesses) = &evidence.witnesses {
        check_judgements(&evidence.trace, witnesses)?;
        check_lengths(&evidence.trace, witnesses)?;
    }
    Ok(Finding::Holds)
}

/// Requires accepted updates to match the screen's judgements, if the run has a screen.
fn check_judgements(trace: &RunTrace, witnesses: &Witnesses) -> Result<(), Difference> {
    if witnesses.judged.is_empty() {
        return Ok(());
    }
    for record in trace.clients.iter().filter(|record| record.outcome == ClientOutcome::Accepted) {
        let place = format!("{}, {}, which was accepted, judgement", record.round, record.client);
        let Some(judged) = witnesses.judged.get(&(record.round, record.client)) else {
            return Err(Difference::new(place, "one", "none"));
        };
        expect(&place, &Some(judged.delta_norm.to_bits()), &record.update_norm.map(f64::to_bits))?;
        let says = match judged.judgement {
            Judgement::Keep => (None, None),
            Judgement::Clip(norm) => (Some(norm), None),
            Judgement::Weigh(trust) => (None, Some(trust)),
            Judgement::Reject(_) => return Err(Difference::new(place, "one that lets it in", "a rejection")),
        };
        expect(place, &says, &(record.clipped_to, record.trust))?;
    }
    Ok(())
}

/// Requires the aggregated deltas to be no longer than the records state.
fn check_lengths(trace: &RunTrace, witnesses: &Witnesses) -> Result<(), Difference> {
    for call in &witnesses.aggregated {
        for (client, norm) in &call.updates {
            let is_of = |record: &&ClientRecord| record.client == *client;
            let Some(record) = trace.clients_of(call.round).find(is_of) else { continue };
            let longest = record.clipped_to.or(record.update_norm).unwrap_or(0.0);
            let is_met = *norm <= longest + TOLERANCE * longest.max(1.0);
            let place = format!("{}, {client}, norm of the delta that entered the aggregation", call.round);
            require(is_met, place, format!("at most {longest}"), norm)?;
        }
    }
    Ok(())
}
