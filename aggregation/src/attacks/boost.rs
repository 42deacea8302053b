//! Boosting, the model replacement of backdoor attacks.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight, check_factor};
use crate::{AggregationError, vectors::scaled};

/// `γ δ`, δ being the client's own update ("How To Backdoor Federated Learning", Bagdasaryan et al. 2020, section 3.2). With
/// γ = n / (η m), n updates, m colluders and a server step of η, the mean becomes the colluders' model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boost {
    /// γ; n / m with the honest updates that it sees and a server step of 1 if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
}

impl Attack for Boost {
    fn check(&self) -> Result<(), AggregationError> {
        check_factor("boost", "scale", self.scale.unwrap_or(1.0))
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        let colluders = sight.colluders.max(1);
        let replacing = (sight.honest.len() + colluders) as f64 / colluders as f64;
        Ok(scaled(sight.own, self.scale.unwrap_or(replacing)))
    }
}
