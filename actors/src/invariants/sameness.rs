//! The same seed gives the same bytes (D), also past an interruption (C).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::outcomes;
use crate::{
    federation::FederationError,
    ports::PlainClients,
    protocol::RoundId,
    records::{Phase, RoundEvent},
    testing::{Conduct, Rehearsal},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d_1_the_order_of_replies_changes_no_byte() {
    let mut bytes = Vec::new();
    for disorder in 0..6_u64 {
        let mut rehearsal =
            Rehearsal::new(12, 8, 3).with_guard(|_| Conduct::Honest).with_trainer(move |client, round, _| {
                let delay = (u64::from(client.0) * 7 + u64::from(round.0) * 5) * (disorder + 1) % 11;
                Conduct::Slow(Duration::from_millis(delay))
            });
        rehearsal.config.slots = 1 + disorder as usize;
        let result = rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        bytes.push((result.global.sha256(), stored.checkpoints, outcomes(&stored.clients)));
    }
    assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d_1_the_order_of_replies_changes_no_memory() {
    let mut ends = Vec::new();
    for disorder in 0..4_u64 {
        let mut rehearsal =
            Rehearsal::new(9, 5, 5).with_memory(|_| Conduct::Honest).with_trainer(move |client, round, _| {
                let delay = (u64::from(client.0) * 7 + u64::from(round.0) * 5) * (disorder + 1) % 11;
                Conduct::Slow(Duration::from_millis(delay))
            });
        rehearsal.config.slots = 1 + disorder as usize;
        rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        ends.push((stored.checkpoints, stored.memories));
    }
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(start_paused = true)]
async fn c_1_a_resumed_run_equals_an_uninterrupted_one() {
    let whole = Rehearsal::new(9, 4, 6);
    let result = whole.run().await.unwrap();
    for checkpoint in whole.store.stored().checkpoints {
        let resumed = Rehearsal::new(9, 4, 6);
        let done = resumed.run_from(checkpoint.clone()).await.unwrap();
        assert_eq!(done.global, result.global, "from {}", checkpoint.round);
        assert_eq!(done.rounds_done, 6 - checkpoint.round.0);
        assert_eq!(resumed.store.stored().rounds, whole.store.stored().rounds[checkpoint.round.0 as usize..]);
    }
}

#[tokio::test(start_paused = true)]
async fn c_1_a_resumed_run_remembers_what_an_uninterrupted_one_does() {
    let whole = Rehearsal::new(7, 4, 6).with_memory(|_| Conduct::Honest);
    let result = whole.run().await.unwrap();
    let stored = whole.store.stored();
    let mut forgetful = Rehearsal::new(7, 4, 6).with_memory(|_| Conduct::Honest);
    forgetful.algorithm = Arc::new(PlainClients);
    assert_ne!(forgetful.run().await.unwrap(), result, "memories move nothing, so there is nothing to test");
    for checkpoint in &stored.checkpoints {
        let mut resumed = Rehearsal::new(7, 4, 6).with_memory(|_| Conduct::Honest);
        resumed.store = whole.store.memories_after(checkpoint.round);
        assert_eq!(resumed.run_from(checkpoint.clone()).await.unwrap().global, result.global, "{}", checkpoint.round);
        assert_eq!(resumed.store.stored().memories, stored.memories, "{}", checkpoint.round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_1_a_run_cancelled_at_any_moment_resumes_to_the_same_end() {
    let slow = |_, _, _| Conduct::Slow(Duration::from_millis(2));
    let whole = Rehearsal::new(9, 4, 6).with_guard(|_| Conduct::Honest).with_trainer(slow);
    let result = whole.run().await.unwrap();
    for moment in 1..40 {
        let mut cut = Rehearsal::new(9, 4, 6).with_guard(|_| Conduct::Honest).with_trainer(slow);
        cut.store.checkpoint_takes = Duration::from_millis(2);
        let cancel = cut.cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(moment)).await;
            cancel.cancel();
        });
        let ended = cut.run().await;
        // The store is at rest, with as many rows as checkpoints.
        let stored = cut.store.stored();
        assert_eq!(stored.rounds.len(), stored.checkpoints.len());
        let start = stored.checkpoints.last().cloned().unwrap_or_else(|| cut.start());
        assert!(ended.is_ok() || ended == Err(FederationError::Cancelled), "{ended:?}");
        let rest = Rehearsal::new(9, 4, 6).with_guard(|_| Conduct::Honest).with_trainer(slow);
        assert_eq!(rest.run_from(start).await.unwrap().global, result.global, "cut after {moment} ms");
    }
}

#[tokio::test]
async fn c_1_the_store_is_at_rest_when_a_cancelled_run_has_ended() {
    let mut rehearsal = Rehearsal::new(2, 2, 3);
    rehearsal.store.checkpoint_takes = Duration::from_millis(100);
    let run = tokio::spawn({
        let rehearsal = rehearsal.clone();
        async move { rehearsal.run().await }
    });
    let commits = |event: &RoundEvent| matches!(event, RoundEvent::PhaseStarted { phase: Phase::Commit, .. });
    while !rehearsal.events.events().iter().any(commits) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    rehearsal.cancel.cancel();
    assert_eq!(run.await.unwrap(), Err(FederationError::Cancelled));
    let stored = rehearsal.store.stored();
    assert_eq!(stored.rounds.len(), stored.checkpoints.len());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rehearsal.store.stored().checkpoints, stored.checkpoints);
}

#[tokio::test]
async fn a_cancelled_run_ends_at_once_and_waits_for_no_thread() {
    for conduct in [Conduct::Hangs, Conduct::Deaf(Duration::from_secs(2))] {
        let rehearsal = Rehearsal::new(4, 4, 2)
            .with_trainer(move |_, round, _| if round.0 == 2 { conduct } else { Conduct::Honest });
        let cancel = rehearsal.cancel.clone();
        let run = tokio::spawn({
            let rehearsal = rehearsal.clone();
            async move { rehearsal.run().await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let raised = Instant::now();
        cancel.cancel();
        assert_eq!(run.await.unwrap(), Err(FederationError::Cancelled));
        assert!(raised.elapsed() < Duration::from_millis(100), "{:?}", raised.elapsed());
        let stored = rehearsal.store.stored();
        assert_eq!((stored.rounds.len(), stored.checkpoints.len()), (1, 1));
    }
}

#[tokio::test]
async fn work_ends_with_a_run_that_is_dropped() {
    let rehearsal = Rehearsal::new(2, 2, 1).with_trainer(|_, _, _| Conduct::Hangs);
    let run = tokio::time::timeout(Duration::from_millis(50), rehearsal.run());
    assert!(run.await.is_err());
    // The trainer's own flag is raised: both threads leave their loop.
    for _ in 0..200 {
        if rehearsal.trainer.at_work() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("training outlived its run");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_ends_the_run() {
    let mut rehearsal = Rehearsal::new(3, 2, 4);
    rehearsal.store.fails_in = Some(RoundId(3));
    let error = rehearsal.run().await.unwrap_err();
    assert_eq!(error.to_string(), "round 3 could not be stored: no space left");
    assert_eq!(rehearsal.store.stored().rounds.len(), 2);
}
