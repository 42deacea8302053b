//! The numbered invariants of the crate, each with a test named after it, against a federation of fakes.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use crate::{
    archivist::CommitGate,
    federation::{FederationConfig, FederationError, Schedule, gather_server, start_supervisor},
    policy::{Assessed, GuardPolicy},
    ports::PlainClients,
    protocol::{ClientId, RoundId},
    records::{ClientOutcome, ClientRecord, DropReason, Phase, RejectReason, RoundEvent, RoundOutcome},
    sampler::CohortSampler,
    testing::{Conduct, FakeBenchmarks, FakeRealigner, FakeRows, FakeScreen, MemoryStore, Rehearsal},
};

fn outcomes(clients: &[ClientRecord]) -> Vec<(u32, ClientOutcome)> {
    clients.iter().map(|record| (record.client.0, record.outcome.clone())).collect()
}

fn dropped(reason: DropReason) -> ClientOutcome {
    ClientOutcome::Dropped(reason)
}

#[tokio::test(start_paused = true)]
async fn an_honest_federation_runs_to_its_end() {
    let rehearsal = Rehearsal::new(10, 4, 3);
    let result = rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert_eq!((result.rounds_done, stored.rounds.len(), stored.clients.len()), (3, 3, 12));
    assert!(stored.rounds.iter().all(|round| round.outcome == RoundOutcome::Committed && round.accepted == 4));
    assert_eq!(stored.checkpoints.last().unwrap().global, result.global);
    assert_eq!(stored.rounds[2].adapter_sha256, result.global.sha256());
}

