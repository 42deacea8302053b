//! Clients of smaller ranks beside others, number by number.

use std::collections::BTreeMap;

use fedward_actors::{
    ports::PortResult,
    protocol::{Adapter, AdapterTensor},
};
use fedward_aggregation::vectors::weighted_mean;

use super::{Given, Next, pairs};
use crate::federated::state::adapter_like;

/// `HetLoRA` ("Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", Cho et al. 2024): `Σ w_k` of
/// zero-padded adapters, `w_k` in proportion to `‖B_k A_k‖_F` over all layers. Clients' rows do not count; without any product all
/// count the same. Ranks that nobody in the round was sent stay as they were.
pub(super) fn het_lora(given: &Given<'_>) -> PortResult<Next> {
    let global = given.global.trainable();
    let ranks: Vec<usize> = given.updates.iter().map(|update| given.rank(update)).collect();
    let sent = || given.updates.iter().zip(&ranks);
    let weights: Vec<f64> =
        sent().map(|(update, &rank)| update.trust * product_norm(&update.adapter.truncated(rank))).collect();
    let weights = if weights.iter().sum::<f64>() > 0.0 { weights } else { given.shares.clone() };
    let padded: Vec<Adapter> = sent().map(|(update, &rank)| update.adapter.zero_padded(rank)).collect();
    let values: Vec<&[f32]> = padded.iter().map(Adapter::values).collect();
    let mean = adapter_like(global, weighted_mean(&values, &weights))?;
    let next = global.with_leading_of(&mean, ranks.into_iter().max().unwrap_or(0));
    Ok(Next { model: given.global.with_trainable(next), report: BTreeMap::new() })
}

/// `‖B A‖_F` over all pairs, by the small matrices of inner products: `‖B A‖² = Σ (BᵀB) ∘ (A Aᵀ)`.
fn product_norm(adapter: &Adapter) -> f64 {
    let square = |(of_a, of_b): (&AdapterTensor, &AdapterTensor)| {
        let [rank, columns] = of_a.shape;
        let (a, b) = (adapter.tensor(of_a), adapter.tensor(of_b));
        let rows = |i: usize, j: usize| dot(a[i * columns..].iter().take(columns), a[j * columns..].iter());
        let columns_of_b = |i: usize, j: usize| dot(b[i..].iter().step_by(rank), b[j..].iter().step_by(rank));
        let places = (0..rank).flat_map(|i| (0..rank).map(move |j| (i, j)));
        places.map(|(i, j)| rows(i, j) * columns_of_b(i, j)).sum::<f64>()
    };
    pairs(adapter).map(square).sum::<f64>().max(0.0).sqrt()
}

fn dot<'a>(left: impl Iterator<Item = &'a f32>, right: impl Iterator<Item = &'a f32>) -> f64 {
    left.zip(right).map(|(&left, &right)| f64::from(left) * f64::from(right)).sum()
}
