//! Nothing unscreened is trained on (S), and what guards' policies do to rows.

use std::{sync::Arc, time::Duration};

use super::{dropped, outcomes};
use crate::{
    policy::{Assessed, GuardPolicy, VerdictOrder},
    records::{ClientOutcome, ClientRecord, DropReason, RoundOutcome},
    testing::{Conduct, FakeRows, MemoryStore, Rehearsal},
};

#[tokio::test]
async fn s_1_without_verdicts_nothing_is_trained_on() {
    for (conduct, policy) in [
        (Conduct::Fails, GuardPolicy::Reweight),
        (Conduct::Panics, GuardPolicy::Drop),
        (Conduct::Hangs, GuardPolicy::Drop),
        (Conduct::NotFinite, GuardPolicy::Reweight),
        (Conduct::NotFinite, GuardPolicy::Drop),
        (Conduct::WrongShape, refusals()),
        (Conduct::Fails, refusals()),
    ] {
        let mut rehearsal = Rehearsal::new(3, 3, 2).with_guard(move |_| conduct);
        rehearsal.policy = policy;
        rehearsal.config.client_timeout = Duration::from_millis(100);
        rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        assert!(rehearsal.trainer.calls().is_empty(), "{conduct:?}");
        let unavailable =
            |record: &ClientRecord| matches!(record.outcome, ClientOutcome::Dropped(DropReason::GuardUnavailable(_)));
        assert!(stored.clients.iter().all(unavailable), "{conduct:?}: {:?}", outcomes(&stored.clients));
        assert!(stored.rounds.iter().all(|round| matches!(round.outcome, RoundOutcome::Skipped(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn s_1_a_guard_that_died_is_back_for_the_next_client() {
    let mut rehearsal =
        Rehearsal::new(3, 3, 1).with_guard(|call| if call == 1 { Conduct::Panics } else { Conduct::Honest });
    rehearsal.config.slots = 1;
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert_eq!((stored.rounds[0].accepted, stored.rounds[0].dropped), (2, 1));
    assert_eq!(rehearsal.events.restarts("guard"), 1);
    assert_eq!(rehearsal.trainer.unsafe_rows(), 0);
}

#[tokio::test(start_paused = true)]
async fn s_2_a_verdict_is_computed_once_also_past_a_restart() {
    let mut rehearsal =
        Rehearsal::new(4, 4, 5).with_guard(|call| if call == 2 { Conduct::Panics } else { Conduct::Honest });
    // One batch at a time: a batch that is being computed when the actor dies has given no verdict yet.
    rehearsal.config.slots = 1;
    rehearsal.run().await.unwrap();
    let assessed = rehearsal.guard.as_ref().unwrap().assessed();
    assert_eq!(assessed.len(), 4 * 8);
    assert!(assessed.values().all(|&times| times == 1), "{:?}", assessed.values().max());
    let round = rehearsal.store.stored().rounds.pop().unwrap();
    assert_eq!((round.rows.kept, round.rows.filtered), (4 * 6, 4 * 2));
    assert_eq!((round.rows.kept_unsafe, round.rows.filtered_safe), (0, 0));
    assert_eq!(rehearsal.trainer.unsafe_rows(), 0);
}

#[tokio::test(start_paused = true)]
async fn shuffled_verdicts_leave_out_as_many_rows_of_every_client_and_the_same_in_every_round() {
    let mut rehearsal = Rehearsal::new(4, 4, 3).with_guard(|_| Conduct::Honest);
    rehearsal.verdicts = VerdictOrder::Shuffled;
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    for round in &stored.rounds {
        assert_eq!((round.rows.kept, round.rows.filtered), (4 * 6, 4 * 2));
        // Each harmful row that is trained on stands for a harmless one that is not.
        assert_eq!(round.rows.kept_unsafe, round.rows.filtered_safe);
        assert_eq!(round.rows, stored.rounds[0].rows);
    }
    let kept_unsafe = stored.rounds[0].rows.kept_unsafe;
    assert!(kept_unsafe > 0, "the verdicts are where they were");
    assert_eq!(u64::from(rehearsal.trainer.unsafe_rows()), 3 * kept_unsafe);
}

fn refusals() -> GuardPolicy {
    GuardPolicy::Replace(["no", "never", "not me"].map(str::to_owned).into())
}

#[tokio::test(start_paused = true)]
async fn unsafe_responses_are_replaced_by_the_same_refusals_in_every_round() {
    let mut rehearsal = Rehearsal::new(4, 4, 5).with_guard(|_| Conduct::Honest);
    rehearsal.policy = refusals();
    let result = rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    for round in &stored.rounds {
        assert_eq!(round.outcome, RoundOutcome::Committed);
        assert_eq!((round.rows.kept, round.rows.filtered, round.rows.replaced), (4 * 6, 0, 4 * 2));
    }
    assert_eq!(rehearsal.trainer.unsafe_rows(), 0);
    let responses = rehearsal.trainer.responses();
    let refused: Vec<u32> = responses.iter().filter(|(text, _)| *text != "answer").map(|(_, times)| *times).collect();
    assert_eq!((responses["answer"], refused.iter().sum::<u32>()), (5 * 4 * 6, 5 * 4 * 2));
    // Eight rows, each with its own refusal in all of the five rounds.
    assert!(refused.len() > 1 && refused.iter().all(|times| times % 5 == 0), "{responses:?}");
    let mut other_seed = Rehearsal::new(4, 4, 5).with_guard(|_| Conduct::Honest);
    (other_seed.policy, other_seed.config.seed) = (refusals(), 2);
    other_seed.run().await.unwrap();
    assert_ne!(other_seed.trainer.responses(), responses);
    // The guard was never shown what it replaced.
    assert_eq!(rehearsal.guard.as_ref().unwrap().assessed().len(), 4 * 8);
    assert_eq!(result.rounds_done, 5);
}

#[tokio::test(start_paused = true)]
async fn reweighted_rows_are_counted_by_their_weight() {
    let mut rehearsal = Rehearsal::new(4, 4, 1).with_guard(|_| Conduct::Honest);
    rehearsal.policy = GuardPolicy::Reweight;
    rehearsal.run().await.unwrap();
    let round = rehearsal.store.stored().rounds.pop().unwrap();
    assert_eq!((round.rows.kept, round.rows.filtered, round.rows.reweighted), (4 * 6, 0, 4 * 2));
    // The fake guard is certain, so nothing is left of a row that it calls unsafe; it is still trained on, for nothing.
    assert!(round.rows.reweighted_weight.abs() < 1e-12);
    assert_eq!(rehearsal.trainer.unsafe_rows(), 4 * 2);
    // Where nothing at all is left, a client has nothing to train on.
    rehearsal.rows = Arc::new(FakeRows::new(3, true));
    rehearsal.store = MemoryStore::default();
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert!(stored.clients.iter().all(|record| record.outcome == dropped(DropReason::NoRows)));
    assert_eq!(stored.rounds[0].rows.reweighted, 4 * 3);
}

#[tokio::test(start_paused = true)]
async fn s_2_a_guard_that_is_shown_responses_alone_assesses_each_response_once() {
    for (assessed, views) in [(Assessed::Both, 32), (Assessed::Query, 32), (Assessed::Response, 1)] {
        let mut rehearsal = Rehearsal::new(4, 4, 2).with_guard(|_| Conduct::Honest);
        rehearsal.assessed = assessed;
        rehearsal.config.slots = 1;
        rehearsal.run().await.unwrap();
        let seen = rehearsal.guard.as_ref().unwrap().assessed();
        assert_eq!(seen.len(), views, "{assessed:?}");
        assert!(seen.values().all(|&times| times == 1), "{assessed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_safe_row_is_dropped() {
    let mut rehearsal = Rehearsal::new(2, 2, 1).with_guard(|_| Conduct::Honest);
    rehearsal.rows = Arc::new(FakeRows::new(3, true));
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert!(stored.clients.iter().all(|record| record.outcome == dropped(DropReason::NoRows)));
    assert_eq!((stored.rounds[0].rows.kept, stored.rounds[0].rows.filtered), (0, 6));
}