#[tokio::test]
async fn r_1_every_selected_client_has_one_outcome_and_so_has_the_round() {
    let mut rehearsal = Rehearsal::new(7, 7, 1).with_trainer(|client, _, _| match client.0 {
        0 => Conduct::Fails,
        1 => Conduct::Panics,
        2 => Conduct::Hangs,
        3 => Conduct::NotFinite,
        4 => Conduct::WrongShape,
        _ => Conduct::Honest,
    });
    rehearsal.config.client_timeout = Duration::from_millis(200);
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    let name = |matrix| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{matrix}.weight");
    let difference = format!("tensor {}: expected shape [1, 4], found [2, 4]", name('A'));
    assert_eq!(
        outcomes(&stored.clients),
        [
            (0, dropped(DropReason::TrainingFailed("rehearsed failure".to_owned()))),
            (1, dropped(DropReason::Crashed)),
            (2, dropped(DropReason::TimedOut)),
            (3, ClientOutcome::Rejected(RejectReason::NotFinite(name('B')))),
            (4, ClientOutcome::Rejected(RejectReason::LayoutMismatch(difference))),
            (5, ClientOutcome::Accepted),
            (6, ClientOutcome::Accepted),
        ]
    );
    let round = &stored.rounds[0];
    assert_eq!((round.accepted, round.rejected, round.dropped), (2, 2, 3));
    assert_eq!(round.outcome, RoundOutcome::Committed);
    assert_eq!(stored.rounds.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn r_2_a_client_that_crashed_is_asked_again_and_counts_once() {
    let crashing = Rehearsal::new(4, 4, 2).with_trainer(|client, round, call| {
        if client.0 == 2 && round.0 == 1 && call < 3 { Conduct::Panics } else { Conduct::Honest }
    });
    let honest = Rehearsal::new(4, 4, 2);
    assert_eq!(crashing.run().await, honest.run().await);
    let (crashed, stored) = (&crashing.store.stored().clients[2], honest.store.stored());
    assert_eq!((crashed.attempt, &crashed.outcome), (3, &ClientOutcome::Accepted));
    assert_eq!(crashing.events.restarts("client"), 2);
    let bytes_down = crashing.store.stored().rounds[0].adapter_bytes_down;
    assert_eq!(bytes_down, stored.rounds[0].adapter_bytes_down + 2 * crashing.layout.size_bytes());
}

#[tokio::test]
async fn r_2_a_late_report_is_never_counted() {
    // Deaf to its flag, client 0 finishes long after its time is up, while the run goes on.
    let late = Duration::from_millis(300);
    let mut rehearsal = Rehearsal::new(2, 2, 3).with_trainer(move |client, round, _| match (client.0, round.0) {
        (0, 1) => Conduct::Deaf(late),
        (1, 2) => Conduct::Slow(late),
        _ => Conduct::Honest,
    });
    rehearsal.config.client_timeout = Duration::from_millis(150);
    rehearsal.config.sampler = CohortSampler::OpenFedLlm;
    rehearsal.run().await.unwrap();
    let clients = rehearsal.store.stored().clients;
    assert_eq!(clients.len(), 6);
    assert_eq!(clients[0].outcome, dropped(DropReason::TimedOut));
    assert_eq!(clients[3].outcome, dropped(DropReason::TimedOut));
    assert!([1, 2, 4, 5].iter().all(|&index| clients[index].outcome == ClientOutcome::Accepted));
}

#[tokio::test(start_paused = true)]
async fn r_3_below_quorum_the_global_adapter_stays() {
    let mut rehearsal = Rehearsal::new(4, 4, 3)
        .with_trainer(|client, round, _| if round.0 == 2 && client.0 > 0 { Conduct::Fails } else { Conduct::Honest });
    rehearsal.config.quorum = 2;
    rehearsal.realigner = Some(Arc::new(FakeRealigner(Conduct::Honest)));
    rehearsal.config.align = Schedule::Every(1.try_into().unwrap());
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert_eq!(stored.rounds[1].outcome, RoundOutcome::Skipped("1 updates accepted, 2 needed".to_owned()));
    assert_eq!(stored.rounds[1].warnings, ["not realigned: the global adapter is as it was"]);
    assert!(stored.rounds[0].warnings.is_empty());
    assert_eq!(stored.checkpoints[1].global, stored.checkpoints[0].global);
    assert_eq!(stored.checkpoints[1].strategy_state, stored.checkpoints[0].strategy_state);
    assert_eq!(stored.rounds[2].outcome, RoundOutcome::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_1_another_layout_is_rejected_naming_the_first_difference() {
    let rehearsal = Rehearsal::new(3, 3, 1)
        .with_trainer(|client, _, _| if client.0 == 1 { Conduct::WrongShape } else { Conduct::Honest });
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    let ClientOutcome::Rejected(RejectReason::LayoutMismatch(text)) = &stored.clients[1].outcome else {
        panic!("{:?}", stored.clients[1].outcome);
    };
    assert!(text.contains("lora_A.weight: expected shape [1, 4], found [2, 4]"), "{text}");
    assert_eq!(stored.rounds[0].accepted, 2);
}

#[tokio::test(start_paused = true)]
async fn a_2_nothing_that_is_not_finite_enters_the_global_adapter() {
    let mut rehearsal = Rehearsal::new(3, 3, 3)
        .with_trainer(|client, _, _| if client.0 == 1 { Conduct::NotFinite } else { Conduct::Honest })
        .with_strategy(|round, _| if round.0 == 2 { Conduct::NotFinite } else { Conduct::Honest });
    rehearsal.realigner = Some(Arc::new(FakeRealigner(Conduct::NotFinite)));
    rehearsal.config.align = Schedule::LastRound;
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert!(
        stored
            .clients
            .iter()
            .filter(|record| record.client.0 == 1)
            .all(|record| { matches!(record.outcome, ClientOutcome::Rejected(RejectReason::NotFinite(_))) })
    );
    assert!(matches!(&stored.rounds[1].outcome, RoundOutcome::Failed(text) if text.contains("not finite")));
    assert_eq!(stored.checkpoints[1].global, stored.checkpoints[0].global);
    assert!(stored.rounds[2].warnings[0].starts_with("not realigned: "), "{:?}", stored.rounds[2].warnings);
    assert!(stored.checkpoints.iter().all(|checkpoint| checkpoint.global.check_finite().is_ok()));
}

#[tokio::test(start_paused = true)]
async fn a_3_what_a_screen_clips_or_refuses_shapes_the_round() {
    let mut rehearsal = Rehearsal::new(4, 4, 2);
    let bound = 0.25;
    rehearsal.screen = Some(Arc::new(FakeScreen { bound, refused: vec![ClientId(2)], conduct: Conduct::Honest }));
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    let (round, clients) = (&stored.rounds[0], &stored.clients[..4]);
    assert_eq!((round.accepted, round.clipped, round.rejected, round.dropped), (3, 3, 1, 0));
    assert_eq!(clients[2].outcome, ClientOutcome::Rejected(RejectReason::Screened("refused".to_owned())));
    for client in clients.iter().filter(|client| client.client.0 != 2) {
        assert_eq!((&client.outcome, client.clipped_to), (&ClientOutcome::Accepted, Some(bound)));
        assert!(client.update_norm.unwrap() > bound, "the norm is that of the update as it was sent");
    }
    // The mean of deltas of at most 0.25 each is no longer; without the screen it is.
    assert!(round.update_norm.unwrap() <= bound + 1e-6, "{:?}", round.update_norm);
    let unscreened = Rehearsal::new(4, 4, 2);
    unscreened.run().await.unwrap();
    assert!(unscreened.store.stored().rounds[0].update_norm.unwrap() > bound);
}

#[tokio::test(start_paused = true)]
async fn a_3_without_judgements_nothing_enters() {
    for conduct in [Conduct::Fails, Conduct::Panics, Conduct::NotFinite, Conduct::WrongShape] {
        let mut rehearsal = Rehearsal::new(3, 3, 2);
        let refused = Vec::new();
        rehearsal.screen = Some(Arc::new(FakeScreen { bound: 0.25, refused, conduct }));
        let result = rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        let unavailable = |record: &ClientRecord| {
            matches!(record.outcome, ClientOutcome::Rejected(RejectReason::ScreenUnavailable(_)))
        };
        assert!(stored.clients.iter().all(unavailable), "{conduct:?}: {:?}", outcomes(&stored.clients));
        assert!(stored.rounds.iter().all(|round| matches!(round.outcome, RoundOutcome::Skipped(_))), "{conduct:?}");
        assert_eq!(result.global, rehearsal.start().global);
    }
}

/// Runs `rehearsal`, and lets the server's time pass once `reached` holds and the next step hangs.
async fn run_past_the_server_timeout(
    rehearsal: &Rehearsal,
    reached: impl Fn(&[RoundEvent]) -> bool,
) -> Result<(), FederationError> {
    let run = tokio::spawn({
        let rehearsal = rehearsal.clone();
        async move { rehearsal.run().await }
    });
    // The clock is paused and stands still while a thread is at work: time passes where this says so.
    while !reached(&rehearsal.events.events()) {
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
    // From there no thread works but the one that hangs: each turn brings every task one message on.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!(!run.is_finished());
    tokio::time::advance(rehearsal.config.server_timeout).await;
    run.await.unwrap().map(drop)
}

fn has_begun(phase: Phase) -> impl Fn(&[RoundEvent]) -> bool {
    let begins =
        move |event: &RoundEvent| matches!(event, RoundEvent::PhaseStarted { phase: begun, .. } if *begun == phase);
    move |events| events.iter().any(begins)
}

fn have_reported(clients: usize) -> impl Fn(&[RoundEvent]) -> bool {
    move |events| events.iter().filter(|event| matches!(event, RoundEvent::ClientReported { .. })).count() == clients
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_server_that_hangs_costs_its_result_and_not_the_run() {
    let every = Schedule::Every(1.try_into().unwrap());
    let mut aligning = Rehearsal::new(3, 2, 1);
    aligning.config.align = every;
    aligning.realigner = Some(Arc::new(FakeRealigner(Conduct::Hangs)));
    run_past_the_server_timeout(&aligning, has_begun(Phase::Align)).await.unwrap();
    let round = aligning.store.stored().rounds.remove(0);
    assert_eq!(round.outcome, RoundOutcome::Committed);
    assert_eq!(round.warnings, ["not realigned: did not end within 14400s"]);

    let mut evaluating = Rehearsal::new(3, 2, 1);
    evaluating.config.evaluate = every;
    evaluating.benchmarks = Some(Arc::new(FakeBenchmarks(Conduct::Hangs)));
    run_past_the_server_timeout(&evaluating, has_begun(Phase::Evaluate)).await.unwrap();
    let round = evaluating.store.stored().rounds.remove(0);
    assert_eq!(round.warnings, ["not evaluated: did not end within 14400s"]);
    assert!(round.eval.is_empty());
}

#[tokio::test(start_paused = true)]
async fn r_3_an_aggregation_that_hangs_fails_its_round_alone() {
    // A strategy has no flag to heed: its thread is left behind.
    let rehearsal = Rehearsal::new(3, 2, 2).with_strategy(|round, _| {
        if round.0 == 1 { Conduct::Deaf(Duration::from_millis(300)) } else { Conduct::Honest }
    });
    run_past_the_server_timeout(&rehearsal, has_begun(Phase::Aggregate)).await.unwrap();
    let stored = rehearsal.store.stored();
    assert_eq!(stored.rounds[0].outcome, RoundOutcome::Failed("aggregation did not end within 14400s".to_owned()));
    assert_eq!(stored.checkpoints[0].global, rehearsal.start().global);
    assert_eq!(stored.rounds[1].outcome, RoundOutcome::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_3_a_screen_that_hangs_lets_nothing_in() {
    let mut rehearsal = Rehearsal::new(3, 2, 1);
    let screen = FakeScreen { bound: 1.0, refused: Vec::new(), conduct: Conduct::Hangs };
    rehearsal.screen = Some(Arc::new(screen));
    run_past_the_server_timeout(&rehearsal, have_reported(2)).await.unwrap();
    let unavailable = RejectReason::ScreenUnavailable("screening did not end within 14400s".to_owned());
    let stored = rehearsal.store.stored();
    assert!(stored.clients.iter().all(|client| client.outcome == ClientOutcome::Rejected(unavailable.clone())));
    assert_eq!(stored.rounds[0].outcome, RoundOutcome::Skipped("0 updates accepted, 1 needed".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_fails_goes_on_from_its_last_good_state() {
    for conduct in [Conduct::Fails, Conduct::Panics, Conduct::NotFinite] {
        let mut failing = Rehearsal::new(4, 4, 4);
        failing.config.max_attempts = 1;
        let failing = failing.with_strategy(move |round, _| if round.0 == 3 { conduct } else { Conduct::Honest });
        failing.run().await.unwrap();
        let stored = failing.store.stored();
        assert!(matches!(stored.rounds[2].outcome, RoundOutcome::Failed(_)), "{conduct:?}");
        // As if round 3 had been asked of nobody: round 4 goes on from the state after round 2.
        let from_two = Rehearsal::new(4, 4, 4)
            .with_trainer(|_, round, _| if round.0 == 3 { Conduct::Fails } else { Conduct::Honest });
        from_two.run().await.unwrap();
        assert_eq!(stored.checkpoints[3], from_two.store.stored().checkpoints[3], "{conduct:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_aggregator_that_dies_is_asked_again_with_its_last_state() {
    let dying = Rehearsal::new(4, 4, 4)
        .with_strategy(|round, call| if round.0 == 3 && call == 3 { Conduct::Panics } else { Conduct::Honest });
    assert_eq!(dying.run().await, Rehearsal::new(4, 4, 4).run().await);
    assert_eq!(dying.events.restarts("aggregator"), 1);
}

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
    assert_eq!((round.rows_kept, round.rows_filtered), (4 * 6, 4 * 2));
    assert_eq!((round.rows_kept_unsafe, round.rows_filtered_safe), (0, 0));
    assert_eq!(rehearsal.trainer.unsafe_rows(), 0);
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
        assert_eq!((round.rows_kept, round.rows_filtered, round.rows_replaced), (4 * 6, 0, 4 * 2));
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
    assert_eq!((round.rows_kept, round.rows_filtered, round.rows_reweighted), (4 * 6, 0, 4 * 2));
    // The fake guard is certain, so nothing is left of a row that it calls unsafe; it is still trained on, for nothing.
    assert!(round.reweighted_weight.abs() < 1e-12);
    assert_eq!(rehearsal.trainer.unsafe_rows(), 4 * 2);
    // Where nothing at all is left, a client has nothing to train on.
    rehearsal.rows = Arc::new(FakeRows::new(3, true));
    rehearsal.store = MemoryStore::default();
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert!(stored.clients.iter().all(|record| record.outcome == dropped(DropReason::NoRows)));
    assert_eq!(stored.rounds[0].rows_reweighted, 4 * 3);
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
    assert_eq!((stored.rounds[0].rows_kept, stored.rounds[0].rows_filtered), (0, 6));
}

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

#[tokio::test]
async fn a_hanging_client_costs_only_itself() {
    let mut rehearsal = Rehearsal::new(5, 5, 2)
        .with_trainer(|client, _, _| if client.0 == 0 { Conduct::Hangs } else { Conduct::Honest });
    rehearsal.config.slots = 1;
    rehearsal.config.client_timeout = Duration::from_millis(150);
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert!(
        stored.rounds.iter().all(|round| (round.accepted, round.dropped) == (4, 1)),
        "{:?}",
        outcomes(&stored.clients)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn m_1_slots_are_never_exceeded_and_rows_exist_for_turns_alone() {
    for slots in [1, 3] {
        let mut rehearsal = Rehearsal::new(24, 12, 2)
            .with_guard(|_| Conduct::Slow(Duration::from_millis(1)))
            .with_trainer(|client, _, call| match client.0 % 5 {
                0 if call == 1 => Conduct::Panics,
                _ => Conduct::Slow(Duration::from_millis(3)),
            });
        rehearsal.config.slots = slots;
        rehearsal.run().await.unwrap();
        assert_eq!(rehearsal.trainer.peak(), slots);
        assert!(rehearsal.rows.peak_held() <= slots, "{} clients' rows at once", rehearsal.rows.peak_held());
    }
}

#[tokio::test(start_paused = true)]
async fn m_1_ten_thousand_idle_clients_cost_nothing() {
    let rehearsal = Rehearsal::new(10_000, 10, 5);
    let (config, run) = (rehearsal.config.clone(), rehearsal.cancel.clone());
    let (supervisor, observer) =
        start_supervisor(&config, rehearsal.ports(), &run, CommitGate::default()).await.unwrap();
    let mut server = gather_server(config, rehearsal.start(), run, supervisor.clone(), observer).await.unwrap();
    // Aggregator and archivist: nobody else lives as long as the run here.
    let crew = 2;
    assert_eq!(supervisor.get_children().len(), crew);
    for round in 1..=5 {
        server.run_rounds(&[RoundId(round)]).await.unwrap();
        // Those who are not in this cohort have been told to stop, and get the time to.
        for _ in 0..1000 {
            if supervisor.get_children().len() == crew + 10 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(supervisor.get_children().len(), crew + 10, "actors alive after round {round}");
    }
    let selected: BTreeSet<_> = rehearsal.trainer.calls().into_keys().map(|(client, _)| client).collect();
    assert!(selected.len() > 10, "one cohort only");
    // Rows were fetched for the selected clients alone.
    assert_eq!(rehearsal.rows.fetched(), 50);
    supervisor.kill();
}

#[tokio::test(start_paused = true)]
async fn realignment_and_evaluation_follow_their_schedules_and_fail_softly() {
    let every_second = Schedule::Every(2.try_into().unwrap());
    for (conduct, warnings) in [(Conduct::Honest, 0), (Conduct::Fails, 2), (Conduct::Panics, 2)] {
        let mut rehearsal = Rehearsal::new(3, 2, 4);
        rehearsal.config.align = every_second;
        rehearsal.config.evaluate = every_second;
        rehearsal.realigner = Some(Arc::new(FakeRealigner(conduct)));
        rehearsal.benchmarks = Some(Arc::new(FakeBenchmarks(conduct)));
        rehearsal.run().await.unwrap();
        let rounds = rehearsal.store.stored().rounds;
        let told: Vec<usize> = rounds.iter().map(|round| round.warnings.len()).collect();
        assert_eq!(told, [0, warnings, 0, warnings], "{conduct:?}");
        assert!(rounds.iter().all(|round| round.outcome == RoundOutcome::Committed));
        let aligned: Vec<bool> = rounds.iter().map(|round| round.align.is_some()).collect();
        assert_eq!(aligned, [false, warnings == 0, false, warnings == 0]);
        let n = |round: usize| rounds[round].eval.get("norm").map(|score| score.n);
        assert_eq!([n(0), n(1), n(3)], if warnings == 0 { [None, Some(10), Some(100)] } else { [None; 3] });
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_ends_the_run() {
    let mut rehearsal = Rehearsal::new(3, 2, 4);
    rehearsal.store.fails_in = Some(RoundId(3));
    let error = rehearsal.run().await.unwrap_err();
    assert_eq!(error.to_string(), "round 3 could not be stored: no space left");
    assert_eq!(rehearsal.store.stored().rounds.len(), 2);
}

#[tokio::test]
async fn a_contradictory_configuration_is_refused_in_words() {
    let refused = async |change: fn(&mut FederationConfig)| {
        let mut rehearsal = Rehearsal::new(10, 5, 1);
        change(&mut rehearsal.config);
        rehearsal.run().await.unwrap_err().to_string()
    };
    assert_eq!(refused(|config| config.clients = 0).await, "clients must be at least 1, found 0");
    assert_eq!(refused(|config| config.cohort = 11).await, "cohort must be from 1 to the 10 clients, found 11");
    assert_eq!(refused(|config| config.quorum = 0).await, "quorum must be from 1 to the cohort of 5, found 0");
    assert!(refused(|config| config.slots = 0).await.starts_with("slots must be at least 1"));
    assert_eq!(refused(|config| config.max_attempts = 0).await, "max_attempts must be at least 1, found 0");
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

#[tokio::test(start_paused = true)]
async fn r_3_clients_forget_a_round_that_did_not_take_them_in() {
    let is_remembered = |rehearsal: &Rehearsal, client: u32, round: u32| {
        rehearsal.store.stored().memories.contains_key(&(ClientId(client), RoundId(round)))
    };
    // Round 1 fails in aggregation, round 2 is below quorum, in round 3 one client is rejected.
    let mut rehearsal = Rehearsal::new(4, 4, 3)
        .with_memory(|round| if round.0 == 1 { Conduct::Fails } else { Conduct::Honest })
        .with_trainer(|client, round, _| match (round.0, client.0) {
            (2, 1..) => Conduct::Fails,
            (3, 2) => Conduct::NotFinite,
            _ => Conduct::Honest,
        });
    rehearsal.config.quorum = 2;
    rehearsal.run().await.unwrap();
    let rounds = rehearsal.store.stored().rounds;
    assert!(
        matches!(rounds[0].outcome, RoundOutcome::Failed(_)) && matches!(rounds[1].outcome, RoundOutcome::Skipped(_))
    );
    let remembered: Vec<bool> = (0..4).map(|client| is_remembered(&rehearsal, client, 3)).collect();
    assert_eq!(remembered, [true, true, false, true]);
    assert!((0..4).all(|client| !is_remembered(&rehearsal, client, 1) && !is_remembered(&rehearsal, client, 2)));
}

#[tokio::test(start_paused = true)]
async fn r_1_without_instructions_nobody_trains_and_the_round_is_skipped() {
    let rehearsal =
        Rehearsal::new(3, 3, 2).with_memory(|round| if round.0 == 1 { Conduct::WrongShape } else { Conduct::Honest });
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    let silent = dropped(DropReason::NoInstructions("rehearsed silence".to_owned()));
    assert!(stored.clients[..3].iter().all(|record| record.outcome == silent), "{:?}", outcomes(&stored.clients));
    assert!(matches!(stored.rounds[0].outcome, RoundOutcome::Skipped(_)));
    assert_eq!(stored.rounds[0].adapter_bytes_down, 0);
    assert_eq!(stored.rounds[1].outcome, RoundOutcome::Committed);
}

#[tokio::test(start_paused = true)]
async fn what_travels_beside_the_adapter_is_counted_and_what_the_strategy_says_is_told() {
    let rehearsal = Rehearsal::new(3, 3, 2).with_memory(|_| Conduct::Honest);
    rehearsal.run().await.unwrap();
    let (rounds, size) = (rehearsal.store.stored().rounds, rehearsal.layout.size_bytes());
    let bytes: Vec<_> = rounds.iter().map(|round| (round.adapter_bytes_up, round.adapter_bytes_down)).collect();
    // The server's vector travels once it has been moved.
    assert_eq!(bytes, [(6 * size, 3 * size), (6 * size, 6 * size)]);
    assert!(rounds.iter().all(|round| round.strategy["control_norm"] > 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn m_1_what_clients_remember_is_in_memory_for_turns_alone() {
    let mut rehearsal = Rehearsal::new(20, 10, 4)
        .with_memory(|_| Conduct::Honest)
        .with_trainer(|_, _, _| Conduct::Slow(Duration::from_millis(2)));
    rehearsal.config.slots = 2;
    rehearsal.run().await.unwrap();
    let (read, peak) = rehearsal.store.memories_read();
    assert_eq!(read, 40);
    assert!((1..=2).contains(&peak), "{peak} memories at once");
    let plain = Rehearsal::new(4, 4, 2);
    plain.run().await.unwrap();
    assert_eq!(plain.store.memories_read(), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever clients do, in whatever mixture: one outcome each, and the counts add up (invariant R-1).
    #[test]
    fn r_1_outcomes_add_up_for_any_mixture_of_clients(
        conducts in prop::collection::vec(
            prop_oneof![
                3 => Just(Conduct::Honest), 1 => Just(Conduct::Fails), 1 => Just(Conduct::Panics),
                1 => Just(Conduct::NotFinite), 1 => Just(Conduct::WrongShape),
            ],
            1..12,
        ),
        quorum in 1_u32..12,
        slots in 1_usize..5,
    ) {
        let clients = conducts.len() as u32;
        let honest = conducts.iter().filter(|&&conduct| conduct == Conduct::Honest).count() as u32;
        let mut rehearsal =
            Rehearsal::new(clients, clients, 1).with_trainer(move |client, _, _| conducts[client.0 as usize]);
        rehearsal.config.quorum = quorum.min(clients);
        rehearsal.config.slots = slots;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let result = runtime.block_on(rehearsal.run()).unwrap();
        let (stored, start) = (rehearsal.store.stored(), rehearsal.start());
        let round = &stored.rounds[0];
        prop_assert_eq!(round.accepted + round.rejected + round.dropped, clients);
        prop_assert_eq!(round.accepted, honest);
        prop_assert_eq!(stored.clients.len() as u32, clients);
        let enough = honest >= rehearsal.config.quorum;
        prop_assert_eq!(round.outcome == RoundOutcome::Committed, enough);
        prop_assert_eq!(result.global == start.global, !enough);
    }
}
