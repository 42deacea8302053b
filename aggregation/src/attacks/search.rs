//! The search for the strength of an attack that tries out the defence.

use serde::{Deserialize, Serialize};

use super::{Defence, Sight};
use crate::{AggregationError, vectors::distances_to};

/// A search for the τ of the largest value: steps that double while they help, then steps that shrink.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Search {
    /// Values of τ that are tried.
    pub evaluations: u32,
    /// The first of them.
    pub start: f64,
    /// The first step.
    pub step: f64,
    /// What a step shrinks to, from above 0.5 to below 1.
    pub ratio: f64,
}

impl Default for Search {
    fn default() -> Self {
        Self { evaluations: 20, start: 0.0, step: 10.0, ratio: 0.8 }
    }
}

impl Search {
    pub(super) fn check(self, attack: &'static str) -> Result<(), AggregationError> {
        let Self { evaluations, start, step, ratio } = self;
        AggregationError::unless(evaluations > 0, attack, "search.evaluations", f64::from(evaluations), "1 or more")?;
        super::check_factor(attack, "search.start", start)?;
        let moves = step != 0.0 && step.is_finite();
        AggregationError::unless(moves, attack, "search.step", step, "a finite number other than 0")?;
        AggregationError::unless(ratio > 0.5 && ratio < 1.0, attack, "search.ratio", ratio, "above 0.5, below 1")
    }

    /// What `forged` gives for the τ, among those tried, that moves the aggregate farthest from `honest_mean`.
    pub(super) fn strongest(
        self,
        attack: &'static str,
        sight: &Sight<'_>,
        honest_mean: &[f32],
        forged: impl Fn(f64) -> Vec<f32>,
    ) -> Result<Vec<f32>, AggregationError> {
        let defence: &Defence<'_> =
            sight.defence.ok_or(AggregationError::Unseen { attack, what: "how the server combines updates" })?;
        let tau = self.run(|tau| {
            let forged = forged(tau);
            let mut updates = sight.honest.to_vec();
            updates.extend(std::iter::repeat_n(&forged[..], sight.colluders));
            Ok(distances_to(honest_mean, &[&defence(&updates)?])[0])
        })?;
        Ok(forged(tau))
    }

    /// The τ of the largest value among those tried.
    fn run(self, value: impl Fn(f64) -> Result<f64, AggregationError>) -> Result<f64, AggregationError> {
        let (mut best, mut largest) = (self.start, value(self.start)?);
        let (mut step, mut expanding) = (self.step, true);
        for _ in 1..self.evaluations {
            let tried = value(best + step)?;
            let is_better = tried > largest;
            if is_better {
                (best, largest) = (best + step, tried);
            }
            expanding &= is_better;
            step *= if expanding { 2.0 } else { self.ratio };
        }
        Ok(best)
    }
}
