//! Clipping of norms.

use serde::{Deserialize, Serialize};

use super::{Mixing, PreAggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{clip_factor, median, norms},
};

/// Shortens each update to at most a bound ("Can You Really Backdoor Federated Learning?", Sun et al. 2019, section 4): a norm,
/// or a multiple of the median norm, which needs no tuning when the learning rate or the rank changes. Needs one update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// The largest norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_norm: Option<f64>,
    /// The largest norm over the median norm of the round's updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_norm_ratio: Option<f64>,
}

impl PreAggregator for Clip {
    fn mixing(&self) -> Mixing {
        Mixing::None
    }

    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        for (key, value) in [("max_norm", self.max_norm), ("max_norm_ratio", self.max_norm_ratio)] {
            let value = value.unwrap_or(1.0);
            AggregationError::unless(value > 0.0 && value.is_finite(), "clip", key, value, "a number above 0")?;
        }
        let given = [self.max_norm, self.max_norm_ratio].into_iter().flatten().count();
        let expected = "exactly one of max_norm and max_norm_ratio";
        AggregationError::unless(given == 1, "clip", "bounds given", given as f64, expected)?;
        AggregationError::unless_enough("clip", "n ≥ 1", 1, updates)
    }

    fn transform<'a>(&self, updates: Updates<'a>, _: &mut Context<'_>) -> Result<Updates<'a>, AggregationError> {
        let norms = norms(&updates.slices());
        let bound = match self.max_norm_ratio {
            Some(ratio) => ratio * median(&norms),
            None => self.max_norm.unwrap_or(f64::INFINITY),
        };
        let factors: Vec<f64> = norms.into_iter().map(|norm| clip_factor(norm, bound)).collect();
        Ok(updates.scaled(&factors))
    }
}
