//! Verdicts that runs of one command share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult},
    protocol::{ChatRow, RowDigest, Verdict},
};

use super::{SafetyGuard, Tally};

/// Rows that are remembered; later ones are answered and forgotten.
const CAPACITY: usize = 1 << 17;

/// A guard that answers for each row once: variants of a scenario show it the same rows.
pub struct RememberingGuard {
    inner: Arc<dyn SafetyGuard>,
    verdicts: Mutex<HashMap<RowDigest, Verdict>>,
}

impl RememberingGuard {
    /// A guard in front of `inner`.
    pub fn new(inner: Arc<dyn SafetyGuard>) -> Self {
        Self { inner, verdicts: Mutex::default() }
    }

    fn verdicts(&self) -> MutexGuard<'_, HashMap<RowDigest, Verdict>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuardModel for RememberingGuard {
    fn version(&self) -> &str {
        self.inner.version()
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let digests: Vec<_> = rows.iter().map(ChatRow::digest).collect();
        let mut known: Vec<Option<Verdict>> = {
            let verdicts = self.verdicts();
            digests.iter().map(|digest| verdicts.get(digest).cloned()).collect()
        };
        let missing: Vec<usize> = (0..rows.len()).filter(|&row| known[row].is_none()).collect();
        tracing::debug!(rows = rows.len(), reused = rows.len() - missing.len(), "verdicts");
        if !missing.is_empty() {
            let asked: Vec<ChatRow> = missing.iter().map(|&row| rows[row].clone()).collect();
            let answered = self.inner.assess(&asked, cancel)?;
            if answered.len() != asked.len() {
                let (given, wanted) = (answered.len(), asked.len());
                return Err(PortError::Failed(format!("the guard gave {given} verdicts for {wanted} rows")));
            }
            let mut verdicts = self.verdicts();
            for (row, verdict) in missing.into_iter().zip(answered) {
                if verdicts.len() < CAPACITY {
                    verdicts.insert(digests[row], verdict.clone());
                }
                known[row] = Some(verdict);
            }
        }
        Ok(known.into_iter().flatten().collect())
    }
}

impl SafetyGuard for RememberingGuard {
    fn tally(&self) -> Option<Tally> {
        self.inner.tally()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives a higher probability each time that it is asked.
    struct Counting(AtomicUsize);

    impl GuardModel for Counting {
        fn version(&self) -> &'static str {
            "counting"
        }

        fn assess(&self, rows: &[ChatRow], _: &CancelFlag) -> PortResult<Vec<Verdict>> {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            let verdict = Verdict::of_probability(asked as f64 / 10.0, 0.5);
            Ok(vec![verdict; rows.len()])
        }
    }

    impl SafetyGuard for Counting {}

    #[test]
    fn s2_a_row_is_assessed_once_whatever_comes_with_it() {
        let guard = RememberingGuard::new(Arc::new(Counting(AtomicUsize::new(1))));
        let rows = ["a", "b", "c"].map(|prompt| ChatRow::single_turn(prompt, "answer"));
        let assess = |rows: &[ChatRow]| guard.assess(rows, &CancelFlag::new()).unwrap();
        let first = assess(&rows[..2]);
        assert_eq!(assess(&rows[..2]), first);
        let mixed = assess(&[rows[2].clone(), rows[0].clone()]);
        assert_eq!(mixed[1], first[0]);
        assert_ne!(mixed[0].unsafe_probability.to_bits(), first[0].unsafe_probability.to_bits());
    }
}
