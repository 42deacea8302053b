//! Bucketing.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Mixing, PreAggregator};
use crate::{AggregationError, Context, Updates, vectors::weighted_sum};

/// Shuffles updates and replaces each s that follow one another by their mean; the last bucket may hold fewer
/// ("Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", Karimireddy et al. 2022, Algorithm 1).
/// Needs n ≥ s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucketing {
    /// s, updates in a bucket.
    pub size: usize,
}

impl Bucketing {
    /// Means of buckets of these updates, in this order.
    pub(crate) fn in_order(self, vectors: &[&[f32]], order: &[usize]) -> Vec<Vec<f32>> {
        let mean = |bucket: &[usize]| {
            let bucket: Vec<&[f32]> = bucket.iter().map(|&index| vectors[index]).collect();
            weighted_sum(&bucket, &vec![1.0 / bucket.len() as f64; bucket.len()])
        };
        order.chunks(self.size).map(mean).collect()
    }
}

impl PreAggregator for Bucketing {
    fn mixing(&self) -> Mixing {
        Mixing::Clients
    }

    fn updates_after(&self, updates: usize) -> usize {
        updates.div_ceil(self.size.max(1))
    }

    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless(self.size > 0, "bucketing", "size", self.size as f64, "1 or more")?;
        AggregationError::unless_enough("bucketing", "n ≥ s", self.size, updates)
    }

    fn transform<'a>(
        &self,
        updates: Updates<'a>,
        context: &mut Context<'_>,
    ) -> Result<Updates<'a>, AggregationError> {
        let mut order: Vec<usize> = (0..updates.len()).collect();
        order.shuffle(context.random);
        let buckets = self.in_order(&updates.slices(), &order);
        Ok(updates.mixed(buckets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `byzfl.Bucketing(2)` on rows that numpy's permutation had left in the order 3, 0, 4, 1, 2.
    #[test]
    fn buckets_are_means_and_the_last_may_hold_fewer() {
        let vectors: [[f32; 1]; 5] = [[1.0], [2.0], [4.0], [8.0], [16.0]];
        let slices: Vec<&[f32]> = vectors.iter().map(|vector| &vector[..]).collect();
        let buckets = Bucketing { size: 2 }.in_order(&slices, &[3, 0, 4, 1, 2]);
        assert_eq!(buckets, [[4.5], [9.0], [4.0]]);
    }
}
