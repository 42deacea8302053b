//! Noise in the place of an update.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight};
use crate::{AggregationError, context::add_noise};

/// Independent normal values of mean μ and standard deviation σ ("Machine Learning with Adversaries: Byzantine Tolerant Gradient
/// Descent", Blanchard et al. 2017, section 6; `ByzFL` has μ = 0, σ = 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gaussian {
    /// μ.
    pub mean: f64,
    /// σ.
    pub deviation: f64,
}

impl Default for Gaussian {
    fn default() -> Self {
        Self { mean: 0.0, deviation: 1.0 }
    }
}

impl Attack for Gaussian {
    fn check(&self) -> Result<(), AggregationError> {
        super::check_factor("gaussian", "mean", self.mean)?;
        let is_sound = self.deviation >= 0.0 && self.deviation.is_finite();
        AggregationError::unless(is_sound, "gaussian", "deviation", self.deviation, "0 or above")
    }

    fn forge(&self, sight: &Sight<'_>, random: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        let mut values = vec![self.mean as f32; sight.own.len()];
        add_noise(&mut values, self.deviation, random);
        Ok(values)
    }
}
