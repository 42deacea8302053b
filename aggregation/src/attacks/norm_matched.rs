//! Harm of inconspicuous length.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight, check_factor};
use crate::{
    AggregationError,
    vectors::{median, norms, scaled},
};

/// The client's own update, trained on whatever harm, scaled to a multiple of the median norm of the honest updates that it
/// sees: at 1 it passes every bound on norms by construction. Ours; constrain-and-scale ("How To Backdoor Federated
/// Learning", Bagdasaryan et al. 2020, section 3.3) has a bound in the place of the median. Needs to see an honest update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NormMatched {
    /// The norm over the median.
    pub ratio: f64,
}

impl Default for NormMatched {
    fn default() -> Self {
        Self { ratio: 1.0 }
    }
}

impl Attack for NormMatched {
    fn check(&self) -> Result<(), AggregationError> {
        check_factor("norm_matched", "ratio", self.ratio)
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        if sight.honest.is_empty() {
            return Err(AggregationError::Unseen { attack: "norm_matched", what: "an honest update" });
        }
        let (wanted, own) = (self.ratio * median(&norms(sight.honest)), norms(&[sight.own])[0]);
        // An update of no length has no direction.
        Ok(if own > 0.0 { scaled(sight.own, wanted / own) } else { sight.own.to_vec() })
    }
}
