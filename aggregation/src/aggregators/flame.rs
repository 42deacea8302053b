//! FLAME.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    context::add_noise,
    vectors::{Pairs, clip_factor, dot_products, median, norms},
};

/// The mean of the updates of the majority's cluster, clipped to the median norm S of all updates, with noise of standard
/// deviation `noise`·S ("FLAME: Taming Backdoors in Federated Learning", Nguyen et al. 2022, Algorithm 1).
///
/// The cluster is HDBSCAN's on cosine distances with a least size of ⌊n/2⌋ + 1 and one sample to be a core. Two clusters of
/// that size cannot be, so it is found by single linkage: updates are joined, the nearest first, until more than half are
/// together. Each of them counts the same. Needs n ≥ 3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flame {
    /// λ, the noise's standard deviation over the median norm; 0 is none.
    pub noise: f64,
}

impl Default for Flame {
    fn default() -> Self {
        Self { noise: 0.001 }
    }
}

const RULE: &str = "flame";

impl Aggregator for Flame {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        let is_sound = self.noise >= 0.0 && self.noise.is_finite();
        AggregationError::unless(is_sound, RULE, "noise", self.noise, "0 or above")?;
        AggregationError::unless_enough(RULE, "n ≥ 3", 3, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, context: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let norms = norms(&vectors);
        let bound = median(&norms);
        let admitted = majority(&dot_products(&vectors));
        let mut shares = vec![0.0; vectors.len()];
        for &index in &admitted {
            shares[index] = clip_factor(norms[index], bound) / admitted.len() as f64;
        }
        let mut aggregate = Aggregate::of_shares(&vectors, shares);
        if self.noise > 0.0 {
            add_noise(&mut aggregate.values, self.noise * bound, context.random);
        }
        Ok(aggregate)
    }
}

/// The first component of single linkage that holds more than half, ties of distances joined together.
fn majority(products: &Pairs) -> Vec<usize> {
    let n = products.len();
    let distance = |i: usize, j: usize| {
        let length = (products.get(i, i) * products.get(j, j)).sqrt();
        if length > 0.0 { 1.0 - products.get(i, j) / length } else { 1.0 }
    };
    let mut edges: Vec<(f64, usize, usize)> =
        (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| (distance(i, j), i, j)).collect();
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut component: Vec<usize> = (0..n).collect();
    for level in edges.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        for &(_, i, j) in level {
            let (from, to) = (component[i], component[j]);
            for own in component.iter_mut().filter(|own| **own == from) {
                *own = to;
            }
        }
        let members = |name: usize| (0..n).filter(|&i| component[i] == name).collect::<Vec<_>>();
        if let Some(found) = (0..n).map(members).find(|members| 2 * members.len() > n) {
            return found;
        }
    }
    (0..n).collect()
}
