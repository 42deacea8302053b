//! Krum.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{Pairs, order, squared_distances},
};

/// The one update that has the least sum of squared distances to its n − f − 2 nearest ("Machine Learning with Adversaries:
/// Byzantine Tolerant Gradient Descent", Blanchard et al. 2017, section 3); the first of equals. Needs n ≥ 2f + 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Krum {
    /// f, the malicious updates that it withstands.
    pub byzantine: usize,
    /// How many neighbours make a score.
    #[serde(default)]
    pub neighbours: NeighbourCount,
}

/// How many nearest updates a score of Krum adds up: implementations disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbourCount {
    /// n − f − 2, as in the paper, and in Flower.
    #[default]
    Paper,
    /// n − f − 1, as in `ByzFL`.
    Byzfl,
}

impl NeighbourCount {
    pub(super) const fn of(self, updates: usize, byzantine: usize) -> usize {
        let beyond = match self {
            Self::Paper => 2,
            Self::Byzfl => 1,
        };
        updates.saturating_sub(byzantine + beyond)
    }
}

/// Holds n to Krum's condition.
pub(super) const fn check(rule: &'static str, byzantine: usize, updates: usize) -> Result<(), AggregationError> {
    AggregationError::unless_enough(rule, "n ≥ 2f + 3", 2 * byzantine + 3, updates)
}

/// Sums of the squared distances of each of the updates `among` to its nearest others among them.
pub(super) fn scores(distances: &Pairs, among: &[usize], neighbours: usize) -> Vec<f64> {
    let score = |&i: &usize| {
        let mut others: Vec<f64> = among.iter().filter(|&&j| j != i).map(|&j| distances.get(i, j)).collect();
        others.sort_by(f64::total_cmp);
        others.iter().take(neighbours).sum()
    };
    among.iter().map(score).collect()
}

impl Aggregator for Krum {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        check("krum", self.byzantine, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let all: Vec<usize> = (0..vectors.len()).collect();
        let neighbours = self.neighbours.of(vectors.len(), self.byzantine);
        let scores = scores(&squared_distances(&vectors), &all, neighbours);
        Ok(Aggregate::mean_of(&vectors, &order(&scores)[..1]))
    }
}
