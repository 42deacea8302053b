//! What the server does with updates (A), and what becomes of a round when a step of it fails or hangs.

use std::{sync::Arc, time::Duration};

use super::outcomes;
use crate::{
    federation::{FederationError, Schedule},
    protocol::ClientId,
    records::{ClientOutcome, ClientRecord, Phase, RejectReason, RoundEvent, RoundOutcome},
    testing::{Conduct, FakeBenchmarks, FakeRealigner, FakeScreen, Rehearsal},
};

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
        // What a realignment did is told as soon as it is done, not with its round.
        let told: Vec<_> = rehearsal.events.events();
        let is_aligned = |event: &RoundEvent| matches!(event, RoundEvent::Realigned(_));
        let begins_evaluation =
            |event: &RoundEvent| matches!(event, RoundEvent::PhaseStarted { phase: Phase::Evaluate, .. });
        let followed = told.windows(2).filter(|pair| is_aligned(&pair[0]) && begins_evaluation(&pair[1])).count();
        assert_eq!(told.iter().filter(|event| is_aligned(event)).count(), followed);
        assert_eq!(followed, if warnings == 0 { 2 } else { 0 });
        let n = |round: usize| rounds[round].eval.get("norm").map(|score| score.n);
        assert_eq!([n(0), n(1), n(3)], if warnings == 0 { [None, Some(10), Some(100)] } else { [None; 3] });
    }
}
