//! What is in memory at once (M).

use std::{collections::BTreeSet, time::Duration};

use crate::{
    checkpointer::CommitGate,
    federation::{make_server, start_actors},
    protocol::RoundId,
    testing::{Conduct, Rehearsal},
};

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
    let started = start_actors(&config, rehearsal.ports(), &run, CommitGate::default()).await.unwrap();
    let supervisor = started.supervisor.clone();
    let mut server = make_server(config, rehearsal.start(), run, started).await.unwrap();
    // Aggregator and checkpointer: nobody else lives as long as the run here.
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
