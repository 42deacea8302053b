//! The search by seed, for as long as a test may take, and whether each predicate can fail.

use crate::{
    predicates::Invariant,
    testing::swarm::{Sabotage, Trial, try_seed},
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
fn invariants_are_found_by_their_numbers() {
    for invariant in Invariant::ALL {
        assert_eq!(Invariant::of_number(&invariant.number().to_lowercase()), Some(invariant));
    }
    assert_eq!(Invariant::of_number("r1"), Some(Invariant::R1));
    assert_eq!(Invariant::of_number("Q-1"), None);
}
