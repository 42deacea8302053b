//! Inner-product manipulation.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight, check_factor};
use crate::{AggregationError, vectors::scaled};

/// `−τ μ` ("Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product Manipulation", Xie et al. 2020, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InnerProductManipulation {
    /// τ.
    pub tau: f64,
}

impl Default for InnerProductManipulation {
    fn default() -> Self {
        Self { tau: 2.0 }
    }
}

impl Attack for InnerProductManipulation {
    fn check(&self) -> Result<(), AggregationError> {
        check_factor("ipm", "tau", self.tau)
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        Ok(scaled(&sight.mean(), -self.tau))
    }
}
