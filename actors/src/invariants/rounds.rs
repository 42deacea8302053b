//! Rounds and their clients' outcomes (R).

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{dropped, outcomes};
use crate::{
    federation::{FederationConfig, Schedule},
    protocol::{ClientId, RoundId},
    records::{ClientOutcome, DropReason, RejectReason, RoundOutcome},
    sampler::CohortSampler,
    testing::{Conduct, FakeRealigner, Rehearsal},
};

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
    rehearsal.check_invariants().unwrap();
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
    rehearsal.check_invariants().unwrap();
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
    crashing.check_invariants().unwrap();
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
    rehearsal.check_invariants().unwrap();
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
    rehearsal.check_invariants().unwrap();
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
    rehearsal.check_invariants().unwrap();
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
        prop_assert_eq!(rehearsal.check_invariants(), Ok(()));
    }
}
