//! Bulyan.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator, NeighbourCount, krum};
use crate::{
    AggregationError, Context, Updates,
    vectors::{Pairs, WIDTH, for_each_sorted_block, order, squared_distances},
};

/// Chooses θ = n − 2f updates by [`Krum`](super::Krum), one after another, each among those that are left; of these, each
/// coordinate is the mean of the θ − 2f values nearest to their median ("The Hidden Vulnerability of Distributed Learning in
/// Byzantium", El Mhamdi et al. 2018, section 4). Each update counts the same. Needs n ≥ 4f + 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bulyan {
    /// f, the malicious updates that it withstands.
    pub byzantine: usize,
}

impl Bulyan {
    /// The places of the θ chosen updates. When few are left a score still adds up one distance.
    fn choose(self, distances: &Pairs) -> Vec<usize> {
        let mut left: Vec<usize> = (0..distances.len()).collect();
        let mut chosen = Vec::new();
        while chosen.len() < distances.len() - 2 * self.byzantine {
            let neighbours = NeighbourCount::Paper.of(left.len(), self.byzantine).max(1);
            let scores = krum::scores(distances, &left, neighbours);
            chosen.push(left.remove(order(&scores)[0]));
        }
        chosen
    }
}

impl Aggregator for Bulyan {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless_enough("bulyan", "n ≥ 4f + 3", 4 * self.byzantine + 3, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let chosen = self.choose(&squared_distances(&vectors));
        let chosen: Vec<&[f32]> = chosen.into_iter().map(|index| vectors[index]).collect();
        let kept = chosen.len() - 2 * self.byzantine;
        let values = for_each_sorted_block(&chosen, |rows| mean_around_median(rows, kept));
        Ok(Aggregate::by_coordinate(values))
    }
}

/// The mean of the `kept` values nearest to the median, of each coordinate. They lie side by side in the sorted rows: the farther
/// end goes until so many are left, the upper one of equals.
fn mean_around_median(rows: &[[f32; WIDTH]], kept: usize) -> [f32; WIDTH] {
    let n = rows.len();
    std::array::from_fn(|lane| {
        let value = |row: usize| f64::from(rows[row][lane]);
        let median = f64::midpoint(value((n - 1) / 2), value(n / 2));
        let (mut low, mut high) = (0, n);
        while high - low > kept {
            if median - value(low) > value(high - 1) - median { low += 1 } else { high -= 1 }
        }
        ((low..high).map(value).sum::<f64>() / kept as f64) as f32
    })
}
