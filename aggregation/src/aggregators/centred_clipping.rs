//! Centred clipping.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{clip_factor, distances_to, median, norms, weighted_sum},
};

/// `v ← v + 1/n Σ (δ_i − v) min(1, τ / ‖δ_i − v‖)`, from where the last round ended, 0 before the first ("Learning from History
/// for Byzantine Robust Optimization", Karimireddy et al. 2021, Algorithm 2). Each update counts the same. Needs one update.
///
/// τ is a length, so what fits depends on the learning rate and the number of parameters: `tau_ratio` makes it a multiple of
/// the round's median norm instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CentredClipping {
    /// τ as a length; 100 if neither it nor the ratio is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// τ over the median norm of the round's updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau_ratio: Option<f64>,
    /// Steps per round, each from where the last one ended; 1 if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
}

const RULE: &str = "centred_clipping";

/// Where its memory keeps v.
const CENTRE: u64 = 0;

impl Aggregator for CentredClipping {
    fn keeps_memory(&self) -> bool {
        true
    }

    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        for (key, value) in [("tau", self.tau), ("tau_ratio", self.tau_ratio)] {
            let value = value.unwrap_or(1.0);
            AggregationError::unless(value > 0.0 && value.is_finite(), RULE, key, value, "a number above 0")?;
        }
        let both = self.tau.is_some() && self.tau_ratio.is_some();
        AggregationError::unless(!both, RULE, "tau_ratio", self.tau_ratio.unwrap_or(0.0), "none beside tau")?;
        AggregationError::unless(self.iterations != Some(0), RULE, "iterations", 0.0, "1 or more")?;
        AggregationError::unless_enough(RULE, "n ≥ 1", 1, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, context: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let tau = match self.tau_ratio {
            Some(ratio) => ratio * median(&norms(&vectors)),
            None => self.tau.unwrap_or(100.0),
        };
        let mut centre = match context.memory.get(CENTRE) {
            None => vec![0.0; updates.dimension()],
            Some(centre) if centre.len() == updates.dimension() => centre.to_vec(),
            Some(centre) => {
                let (expected, found) = (updates.dimension(), centre.len());
                return Err(AggregationError::Memory { rule: RULE, expected, found });
            }
        };
        for _ in 0..self.iterations.unwrap_or(1) {
            let n = vectors.len() as f64;
            let distances = distances_to(&centre, &vectors);
            let mut shares: Vec<f64> = distances.iter().map(|&distance| clip_factor(distance, tau) / n).collect();
            // v + Σ s_i (δ_i − v) = Σ s_i δ_i + (1 − Σ s_i) v
            shares.push(1.0 - shares.iter().sum::<f64>());
            let mut terms = vectors.clone();
            terms.push(&centre);
            centre = weighted_sum(&terms, &shares);
        }
        context.memory.set(CENTRE, centre.clone());
        Ok(Aggregate::by_coordinate(centre))
    }
}
