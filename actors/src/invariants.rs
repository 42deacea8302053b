//! The numbered invariants of the crate, each with a test named after it, against a federation of fakes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    federation::{FederationError, Schedule},
    protocol::{ClientId, RoundId},
    records::{ClientOutcome, ClientRecord, DropReason, RejectReason, RoundOutcome},
    testing::{Conduct, FakeBenchmarks, FakeRealigner, Rehearsal},
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
    rehearsal.config.client_timeout = Duration::from_millis(100);
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
