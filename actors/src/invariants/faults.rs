//! Faults that are put in (F).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{dropped, outcomes};
use crate::{
    faults::{ClientFault, FaultPlan, ON_PURPOSE, ServerFault},
    federation::Schedule,
    predicates::{Finding, Invariant},
    protocol::RoundId,
    records::{ClientOutcome, ClientRecord, DropReason, RejectReason, RoundEvent, RoundOutcome},
    testing::{Conduct, FakeBenchmarks, FakeRealigner, FakeRows, Rehearsal, Stored},
};

fn of_clients(fault: ClientFault, share: f64) -> FaultPlan {
    FaultPlan { clients: [(fault, share)].into(), ..FaultPlan::default() }
}

fn of_server(fault: ServerFault, rounds: &[u32]) -> FaultPlan {
    let rounds = Some(rounds.iter().copied().map(RoundId).collect());
    FaultPlan { rounds, server: [(fault, 1.0)].into(), ..FaultPlan::default() }
}

fn with(faults: FaultPlan) -> Rehearsal {
    let mut rehearsal = Rehearsal::new(12, 8, 4).with_guard(|_| Conduct::Honest);
    rehearsal.config.faults = faults;
    rehearsal
}

#[tokio::test(start_paused = true)]
async fn f_1_a_fault_has_the_outcome_that_it_has_otherwise_and_is_recorded() {
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    for (fault, expected) in [
        (ClientFault::Offline, dropped(DropReason::Offline)),
        (ClientFault::GuardOutage, dropped(DropReason::GuardUnavailable(ON_PURPOSE.to_owned()))),
        (ClientFault::NotFinite, ClientOutcome::Rejected(RejectReason::NotFinite(name.to_owned()))),
    ] {
        let rehearsal = with(of_clients(fault, 0.4));
        rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        let hit: Vec<_> = stored.clients.iter().filter(|record| record.fault == Some(fault)).collect();
        assert!((4..28).contains(&hit.len()), "{fault:?}: {} of {}", hit.len(), stored.clients.len());
        for record in &stored.clients {
            let outcome = if record.fault.is_some() { &expected } else { &ClientOutcome::Accepted };
            assert_eq!(&record.outcome, outcome, "{fault:?}");
            // Nothing unscreened is trained on, and nobody trains who cannot be reached (invariant S-1).
            assert_eq!(record.steps > 0, record.fault.is_none() || fault == ClientFault::NotFinite);
        }
        let counted: u32 = stored.rounds.iter().filter_map(|round| round.faults.get(fault.name())).sum();
        assert_eq!(counted as usize, hit.len());
        rehearsal.check_invariants().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn f_1_another_layout_is_refused_with_its_first_difference() {
    let rehearsal = with(of_clients(ClientFault::OtherLayout, 1.0));
    let result = rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    for record in &stored.clients {
        let ClientOutcome::Rejected(RejectReason::LayoutMismatch(difference)) = &record.outcome else {
            panic!("{:?}", record.outcome);
        };
        assert!(difference.contains("other.base_model"), "{difference}");
    }
    assert!(stored.rounds.iter().all(|round| matches!(round.outcome, RoundOutcome::Skipped(_))));
    assert_eq!(result.global, rehearsal.start().global);
    rehearsal.check_invariants().unwrap();
}

#[tokio::test(start_paused = true)]
async fn f_1_whoever_dies_and_is_asked_again_changes_no_byte() {
    let honest = with(FaultPlan::default());
    let expected = honest.run().await.unwrap();
    for (faults, kind) in [
        (of_clients(ClientFault::Crash, 0.5), "client"),
        (of_server(ServerFault::AggregatorCrash, &[1, 3]), "aggregator"),
    ] {
        let faulty = with(faults);
        assert_eq!(faulty.run().await.unwrap(), expected);
        let (stored, untouched) = (faulty.store.stored(), honest.store.stored());
        assert_eq!(outcomes(&stored.clients), outcomes(&untouched.clients));
        assert_eq!(stored.checkpoints, untouched.checkpoints);
        let restarts = faulty.events.events().iter().filter(|event| is_restart(event, kind)).count() as u32;
        let put_in: u32 = stored.rounds.iter().flat_map(|round| round.faults.values()).sum();
        assert!(restarts > 1 && restarts == put_in, "{kind}: {restarts} of {put_in}");
    }
}

fn is_restart(event: &RoundEvent, of: &str) -> bool {
    matches!(event, RoundEvent::ActorRestarted { kind } if *kind == of)
}

#[tokio::test(start_paused = true)]
async fn f_1_without_a_second_attempt_the_dead_are_lost() {
    let mut clients = with(of_clients(ClientFault::Crash, 1.0));
    clients.config.max_attempts = 1;
    clients.run().await.unwrap();
    let stored = clients.store.stored();
    assert!(stored.clients.iter().all(|record| record.outcome == dropped(DropReason::Crashed)));

    let mut aggregator = with(of_server(ServerFault::AggregatorCrash, &[2]));
    aggregator.config.max_attempts = 1;
    aggregator.run().await.unwrap();
    let rounds = aggregator.store.stored().rounds;
    let failed: Vec<_> = rounds.iter().map(|round| matches!(round.outcome, RoundOutcome::Failed(_))).collect();
    assert_eq!(failed, [false, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn f_1_failures_of_realignment_and_evaluation_are_warnings() {
    for (fault, warning) in [
        (ServerFault::RealignmentFailure, "not realigned: put in on purpose"),
        (ServerFault::EvaluationFailure, "not evaluated: put in on purpose"),
    ] {
        let mut rehearsal = with(of_server(fault, &[2]));
        let every = Schedule::Every(std::num::NonZeroU32::MIN);
        (rehearsal.config.align, rehearsal.config.evaluate) = (every, every);
        rehearsal.realigner = Some(Arc::new(FakeRealigner(Conduct::Honest)));
        rehearsal.benchmarks = Some(Arc::new(FakeBenchmarks(Conduct::Honest)));
        rehearsal.run().await.unwrap();
        for round in rehearsal.store.stored().rounds {
            assert_eq!(round.outcome, RoundOutcome::Committed);
            let expected: &[&str] = if round.round == RoundId(2) { &[warning] } else { &[] };
            assert_eq!(round.warnings, expected, "{}", round.round);
            assert_eq!(round.faults.len(), expected.len());
        }
    }
}

/// What is recorded is what struck, not what was drawn.
#[tokio::test(start_paused = true)]
async fn f_1_a_fault_that_finds_nothing_to_strike_is_in_no_record() {
    let put_in = |rehearsal: &Rehearsal| -> u32 {
        let stored = rehearsal.store.stored();
        assert!(stored.clients.iter().all(|record| record.fault.is_none()));
        stored.rounds.iter().flat_map(|round| round.faults.values()).sum()
    };
    for fault in [ClientFault::Crash, ClientFault::NotFinite, ClientFault::OtherLayout] {
        // The guard leaves nothing to train on.
        let mut rehearsal = with(of_clients(fault, 1.0));
        rehearsal.rows = Arc::new(FakeRows::new(3, true));
        rehearsal.run().await.unwrap();
        assert_eq!(put_in(&rehearsal), 0, "{fault:?}");
    }
    for fault in ClientFault::ALL {
        // Nobody is asked.
        let mut rehearsal = Rehearsal::new(3, 3, 2).with_memory(|_| Conduct::WrongShape);
        rehearsal.config.faults = of_clients(fault, 1.0);
        rehearsal.run().await.unwrap();
        assert_eq!(put_in(&rehearsal), 0, "{fault:?}");
    }
    // There is no guard that could be out.
    let mut unguarded = Rehearsal::new(3, 3, 2);
    unguarded.config.faults = of_clients(ClientFault::GuardOutage, 1.0);
    unguarded.run().await.unwrap();
    assert_eq!(put_in(&unguarded), 0);
    // An adapter that is as it was is not realigned.
    let faults = FaultPlan {
        clients: [(ClientFault::Offline, 1.0)].into(),
        server: [(ServerFault::RealignmentFailure, 1.0)].into(),
        rounds: None,
    };
    let mut skipped = with(faults);
    skipped.config.align = Schedule::Every(std::num::NonZeroU32::MIN);
    skipped.realigner = Some(Arc::new(FakeRealigner(Conduct::Honest)));
    skipped.run().await.unwrap();
    for round in skipped.store.stored().rounds {
        assert_eq!(round.faults, [("offline".to_owned(), 8)].into());
        assert_eq!(round.adapter_bytes_down, 0, "who cannot be reached is sent nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn f_1_of_several_faults_the_first_counts() {
    let rehearsal =
        with(FaultPlan { clients: ClientFault::ALL.map(|fault| (fault, 1.0)).into(), ..FaultPlan::default() });
    rehearsal.run().await.unwrap();
    assert!(rehearsal.store.stored().clients.iter().all(|record| record.fault == Some(ClientFault::Offline)));
    let behind = ClientFault::ALL[1..].iter().map(|&fault| (fault, 1.0)).collect();
    let rehearsal = with(FaultPlan { clients: behind, ..FaultPlan::default() });
    rehearsal.run().await.unwrap();
    assert!(rehearsal.store.stored().clients.iter().all(|record| record.fault == Some(ClientFault::GuardOutage)));
}

#[tokio::test(start_paused = true)]
async fn f_1_what_the_struck_remember_is_what_counted() {
    let run = async |faults| {
        let mut rehearsal = Rehearsal::new(6, 5, 4).with_memory(|_| Conduct::Honest);
        rehearsal.config.faults = faults;
        rehearsal.run().await.unwrap();
        rehearsal.store.stored()
    };
    let honest = run(FaultPlan::default()).await;
    let crashed = run(of_clients(ClientFault::Crash, 0.5)).await;
    assert!(crashed.clients.iter().any(|record| record.fault == Some(ClientFault::Crash)));
    assert_eq!((crashed.checkpoints, crashed.memories), (honest.checkpoints, honest.memories));
    let refused = run(of_clients(ClientFault::NotFinite, 0.5)).await;
    for record in &refused.clients {
        let is_remembered = refused.memories.contains_key(&(record.client, record.round));
        assert_eq!(is_remembered, record.outcome == ClientOutcome::Accepted, "{record:?}");
    }
}

/// Whoever leaves out a fault and takes the update all the same is found by the draw alone.
#[tokio::test(start_paused = true)]
async fn f_1_an_update_that_was_to_be_spoilt_is_not_accepted() {
    for fault in [ClientFault::NotFinite, ClientFault::OtherLayout] {
        let rehearsal = with(of_clients(fault, 0.5));
        rehearsal.run().await.unwrap();
        let mut evidence = rehearsal.evidence();
        assert_eq!(Invariant::F1.check(&evidence), Ok(Finding::Holds));
        let trace = &mut evidence.trace;
        let struck = trace.clients.iter_mut().find(|record| record.fault == Some(fault)).unwrap();
        (struck.fault, struck.outcome) = (None, ClientOutcome::Accepted);
        let of_round = trace.rounds.iter_mut().find(|round| round.round == struck.round).unwrap();
        let count = of_round.faults.get_mut(fault.name()).unwrap();
        *count -= 1;
        of_round.faults.retain(|_, count| *count > 0);
        let violation = Invariant::F1.check(&evidence).unwrap_err().to_string();
        assert!(violation.ends_with(&format!("fault: expected {}, found none", fault.name())), "{violation}");
    }
}

/// Each round's outcome and faults.
type Rounds = Vec<(RoundOutcome, BTreeMap<String, u32>)>;

/// Records without what a clock measured.
fn timeless(stored: &Stored) -> (Vec<ClientRecord>, Rounds) {
    let clients = stored.clients.iter().map(|record| ClientRecord { train_seconds: 0.0, ..record.clone() });
    let rounds = stored.rounds.iter().map(|round| (round.outcome.clone(), round.faults.clone()));
    (clients.collect(), rounds.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d_1_a_run_with_faults_is_repeated_and_resumed_to_the_byte() {
    let faults = FaultPlan {
        clients: ClientFault::ALL.map(|fault| (fault, 0.15)).into(),
        server: [(ServerFault::AggregatorCrash, 0.5)].into(),
        rounds: None,
    };
    let whole = with(faults.clone());
    let result = whole.run().await.unwrap();
    let (clients, rounds) = timeless(&whole.store.stored());
    assert!(
        clients.iter().filter_map(|record| record.fault).collect::<BTreeSet<_>>().len() > 3,
        "too few faults to see"
    );
    for slots in [1, 5] {
        let mut again = with(faults.clone())
            .with_trainer(move |client, _, _| Conduct::Slow(Duration::from_millis(u64::from(client.0) * 7 % 11)));
        again.config.slots = slots;
        assert_eq!(again.run().await.unwrap(), result);
        assert_eq!(timeless(&again.store.stored()), (clients.clone(), rounds.clone()));
    }
    let resumed = with(faults);
    let done = resumed.run_from(whole.store.stored().checkpoints[1].clone()).await.unwrap();
    assert_eq!(done.global, result.global);
    assert_eq!(timeless(&resumed.store.stored()), (clients[16..].to_vec(), rounds[2..].to_vec()));
}
