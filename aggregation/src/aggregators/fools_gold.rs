//! `FoolsGold`.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{Pairs, dot_products, weighted_sum},
};

/// Weighs clients down whose updates, added up over all rounds, resemble another client's ("The Limitations of Federated
/// Learning in Sybil Settings", Fung et al. 2020, Algorithm 1).
///
/// With `cs_ij` the cosine similarity of the sums and `v_i = max_j cs_ij`: where `v_i < v_j`, `cs_ij` is pardoned to
/// `cs_ij · v_i / v_j`; `α_i = 1 − max_j cs_ij`, clipped to 0..1 and divided by the largest; `α_i ← ln(α_i / (1 − α_i)) + 0.5`,
/// clipped to 0..1. The aggregate is `Σ α_i δ_i / Σ α_i` (the paper adds up without dividing, with a learning rate of its own).
/// Rows do not weigh. Needs n ≥ 2, and to know whose updates they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoolsGold {}

const RULE: &str = "foolsgold";

impl Aggregator for FoolsGold {
    fn keeps_memory(&self) -> bool {
        true
    }

    fn needs_clients(&self) -> bool {
        true
    }

    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless_enough(RULE, "n ≥ 2", 2, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, context: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let clients =
            updates.clients().ok_or(AggregationError::NoClients { rule: RULE, mixed_by: "a pre-aggregator" })?;
        let mut sums = Vec::with_capacity(vectors.len());
        for (&client, &vector) in clients.iter().zip(&vectors) {
            sums.push(match context.memory.get(client) {
                None => vector.to_vec(),
                Some(sum) if sum.len() == vector.len() => weighted_sum(&[sum, vector], &[1.0, 1.0]),
                Some(sum) => {
                    let (expected, found) = (vector.len(), sum.len());
                    return Err(AggregationError::Memory { rule: RULE, expected, found });
                }
            });
        }
        let slices: Vec<&[f32]> = sums.iter().map(Vec::as_slice).collect();
        let weights = weights(&dot_products(&slices));
        let total: f64 = weights.iter().sum();
        if total <= 0.0 {
            return Err(AggregationError::NothingLeft { rule: RULE, updates: vectors.len() });
        }
        for (&client, sum) in clients.iter().zip(sums) {
            context.memory.set(client, sum);
        }
        Ok(Aggregate::of_shares(&vectors, weights.into_iter().map(|weight| weight / total).collect()))
    }
}

/// α of each client, from the products of their sums.
fn weights(products: &Pairs) -> Vec<f64> {
    let n = products.len();
    let norm = |i: usize| products.get(i, i).sqrt();
    let cosine = |i: usize, j: usize| {
        let length = norm(i) * norm(j);
        if length > 0.0 { products.get(i, j) / length } else { 0.0 }
    };
    let others = |i: usize| (0..n).filter(move |&j| j != i);
    let nearest: Vec<f64> =
        (0..n).map(|i| others(i).map(|j| cosine(i, j)).fold(f64::NEG_INFINITY, f64::max)).collect();
    let pardoned = |i: usize, j: usize| {
        let pardon = if nearest[i] < nearest[j] { nearest[i] / nearest[j] } else { 1.0 };
        // Two that resemble none have nothing to be pardoned.
        cosine(i, j) * if nearest[j] > 0.0 { pardon } else { 1.0 }
    };
    let mut weights: Vec<f64> = (0..n)
        .map(|i| (1.0 - others(i).map(|j| pardoned(i, j)).fold(f64::NEG_INFINITY, f64::max)).clamp(0.0, 1.0))
        .collect();
    let largest = weights.iter().copied().fold(0.0, f64::max);
    for weight in &mut weights {
        let share = if largest > 0.0 { *weight / largest } else { 0.0 };
        // ln is −∞ at 0 and ∞ at 1, both of which are clipped.
        *weight = ((share / (1.0 - share)).ln() + 0.5).clamp(0.0, 1.0);
    }
    weights
}
