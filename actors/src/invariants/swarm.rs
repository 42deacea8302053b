//! The search by seed, for as long as a test may take, and whether each predicate can fail.

use std::{thread, time::Duration};

use crate::{
    predicates::Invariant,
    testing::swarm::{Sabotage, Trial, try_seed, try_seed_within, within},
};

#[tokio::test]
async fn every_invariant_holds_for_the_first_seeds() {
    for seed in 1..=150 {
        let Trial { drawn, violations, failure, .. } = try_seed(seed, &Invariant::ALL, None).await;
        assert!(violations.is_empty() && failure.is_none(), "{violations:#?} {failure:?} {drawn:?}");
    }
}

/// A bug on purpose for each invariant is found within as many seeds.
#[tokio::test]
async fn every_predicate_fails_where_its_invariant_is_broken() {
    for invariant in Invariant::ALL {
        let mut seeds = 1..=40;
        let is_found = loop {
            let Some(seed) = seeds.next() else { break false };
            let trial = try_seed(seed, &[invariant], Some(Sabotage::of(invariant))).await;
            if !trial.violations.is_empty() {
                break true;
            }
        };
        assert!(is_found, "{invariant} holds with {:?}", Sabotage::of(invariant));
    }
}

#[test]
fn a_seed_that_hangs_or_panics_is_a_failure() {
    let minute = Duration::from_mins(1);
    let trial = try_seed_within(7, &Invariant::ALL, None, minute);
    assert!(trial.is_clean() && trial.rounds > 0, "{trial:?}");
    let trial = try_seed_within(7, &Invariant::ALL, None, Duration::ZERO);
    assert_eq!((trial.drawn.seed, trial.failure.as_deref()), (7, Some("it has not ended within 0ns")));
    let hangs = within(Duration::from_millis(20), || thread::sleep(Duration::from_secs(5)));
    assert_eq!(hangs, Err("it has not ended within 20ms".to_owned()));
    let seed = 3;
    assert_eq!(within(minute, move || panic!("seed {seed}")), Err::<(), _>("it panicked: seed 3".to_owned()));
    assert_eq!(within(minute, || panic!("early")), Err::<(), _>("it panicked: early".to_owned()));
    assert_eq!(within(minute, || 5), Ok(5));
}

#[test]
fn invariants_are_found_by_their_numbers() {
    for invariant in Invariant::ALL {
        assert_eq!(Invariant::of_number(&invariant.number().to_lowercase()), Some(invariant));
    }
    assert_eq!(Invariant::of_number("r1"), Some(Invariant::R1));
    assert_eq!(Invariant::of_number("Q-1"), None);
}
