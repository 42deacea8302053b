//! Adaptive robust clipping.

use serde::{Deserialize, Serialize};

use super::{Mixing, PreAggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{clip_factor, norms, order},
};

/// Shortens the k = ⌊2f/n (n − f)⌋ longest updates to the norm of the next longest ("Adaptive Gradient Clipping for Robust
/// Federated Learning", Allouah et al. 2025, Algorithm 2). Needs n ≥ 2f + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveRobustClipping {
    /// f, the malicious updates that it withstands.
    pub byzantine: usize,
}

impl PreAggregator for AdaptiveRobustClipping {
    fn mixing(&self) -> Mixing {
        Mixing::None
    }

    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless_enough("arc", "n ≥ 2f + 1", 2 * self.byzantine + 1, updates)
    }

    fn transform<'a>(&self, updates: Updates<'a>, _: &mut Context<'_>) -> Result<Updates<'a>, AggregationError> {
        let (n, f) = (updates.len(), self.byzantine);
        let clipped = 2 * f * (n - f) / n;
        let norms = norms(&updates.slices());
        let bound = norms[order(&norms)[n - clipped - 1]];
        let factors: Vec<f64> = norms.iter().map(|&norm| clip_factor(norm, bound)).collect();
        Ok(updates.scaled(&factors))
    }
}
