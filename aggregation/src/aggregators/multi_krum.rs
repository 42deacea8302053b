//! Multi-Krum.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator, NeighbourCount, krum};
use crate::{
    AggregationError, Context, Updates,
    vectors::{order, squared_distances},
};

/// The mean of the updates of the best scores of [`Krum`](super::Krum) ("Machine Learning with Adversaries: Byzantine Tolerant
/// Gradient Descent", Blanchard et al. 2017, section 5): n − f of them, or `keep`. Needs n ≥ 2f + 3, and no more to keep
/// than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiKrum {
    /// f, the malicious updates that it withstands.
    pub byzantine: usize,
    /// How many updates are averaged, m in the paper; n − f if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// How many neighbours make a score.
    #[serde(default)]
    pub neighbours: NeighbourCount,
}

impl Aggregator for MultiKrum {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        if let Some(keep) = self.keep {
            AggregationError::unless(keep > 0, "multi_krum", "keep", keep as f64, "1 or more")?;
            AggregationError::unless_enough("multi_krum", "n ≥ keep", keep, updates)?;
        }
        krum::check("multi_krum", self.byzantine, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let all: Vec<usize> = (0..vectors.len()).collect();
        let neighbours = self.neighbours.of(vectors.len(), self.byzantine);
        let scores = krum::scores(&squared_distances(&vectors), &all, neighbours);
        let keep = self.keep.unwrap_or(vectors.len() - self.byzantine);
        let mut kept = order(&scores);
        kept.truncate(keep);
        Ok(Aggregate::mean_of(&vectors, &kept))
    }
}
