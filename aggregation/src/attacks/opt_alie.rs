//! "A little is enough" that tries out the defence.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Search, Sight, alie::moments};
use crate::AggregationError;

/// [`ALittleIsEnough`](super::ALittleIsEnough) with the τ that moves the aggregate farthest from the honest mean ("Manipulating the
/// Byzantine", Shejwalkar and Houmansadr 2021, section 4; as `ByzFL` searches). Needs to see two honest updates and to know
/// the defence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimalAlie {
    /// How τ is sought.
    pub search: Search,
}

impl Attack for OptimalAlie {
    fn check(&self) -> Result<(), AggregationError> {
        self.search.check("opt_alie")
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        let (mean, deviation) = moments("opt_alie", sight.honest)?;
        let honest_mean: Vec<f32> = mean.iter().map(|&value| value as f32).collect();
        let shifted =
            |tau: f64| mean.iter().zip(&deviation).map(|(mean, deviation)| (mean + tau * deviation) as f32).collect();
        self.search.strongest("opt_alie", sight, &honest_mean, shifted)
    }
}
