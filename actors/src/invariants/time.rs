//! Simulated time: who is first, who is late, what is under way (D-1, R-1, C-1).

use std::time::Duration;

use super::{dropped, outcomes};
use crate::{
    devices::DeviceProfile,
    federation::FederationError,
    gather::{Gather, Late},
    ports::{ClientUpdate, PortResult, Strategy},
    protocol::{GlobalModel, RoundId},
    records::DropReason,
    testing::{Conduct, Rehearsal},
};

const DEVICES: DeviceProfile = DeviceProfile {
    tokens_per_second: 10.0,
    down_bytes_per_second: 100.0,
    up_bytes_per_second: 100.0,
    spread: 1.0,
    jitter: 0.3,
    latency_seconds: 0.1,
};

const BUFFER: Gather = Gather { first: Some(3), deadline_seconds: None, late: Late::Count { exponent: 0.5 } };

fn rehearsal(gather: Gather) -> Rehearsal {
    let mut rehearsal = Rehearsal::new(12, 6, 8);
    rehearsal.config.devices = Some(DEVICES);
    rehearsal.config.gather = gather;
    rehearsal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d_1_a_buffer_gives_the_same_bytes_whatever_the_slots_and_the_order_of_replies() {
    let mut ends = Vec::new();
    for disorder in 0..5_u64 {
        let mut rehearsal = rehearsal(BUFFER).with_memory(|_| Conduct::Honest).with_trainer(move |client, round, _| {
            let delay = (u64::from(client.0) * 7 + u64::from(round.0) * 5) * (disorder + 1) % 11;
            Conduct::Slow(Duration::from_millis(delay))
        });
        rehearsal.config.slots = 1 + disorder as usize;
        let result = rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        let times: Vec<_> = stored.rounds.iter().map(|round| round.simulated_seconds.unwrap().to_bits()).collect();
        ends.push((result.global.sha256(), stored.checkpoints, outcomes(&stored.clients), times));
    }
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(start_paused = true)]
async fn a_buffer_takes_the_first_and_counts_the_others_later_with_their_staleness() {
    let rehearsal = rehearsal(BUFFER);
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert!(stored.rounds.iter().all(|round| (round.accepted, round.cohort.len()) == (3, 3)));
    let staleness: Vec<u32> = stored.clients.iter().map(|client| client.staleness).collect();
    assert!(staleness.iter().any(|&staleness| staleness > 1), "{staleness:?}");
    assert!(staleness[..3].iter().all(|&staleness| staleness == 0));
    let times: Vec<f64> = stored.rounds.iter().map(|round| round.simulated_seconds.unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]) && times[0] > 0.0, "{times:?}");
    // Nobody is asked while its work is under way: between its reports a client was asked once each.
    let calls: u32 = rehearsal.trainer.calls().values().sum();
    assert!((24..=24 + 6).contains(&calls), "{calls}");
    rehearsal.check_invariants().unwrap();
}

/// Takes the only update's delta as the next global adapter: what was done to it shows.
struct TakesDelta;

impl Strategy for TakesDelta {
    fn name(&self) -> &'static str {
        "takes delta"
    }

    fn aggregate(&mut self, _: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        Ok(global.with_trainable(updates[0].adapter.clone()))
    }
}

