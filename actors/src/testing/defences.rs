//! A guard and an update screen that misbehave on demand.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{Conduct, lock};
use crate::{
    cancel::CancelFlag,
    ports::{Candidate, GuardModel, Judgement, PortResult, UpdateScreen},
    protocol::{Adapter, ChatRow, ClientId, RoundId, RowDigest, RowLabel, Verdict},
};

/// Knows every label, and remembers how often it was asked for each row.
pub struct FakeGuard {
    conduct: Box<dyn Fn(u32) -> Conduct + Send + Sync>,
    calls: AtomicU32,
    assessed: Mutex<BTreeMap<RowDigest, u32>>,
}

impl FakeGuard {
    /// A guard that behaves as told in its n-th call, from 1.
    pub fn new(conduct: impl Fn(u32) -> Conduct + Send + Sync + 'static) -> Self {
        Self { conduct: Box::new(conduct), calls: AtomicU32::new(0), assessed: Mutex::default() }
    }

    /// How often a verdict was computed for each row.
    pub fn assessed(&self) -> BTreeMap<RowDigest, u32> {
        lock(&self.assessed).clone()
    }
}

impl GuardModel for FakeGuard {
    fn version(&self) -> &'static str {
        "fake-1"
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let conduct = (self.conduct)(self.calls.fetch_add(1, Ordering::SeqCst) + 1);
        conduct.act(cancel)?;
        let mut assessed = lock(&self.assessed);
        let verdict = |row: &ChatRow| {
            *assessed.entry(row.digest()).or_insert(0) += 1;
            let is_unsafe = row.label == Some(RowLabel::Unsafe);
            let unsafe_probability = if conduct == Conduct::NotFinite { f64::NAN } else { f64::from(is_unsafe) };
            Verdict { is_unsafe, ..Verdict::of_probability(unsafe_probability, 0.5) }
        };
        let shown = rows.len() - usize::from(conduct == Conduct::WrongShape);
        Ok(rows[..shown].iter().map(verdict).collect())
    }
}

/// Clips every delta that is longer than its bound, or misbehaves.
#[derive(Debug)]
pub struct FakeScreen {
    /// The longest delta that it keeps.
    pub bound: f64,
    /// Clients that it refuses.
    pub refused: Vec<ClientId>,
    /// How it behaves.
    pub conduct: Conduct,
}

impl UpdateScreen for FakeScreen {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn judge(
        &self,
        _: RoundId,
        _: &Adapter,
        candidates: &[Candidate<'_>],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<Judgement>> {
        self.conduct.act(cancel)?;
        let judge = |candidate: &Candidate<'_>| match candidate {
            _ if self.conduct == Conduct::NotFinite => Judgement::Clip(f64::NAN),
            Candidate { update, .. } if self.refused.contains(&update.client) => {
                Judgement::Reject("refused".to_owned())
            }
            Candidate { delta_norm, .. } if *delta_norm > self.bound => Judgement::Clip(self.bound),
            _ => Judgement::Keep,
        };
        let judged = candidates.len().saturating_sub(usize::from(self.conduct == Conduct::WrongShape));
        Ok(candidates[..judged].iter().map(judge).collect())
    }
}
