//! Predicates of repeated (D) and resumed runs (C).

use super::{Checked, Difference, Evidence, Finding, Occasion, RunTrace, expect, expect_alike, require};
use crate::records::{ClientRecord, PhaseSeconds, RoundRecord};

/// D-1: another order of replies and another number of slots leave the same bytes.
pub(super) fn same_bytes(evidence: &Evidence) -> Checked {
    let mut reordered = evidence.reruns.iter().filter(|rerun| rerun.occasion == Occasion::Reordered).peekable();
    if reordered.peek().is_none() {
        return Ok(Finding::CannotBeTold("it needs a second run"));
    }
    reordered.try_for_each(|rerun| compare("in another order of replies", &evidence.trace, &rerun.trace))?;
    Ok(Finding::Holds)
}

/// C-1: stored states are those that the rows name, and a resumed run equals an uninterrupted one.
pub(super) fn stored_whole(evidence: &Evidence) -> Checked {
    let trace = &evidence.trace;
    if let Some(damage) = evidence.damage.first() {
        return Err(Difference::new("what is stored", "files that are whole", damage));
    }
    for state in &trace.checkpoints {
        let place = format!("the checkpoint of {}", state.round);
        let row = trace.rounds.iter().find(|record| record.round == state.round);
        let row = row.ok_or_else(|| Difference::new(&place, "the row of its round", "none"))?;
        expect(format!("{place}, SHA-256 of its adapter"), &row.adapter_sha256, &state.global.sha256())?;
    }
    if let Some(last) = trace.rounds.last() {
        let is_kept = trace.checkpoint(last.round).is_some();
        require(is_kept, format!("the checkpoint of {}, the last round", last.round), "one", "none")?;
        if let Some(adapter) = &trace.adapter {
            expect("SHA-256 of the last adapter", &last.adapter_sha256, &adapter.sha256())?;
        }
    }
    for rerun in &evidence.reruns {
        if let Occasion::Resumed(after) = rerun.occasion {
            compare(&format!("interrupted and resumed after {after}"), trace, &rerun.trace)?;
        }
    }
    Ok(Finding::Holds)
}

/// Requires two runs to have stored the same, measured times aside.
fn compare(occasion: &str, expected: &RunTrace, found: &Result<RunTrace, String>) -> Result<(), Difference> {
    let found = found.as_ref().map_err(|error| Difference::new(format!("the run {occasion}"), "its end", error))?;
    let place = |what: String| format!("{what}, {occasion}");
    expect(place("rounds".into()), &expected.rounds.len(), &found.rounds.len())?;
    for (expected, found) in expected.rounds.iter().zip(&found.rounds) {
        expect_alike(
            place(format!("the row of {}", expected.round)),
            &timeless_round(expected),
            &timeless_round(found),
        )?;
    }
    expect(place("rows of clients".into()), &expected.clients.len(), &found.clients.len())?;
    for (expected, found) in expected.clients.iter().zip(&found.clients) {
        let what = format!("the row of {} in {}", expected.client, expected.round);
        expect_alike(place(what), &timeless_client(expected), &timeless_client(found))?;
    }
    expect(place("checkpoints".into()), &expected.checkpoints.len(), &found.checkpoints.len())?;
    for (expected, found) in expected.checkpoints.iter().zip(&found.checkpoints) {
        let what = |part: &str| place(format!("the checkpoint of {}, {part}", expected.round));
        expect_alike(what("adapter"), &expected.global, &found.global)?;
        expect_alike(what("strategy state"), &expected.strategy_state, &found.strategy_state)?;
        expect_alike(what("work under way"), &expected.in_flight, &found.in_flight)?;
    }
    expect_alike(place("clients' states".into()), &expected.memories, &found.memories)
}

fn timeless_round(record: &RoundRecord) -> RoundRecord {
    RoundRecord { seconds: PhaseSeconds::default(), train_tokens_per_second: None, ..record.clone() }
}

fn timeless_client(record: &ClientRecord) -> ClientRecord {
    ClientRecord { train_seconds: 0.0, ..record.clone() }
}
