//! How long work is told to stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// A flag that long blocking work polls: once raised, the work ends at its next step with a `Cancelled` error.
///
/// Flags form a tree: raising a flag raises its children, never its parent. A run has one, each piece of work a child of
/// it, so that a run ends all of its work at once and a piece of work ends alone.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    raised: AtomicBool,
    wakes: Notify,
    parent: Option<CancelFlag>,
}

impl CancelFlag {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag that is raised with this one, and can be raised alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Node { parent: Some(self.clone()), ..Node::default() }))
    }

    /// Raises the flag, for good.
    pub fn cancel(&self) {
        self.0.raised.store(true, Ordering::Release);
        self.0.wakes.notify_waiters();
    }

    /// Whether the flag or one above it is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::Acquire) || self.0.parent.as_ref().is_some_and(Self::is_cancelled)
    }

    /// Waits until the flag or one above it is raised.
    pub async fn cancelled(&self) {
        match &self.0.parent {
            None => self.raised_here().await,
            Some(parent) => tokio::select! {
                () = self.raised_here() => {}
                () = Box::pin(parent.cancelled()) => {}
            },
        }
    }

    /// Raises the flag when the returned guard is dropped, so that work ends with whoever asked for it.
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    async fn raised_here(&self) {
        let mut woken = std::pin::pin!(self.0.wakes.notified());
        // Registered before the flag is read: a flag raised in between still wakes this waiter.
        woken.as_mut().enable();
        if !self.0.raised.load(Ordering::Acquire) {
            woken.await;
        }
    }
}

/// Raises its flag when dropped.
#[derive(Debug)]
pub struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_goes_down_the_tree_and_never_up() {
        let run = CancelFlag::new();
        let (one, other) = (run.child(), run.child());
        one.cancel();
        assert!(one.is_cancelled() && !other.is_cancelled() && !run.is_cancelled());
        run.cancel();
        assert!(other.is_cancelled());
    }

    #[tokio::test]
    async fn a_waiter_wakes_with_its_flag_and_with_its_parent() {
        let run = CancelFlag::new();
        let work = run.child();
        let waiter = tokio::spawn({
            let work = work.clone();
            async move { work.cancelled().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        run.cancel();
        waiter.await.unwrap();
        work.cancelled().await;
    }
}