/// Two clients, one update a step: the slower one's arrives a step late, when the global adapter has moved.
#[tokio::test(start_paused = true)]
async fn a_late_delta_is_weighed_and_put_on_the_adapter_at_hand() {
    let one = |late| Gather { first: Some(1), deadline_seconds: None, late };
    for (exponent, weight) in [(0.0, 1.0), (0.5, 1.0 / 2.0_f64.sqrt()), (1.0, 0.5)] {
        let mut rehearsal = Rehearsal::new(2, 2, 2);
        rehearsal.config.devices = Some(DeviceProfile { spread: 0.01, jitter: 0.0, ..DEVICES });
        rehearsal.config.gather = one(Late::Count { exponent });
        rehearsal.strategy = std::sync::Arc::new(|| Box::new(TakesDelta));
        rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        let (first, second) = (stored.clients[0].client, stored.clients[1].client);
        assert_ne!(first, second);
        assert_eq!(stored.clients[1].staleness, 1);
        // What each was trained to from zeros in round 1, without the other.
        let alone = |rounds: u32| stored.checkpoints[rounds as usize - 1].global.trainable().values().to_vec();
        let mut barrier = Rehearsal::new(2, 2, 1);
        barrier.strategy = std::sync::Arc::new(|| Box::new(TakesDelta));
        if second.0 == 1 {
            // The strategy takes the first in order of client: without client 0 that is client 1.
            barrier = barrier.with_trainer(|client, _, _| if client.0 == 0 { Conduct::Fails } else { Conduct::Honest });
            barrier.strategy = std::sync::Arc::new(|| Box::new(TakesDelta));
        }
        let delta = barrier.run().await.unwrap().global;
        for ((after, before), delta) in alone(2).iter().zip(alone(1)).zip(delta.trainable().values()) {
            let expected = (f64::from(before) + weight * f64::from(*delta)) as f32;
            assert_eq!(after.to_bits(), expected.to_bits());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r_1_whoever_misses_a_deadline_is_dropped_as_late() {
    let gather = Gather { first: None, deadline_seconds: Some(12.0), late: Late::Discard };
    let rehearsal = rehearsal(gather);
    rehearsal.run().await.unwrap();
    let stored = rehearsal.store.stored();
    assert!(stored.rounds.iter().all(|round| round.cohort.len() == 6 && round.accepted + round.dropped == 6));
    let late = outcomes(&stored.clients).into_iter().filter(|(_, outcome)| *outcome == dropped(DropReason::Late));
    assert!(late.count() > 5);
    let times: Vec<f64> = stored.rounds.iter().map(|round| round.simulated_seconds.unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 12.0 + 1e-6), "{times:?}");
    // Whoever is late is told of like everybody else.
    rehearsal.check_invariants().unwrap();
}

/// What was never sent is neither late nor under way: it takes nobody's place among the first.
#[tokio::test(start_paused = true)]
async fn r_1_without_instructions_nobody_is_late_or_under_way() {
    for late in [Late::Discard, Late::Count { exponent: 0.5 }] {
        let silent_in_2 = |round: RoundId| if round.0 == 2 { Conduct::WrongShape } else { Conduct::Honest };
        let rehearsal = rehearsal(Gather { late, ..BUFFER }).with_memory(silent_in_2);
        rehearsal.run().await.unwrap();
        let stored = rehearsal.store.stored();
        let silent = dropped(DropReason::NoInstructions("rehearsed silence".to_owned()));
        let is_silent = |round: u32| {
            stored.clients.iter().filter(|record| record.round.0 == round && record.outcome == silent).count()
        };
        let others_under_way = if late == Late::Discard { 0 } else { 3 };
        assert_eq!([1, 2, 3].map(is_silent), [0, 6 - others_under_way, 0]);
        // Those who were under way arrive all the same.
        assert_eq!(stored.rounds[1].accepted, others_under_way as u32);
        assert!(stored.rounds[2..].iter().all(|round| round.accepted == 3));
        rehearsal.check_invariants().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_time_changes_no_byte() {
    let timed = rehearsal(Gather::BARRIER);
    let mut untimed = rehearsal(Gather::BARRIER);
    untimed.config.devices = None;
    assert_eq!(timed.run().await.unwrap(), untimed.run().await.unwrap());
    assert_eq!(untimed.store.stored().rounds[0].simulated_seconds, None);
}

#[tokio::test(start_paused = true)]
async fn c_1_a_run_goes_on_with_what_was_under_way() {
    let whole = rehearsal(BUFFER);
    let expected = whole.run().await.unwrap();
    let stored = whole.store.stored();
    for done in 1..8 {
        let state = stored.checkpoints[done - 1].clone();
        assert!(!state.in_flight.is_empty());
        let resumed = rehearsal(BUFFER);
        assert_eq!(resumed.run_from(state).await.unwrap().global, expected.global, "after round {done}");
        assert_eq!(outcomes(&resumed.store.stored().clients), outcomes(&stored.clients)[3 * done..]);
    }
    let mut damaged = stored.checkpoints[0].clone();
    damaged.in_flight[40] ^= 1;
    let error = rehearsal(BUFFER).run_from(damaged).await.unwrap_err();
    assert!(matches!(&error, FederationError::Invalid(text) if text.contains("damaged")), "{error}");
}

#[tokio::test]
async fn who_is_first_needs_simulated_time() {
    let mut rehearsal = rehearsal(BUFFER);
    rehearsal.config.devices = None;
    let error = rehearsal.run().await.unwrap_err();
    assert!(error.to_string().contains("needs devices"), "{error}");
    rehearsal.config.devices = Some(DEVICES);
    rehearsal.config.quorum = 4;
    let error = rehearsal.run().await.unwrap_err();
    assert_eq!(error.to_string(), "gather: first must be at least the quorum of 4, found 3");
}
