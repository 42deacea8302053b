//! Compute slots: how blocking work runs without blocking an actor.
//!
//! Work runs on a blocking thread and holds one of a fixed number of slots (invariant M-1). Dropping the future that waits
//! for it raises the work's cancel flag, so work ends with whoever asked for it.

use std::{
    any::Any,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

use crate::{
    cancel::{CancelFlag, CancelOnDrop},
    ports::PortError,
};

/// Blocking work panicked: a bug, and the actor that asked for it is to be restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

/// Blocking work took longer than it may and was cancelled: an expected failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("did not end within {0:?}")]
pub(crate) struct Overdue(pub(crate) Duration);

impl From<Overdue> for PortError {
    fn from(overdue: Overdue) -> Self {
        Self::Failed(overdue.to_string())
    }
}

/// The compute slots of one run.
#[derive(Clone, Debug)]
pub(crate) struct Compute {
    /// One permit a slot; a permit travels with the work that uses it.
    slots: Arc<Semaphore>,
    /// The run's flag: parent of each work's own.
    run: CancelFlag,
    /// How long cancelled work may keep its slot. Work that ignores its flag must not starve everybody else.
    grace: Duration,
}

impl Compute {
    pub(crate) fn new(slots: usize, run: CancelFlag, grace: Duration) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots)), run, grace }
    }

    /// Runs work that computes: waits for a slot, then holds it until the work has ended.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancelFlag) -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
        self.spawn(slot, work).await
    }

    /// Runs work that computes, and gives it up when it takes longer than `limit`, waiting for its slot included.
    pub(crate) async fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&CancelFlag) -> T + Send + 'static,
    ) -> Result<Result<T, Overdue>, Panicked> {
        match tokio::time::timeout(limit, self.run(work)).await {
            Ok(done) => done.map(Ok),
            Err(_) => Ok(Err(Overdue(limit))),
        }
    }

    /// Runs work that waits rather than computes, such as reading and writing: needs no slot.
    pub(crate) async fn run_without_slot<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancelFlag) -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        self.spawn(None, work).await
    }

    async fn spawn<T: Send + 'static>(
        &self,
        slot: Option<OwnedSemaphorePermit>,
        work: impl FnOnce(&CancelFlag) -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let flag = self.run.child();
        let slot = HeldSlot(Arc::new(Mutex::new(slot)));
        let _asked = Asked { slot: HeldSlot(Arc::clone(&slot.0)), grace: self.grace, _cancel: flag.cancel_on_drop() };
        let thread = tokio::task::spawn_blocking(move || {
            // Dropped with the thread's work, whether it returns or panics.
            let _slot = GiveBack(slot);
            work(&flag)
        });
        thread.await.map_err(|error| {
            Panicked(match error.try_into_panic() {
                Ok(payload) => panic_text(payload.as_ref()),
                Err(_) => "the runtime is shutting down".to_owned(),
            })
        })
    }
}

/// A slot that is in use until somebody gives it back.
struct HeldSlot(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl HeldSlot {
    fn give_back(&self) -> Option<OwnedSemaphorePermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Gives its slot back when the work ends.
struct GiveBack(HeldSlot);

impl Drop for GiveBack {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// The asker's end of a piece of work: dropped when the work is done or nobody waits for it any more.
struct Asked {
    slot: HeldSlot,
    grace: Duration,
    _cancel: CancelOnDrop,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let in_use = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if in_use {
            let (slot, grace) = (HeldSlot(Arc::clone(&self.slot.0)), self.grace);
            runtime.spawn(async move {
                tokio::time::sleep(grace).await;
                if slot.give_back().is_some() {
                    tracing::warn!(?grace, "cancelled work did not end; its thread is abandoned and its slot reused");
                }
            });
        }
    }
}

/// A task that is aborted when its owner lets go of it.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    /// Spawns a task that lives no longer than the returned handle.
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "with a value that is no text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    fn compute(slots: usize, grace: Duration) -> Compute {
        Compute::new(slots, CancelFlag::new(), grace)
    }

    #[tokio::test]
    async fn a_panic_is_a_value_and_frees_its_slot() {
        let compute = compute(1, Duration::from_mins(1));
        let failed = compute.run(|_| panic!("no {}", "luck")).await;
        assert_eq!(failed, Err::<(), _>(Panicked("no luck".to_owned())));
        assert_eq!(compute.run(|_| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn work_is_cancelled_when_nobody_waits_for_it() {
        let compute = compute(1, Duration::from_mins(1));
        let (ended, end) = mpsc::channel();
        let work = compute.run(move |cancel| {
            while !cancel.is_cancelled() {
                thread::sleep(Duration::from_millis(1));
            }
            let _ = ended.send(());
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        tokio::task::spawn_blocking(move || end.recv_timeout(Duration::from_secs(10)).unwrap()).await.unwrap();
        assert_eq!(compute.run(|_| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_ignores_its_flag_loses_its_slot_after_the_grace() {
        let compute = compute(1, Duration::from_millis(20));
        let (release, released) = mpsc::channel::<()>();
        let stuck = compute.run(move |_| released.recv_timeout(Duration::from_secs(10)));
        assert!(tokio::time::timeout(Duration::from_millis(20), stuck).await.is_err());
        assert_eq!(compute.run(|_| 7).await, Ok(7));
        // The stuck thread still waits: the slot was taken from it, not given back by it.
        release.send(()).unwrap();
    }
}
