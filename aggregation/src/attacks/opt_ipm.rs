//! Inner-product manipulation that tries out the defence.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Search, Sight};
use crate::{AggregationError, vectors::scaled};

/// [`InnerProductManipulation`](super::InnerProductManipulation) with the τ that moves the aggregate farthest from the honest mean
/// (a line search over τ: "Manipulating the Byzantine", Shejwalkar and Houmansadr 2021, section 4; as `ByzFL` searches). Needs to
/// see honest updates and to know the defence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimalIpm {
    /// How τ is sought.
    pub search: Search,
}

impl Attack for OptimalIpm {
    fn check(&self) -> Result<(), AggregationError> {
        self.search.check("opt_ipm")
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        if sight.honest.is_empty() {
            return Err(AggregationError::Unseen { attack: "opt_ipm", what: "an honest update" });
        }
        let mean = sight.mean();
        self.search.strongest("opt_ipm", sight, &mean, |tau| scaled(&mean, -tau))
    }
}
