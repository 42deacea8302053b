//! Divide-and-Conquer.

use nalgebra::{DMatrix, SymmetricEigen};
use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{order, weighted_sum},
};

/// The mean of the updates that no iteration takes for outliers ("Manipulating the Byzantine: Optimizing Model Poisoning
/// Attacks and Defenses for Federated Learning", Shejwalkar and Houmansadr 2021, Algorithm 2). An iteration draws
/// coordinates, centres the updates on them, and drops the c·f updates with the largest squared projection on their top
/// right singular vector. Each update counts the same. Needs n ≥ 2f + 1 and more than c·f updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DivideAndConquer {
    /// f, the malicious updates that it withstands.
    pub byzantine: usize,
    /// b, coordinates that an iteration looks at; all if there are fewer.
    #[serde(default = "ten_thousand")]
    pub coordinates: usize,
    /// c, how many times f an iteration drops.
    #[serde(default = "one")]
    pub filter_ratio: f64,
    /// Iterations; an update that one of them drops is out.
    #[serde(default = "once")]
    pub iterations: u32,
}

const fn ten_thousand() -> usize {
    10_000
}

const fn one() -> f64 {
    1.0
}

const fn once() -> u32 {
    1
}

const RULE: &str = "dnc";

impl DivideAndConquer {
    /// c·f, rounded.
    fn dropped(&self) -> usize {
        (self.filter_ratio * self.byzantine as f64).round() as usize
    }
}

impl Aggregator for DivideAndConquer {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        let &Self { coordinates, filter_ratio, iterations, .. } = self;
        AggregationError::unless(coordinates > 0, RULE, "coordinates", coordinates as f64, "1 or more")?;
        AggregationError::unless(iterations > 0, RULE, "iterations", f64::from(iterations), "1 or more")?;
        let positive = filter_ratio > 0.0 && filter_ratio.is_finite();
        AggregationError::unless(positive, RULE, "filter_ratio", filter_ratio, "a number above 0")?;
        AggregationError::unless_enough(RULE, "n ≥ 2f + 1", 2 * self.byzantine + 1, updates)?;
        AggregationError::unless_enough(RULE, "n > c·f", self.dropped() + 1, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, context: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let (n, length) = (vectors.len(), updates.dimension());
        let mut kept = vec![true; n];
        for _ in 0..self.iterations {
            let drawn = rand::seq::index::sample(context.random, length, self.coordinates.min(length));
            let mut drawn = drawn.into_vec();
            drawn.sort_unstable();
            for &dropped in order(&outlier_scores(&vectors, &drawn)).iter().rev().take(self.dropped()) {
                kept[dropped] = false;
            }
        }
        let chosen: Vec<usize> = (0..n).filter(|&index| kept[index]).collect();
        if chosen.is_empty() {
            return Err(AggregationError::NothingLeft { rule: RULE, updates: n });
        }
        Ok(Aggregate::mean_of(&vectors, &chosen))
    }
}

/// ⟨`δ_i` − μ, v⟩² on these coordinates. With G the n × b matrix of the `δ_i` − μ, v its top right singular vector, that is
/// λ `u_i²`, λ and u being the top eigenvalue and eigenvector of the n × n matrix G Gᵀ.
fn outlier_scores(vectors: &[&[f32]], coordinates: &[usize]) -> Vec<f64> {
    let n = vectors.len();
    let pick = |vector: &&[f32]| coordinates.iter().map(|&index| vector[index]).collect();
    let picked: Vec<Vec<f32>> = vectors.iter().map(pick).collect();
    let slices: Vec<&[f32]> = picked.iter().map(Vec::as_slice).collect();
    let mean = weighted_sum(&slices, &vec![1.0 / n as f64; n]);
    let centred: Vec<Vec<f64>> = picked
        .iter()
        .map(|vector| vector.iter().zip(&mean).map(|(&value, &mean)| f64::from(value) - f64::from(mean)).collect())
        .collect();
    let dot = |i: usize, j: usize| centred[i].iter().zip(&centred[j]).map(|(a, b)| a * b).sum::<f64>();
    let mut products = DMatrix::zeros(n, n);
    for i in 0..n {
        for j in 0..=i {
            products[(i, j)] = dot(i, j);
            products[(j, i)] = products[(i, j)];
        }
    }
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(products);
    let top = eigenvalues.imax();
    (0..n).map(|i| eigenvalues[top] * eigenvectors[(i, top)].powi(2)).collect()
}
