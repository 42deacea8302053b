//! A guard that was fitted on a part of each row, and reads that part wherever it is asked.

use std::sync::Arc;

use fedward_actors::{
    cancel::CancelFlag,
    policy::Assessed,
    ports::{GuardModel, PortResult},
    protocol::{ChatRow, Verdict},
};

use super::{SafetyGuard, Tally};

/// A guard in front of which all but a part of each row is hidden.
struct ViewingGuard {
    inner: Arc<dyn SafetyGuard>,
    assess: Assessed,
    version: String,
}

/// `guard`, reading that part of each row.
pub fn viewing(guard: Arc<dyn SafetyGuard>, assess: Assessed) -> Arc<dyn SafetyGuard> {
    if assess == Assessed::Both {
        return guard;
    }
    let version = format!("{} of {}", guard.version(), part_read(assess));
    Arc::new(ViewingGuard { inner: guard, assess, version })
}

/// The part of a row, for people.
pub const fn part_read(assess: Assessed) -> &'static str {
    match assess {
        Assessed::Query => "the turns before the response",
        Assessed::Response => "the response alone",
        Assessed::Both => "the whole conversation",
    }
}

impl GuardModel for ViewingGuard {
    fn version(&self) -> &str {
        &self.version
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let parts: Vec<_> = rows.iter().map(|row| self.assess.part(row)).collect();
        self.inner.assess(&parts, cancel)
    }
}

impl SafetyGuard for ViewingGuard {
    fn tally(&self) -> Option<Tally> {
        self.inner.tally()
    }
}
