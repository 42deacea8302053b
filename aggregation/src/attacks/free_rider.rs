//! Free riders.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight};
use crate::{
    AggregationError,
    context::add_noise,
    vectors::{median, norms},
};

/// No change, or noise that passes for one: a client that takes part without training ("Free-riders in Federated Learning:
/// Attacks and Defenses", Lin et al. 2019, section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FreeRider {
    /// Norm of the noise, on average, over the median norm of the honest updates that it sees, or its own; 0 is no change.
    pub noise: f64,
}

impl Attack for FreeRider {
    fn check(&self) -> Result<(), AggregationError> {
        let is_sound = self.noise >= 0.0 && self.noise.is_finite();
        AggregationError::unless(is_sound, "free_rider", "noise", self.noise, "0 or above")
    }

    fn forge(&self, sight: &Sight<'_>, random: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        let length = sight.own.len();
        let mut values = vec![0.0; length];
        if self.noise > 0.0 {
            add_noise(&mut values, self.noise * median(&norms(&sight.seen())) / (length as f64).sqrt(), random);
        }
        Ok(values)
    }
}
