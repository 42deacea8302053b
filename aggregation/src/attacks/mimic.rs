//! Mimicking a client.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight};
use crate::AggregationError;

/// A copy of one honest update, which so counts several times ("Byzantine-Robust Learning on Heterogeneous Datasets via
/// Bucketing", Karimireddy et al. 2022, section 3.2). Needs to see that update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mimic {
    /// Which of the honest updates that it sees, from 0.
    pub index: usize,
}

impl Attack for Mimic {
    fn check(&self) -> Result<(), AggregationError> {
        Ok(())
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        let unseen = AggregationError::Unseen { attack: "mimic", what: "the honest update of its index" };
        sight.honest.get(self.index).map(|vector| vector.to_vec()).ok_or(unseen)
    }
}
