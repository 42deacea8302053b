//! Predicate of memory (M).

use super::{Checked, Evidence, Finding, require};

/// M-1: trainings, and clients whose rows are in memory, never outnumber the slots.
pub(super) fn within_slots(evidence: &Evidence) -> Checked {
    let Some(witnesses) = &evidence.witnesses else {
        return Ok(Finding::CannotBeTold("it needs somebody who watches the run"));
    };
    let most = format!("at most the {} slots", witnesses.slots);
    require(
        witnesses.peak_training <= witnesses.slots,
        "clients that trained at once",
        &most,
        witnesses.peak_training,
    )?;
    require(witnesses.peak_rows <= witnesses.slots, "clients whose rows were in memory", &most, witnesses.peak_rows)?;
    Ok(Finding::Holds)
}
