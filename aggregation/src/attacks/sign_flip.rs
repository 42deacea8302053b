//! Sign flipping.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight, check_factor};
use crate::{AggregationError, vectors::scaled};

/// `−s μ` ("Byzantine-Resilient Stochastic Gradient Descent", Allen-Zhu et al. 2020, section 5; `ByzFL` has s = 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignFlip {
    /// s.
    pub scale: f64,
}

impl Default for SignFlip {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl Attack for SignFlip {
    fn check(&self) -> Result<(), AggregationError> {
        check_factor("sign_flip", "scale", self.scale)
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        Ok(scaled(&sight.mean(), -self.scale))
    }
}
