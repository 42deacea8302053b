//! Verdicts that runs of one command share.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortResult},
    protocol::{ChatRow, RowDigest, Verdict, hex},
};
use sha2::{Digest, Sha256};

/// Requests that are remembered; later ones are answered and forgotten.
const CAPACITY: usize = 4096;

/// A guard that answers the same request once: variants of a scenario show it the same rows.
///
/// Whole requests are remembered and not single rows, since a row's features differ by rounding with the rows that are
/// computed beside it; so a remembered answer is the answer, to the last bit.
pub struct RememberingGuard<G> {
    inner: G,
    answers: Mutex<HashMap<[u8; 32], Vec<Verdict>>>,
}

impl<G: GuardModel> RememberingGuard<G> {
    /// A guard in front of `inner`.
    pub fn new(inner: G) -> Self {
        Self { inner, answers: Mutex::default() }
    }
}

impl<G: GuardModel> GuardModel for RememberingGuard<G> {
    fn version(&self) -> &str {
        self.inner.version()
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let mut hash = Sha256::new();
        for RowDigest(digest) in rows.iter().map(ChatRow::digest) {
            hash.update(digest);
        }
        let key: [u8; 32] = hash.finalize().into();
        let answers = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdicts) = answers().get(&key) {
            tracing::debug!(request = hex(&key[..4]), rows = rows.len(), "verdicts reused");
            return Ok(verdicts.clone());
        }
        let verdicts = self.inner.assess(rows, cancel)?;
        let mut answers = answers();
        if answers.len() < CAPACITY {
            answers.insert(key, verdicts.clone());
        }
        Ok(verdicts)
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
            let verdict = Verdict { unsafe_probability: asked as f32 / 10.0, is_unsafe: false, hazards: Vec::new() };
            Ok(vec![verdict; rows.len()])
        }
    }

    #[test]
    fn s2_the_same_request_is_answered_once_and_another_anew() {
        let guard = RememberingGuard::new(Counting(AtomicUsize::new(1)));
        let rows = [ChatRow::single_turn("a", "b"), ChatRow::single_turn("c", "d")];
        let first = guard.assess(&rows, &CancelFlag::new()).unwrap();
        assert_eq!(guard.assess(&rows, &CancelFlag::new()).unwrap(), first);
        assert_ne!(guard.assess(&rows[..1], &CancelFlag::new()).unwrap(), first[..1]);
    }
}
