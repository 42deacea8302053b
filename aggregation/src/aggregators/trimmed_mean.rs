//! The trimmed mean of each coordinate.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{WIDTH, for_each_sorted_block},
};

/// The mean of each coordinate without its f smallest and f largest values ("Byzantine-Robust Distributed Learning: Towards
/// Optimal Statistical Rates", Yin et al. 2018, Definition 2, f being βn there). Each update counts the same.
/// Needs n ≥ 2f + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrimmedMean {
    /// f, the malicious updates that it withstands.
    pub byzantine: usize,
}

impl Aggregator for TrimmedMean {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless_enough("trimmed_mean", "n ≥ 2f + 1", 2 * self.byzantine + 1, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let kept = self.byzantine..updates.len() - self.byzantine;
        let values = for_each_sorted_block(&updates.slices(), |rows| {
            let mut sums = [0.0_f64; WIDTH];
            for row in &rows[kept.clone()] {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += f64::from(value);
                }
            }
            sums.map(|sum| (sum / kept.len() as f64) as f32)
        });
        Ok(Aggregate::by_coordinate(values))
    }
}
