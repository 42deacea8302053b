//! The geometric median.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{distances_to, norms, weighted_sum},
};

/// The point of the least sum of distances to all updates, by Weiszfeld's smoothed algorithm ("Robust Aggregation for
/// Federated Learning", Pillutla et al. 2022, Algorithm 1): z ← Σ `β_i` `δ_i` / Σ `β_i` with `β_i` = 1 / max(ν, ‖z − `δ_i`‖), from
/// z = 0, the global adapter. Each update counts the same, as in `ByzFL`. Needs one update; holds while fewer than half
/// are malicious.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeometricMedian {
    /// ν, a distance below which updates pull no harder.
    pub smoothing: f64,
    /// Steps of the algorithm.
    pub iterations: u32,
}

impl Default for GeometricMedian {
    fn default() -> Self {
        Self { smoothing: 0.1, iterations: 3 }
    }
}

impl Aggregator for GeometricMedian {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        let &Self { smoothing, iterations } = self;
        let rule = "geometric_median";
        AggregationError::unless(
            smoothing > 0.0 && smoothing.is_finite(),
            rule,
            "smoothing",
            smoothing,
            "a number above 0",
        )?;
        AggregationError::unless(iterations > 0, rule, "iterations", f64::from(iterations), "1 or more")?;
        AggregationError::unless_enough(rule, "n ≥ 1", 1, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let mut distances = norms(&vectors);
        let mut step = 1;
        loop {
            let pulls: Vec<f64> = distances.iter().map(|distance| distance.max(self.smoothing).recip()).collect();
            let sum: f64 = pulls.iter().sum();
            let shares: Vec<f64> = pulls.iter().map(|pull| pull / sum).collect();
            let point = weighted_sum(&vectors, &shares);
            if step == self.iterations {
                return Ok(Aggregate { values: point, shares: Some(shares) });
            }
            distances = distances_to(&point, &vectors);
            step += 1;
        }
    }
}
