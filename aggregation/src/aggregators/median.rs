//! The median of each coordinate.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{WIDTH, for_each_sorted_block},
};

/// The median of each coordinate ("Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", Yin et al. 2018,
/// Definition 1), which of an even number is the mean of the two in the middle, as numpy has it. Each update counts the
/// same. Needs one update; holds while fewer than half are malicious.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Median {}

impl Aggregator for Median {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless_enough("median", "n ≥ 1", 1, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let n = updates.len();
        let values = for_each_sorted_block(&updates.slices(), |rows| {
            let (low, high) = (&rows[(n - 1) / 2], &rows[n / 2]);
            std::array::from_fn::<_, WIDTH, _>(|lane| {
                f64::midpoint(f64::from(low[lane]), f64::from(high[lane])) as f32
            })
        });
        Ok(Aggregate::by_coordinate(values))
    }
}
