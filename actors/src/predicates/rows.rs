//! Predicates of rows and verdicts (S).

use super::{Checked, Evidence, Finding, require};
use crate::records::{ClientOutcome, DropReason};

/// Absolute tolerance of sums of row weights, which may be added up in another order.
const TOLERANCE: f64 = 1e-6;

/// S-1: a client without verdicts has not trained, and no client has trained on more than its verdicts left.
pub(super) fn nothing_unscreened(evidence: &Evidence) -> Checked {
    for record in &evidence.trace.clients {
        let place = |what: &str| format!("{}, {}, {what}", record.round, record.client);
        if matches!(record.outcome, ClientOutcome::Dropped(DropReason::GuardUnavailable(_))) {
            let is_idle = record.steps == 0 && record.train_tokens == 0;
            require(is_idle, place("steps without verdicts"), 0, record.steps)?;
        }
        let left = record.guard.trained_on();
        let is_within = record.n_examples <= left + TOLERANCE;
        require(
            is_within,
            place("examples trained on"),
            format!("at most the {left} that were left"),
            record.n_examples,
        )?;
    }
    if let Some(witnesses) = &evidence.witnesses {
        for ((round, client), rows) in &witnesses.unscreened {
            require(*rows == 0, format!("{round}, {client}, rows that no guard has seen"), 0, rows)?;
        }
    }
    Ok(Finding::Holds)
}

/// S-2: no verdict is computed twice.
pub(super) fn verdicts_once(evidence: &Evidence) -> Checked {
    let Some(witnesses) = &evidence.witnesses else {
        return Ok(Finding::CannotBeTold("it needs a guard that counts what it is asked"));
    };
    for (row, times) in &witnesses.assessed {
        require(*times <= 1, format!("verdicts computed for the row {row:?}"), "1", times)?;
    }
    Ok(Finding::Holds)
}
