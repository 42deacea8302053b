//! Clients of smaller ranks beside others, number by number.

use std::collections::BTreeMap;

use fedward_actors::{ports::PortResult, protocol::Adapter};
use fedward_aggregation::vectors::weighted_mean;

use super::{Given, Next, pairs};
use crate::federated::state::adapter_like;

/// `HetLoRA` ("Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", Cho et al. 2024): `Σ w_k` of
/// zero-padded adapters, `w_k` in proportion to `‖B_k A_k‖_F` over all layers. Clients' rows do not count; without any product all
/// count the same.
pub(super) fn het_lora(given: &Given<'_>) -> PortResult<Next> {
    let padded = given.padded();
    let norms: Vec<f64> = given.locals().iter().map(product_norm).collect();
    let trust: Vec<f64> = norms.iter().zip(given.updates).map(|(norm, update)| norm * update.trust).collect();
    let weights = if trust.iter().sum::<f64>() > 0.0 { trust } else { given.shares.clone() };
    let values: Vec<&[f32]> = padded.iter().map(Adapter::values).collect();
    let next = adapter_like(given.global.trainable(), weighted_mean(&values, &weights))?;
    Ok(Next { model: given.global.with_trainable(next), report: BTreeMap::new() })
}

/// `‖B A‖_F` over all pairs, by the small matrices of inner products: `‖B A‖² = Σ (BᵀB) ∘ (A Aᵀ)`.
fn product_norm(adapter: &Adapter) -> f64 {
    let square = |(a, b)| {
        let (a, b): (&fedward_actors::protocol::AdapterTensor, _) = (a, b);
        let (rank, columns) = (a.shape[0], a.shape[1]);
        let (a, b) = (adapter.tensor(a), adapter.tensor(b));
        let of_a = |i: usize, j: usize| dot(a[i * columns..].iter().take(columns), a[j * columns..].iter());
        let of_b = |i: usize, j: usize| dot(b[i..].iter().step_by(rank), b[j..].iter().step_by(rank));
        (0..rank).flat_map(|i| (0..rank).map(move |j| (i, j))).map(|(i, j)| of_a(i, j) * of_b(i, j)).sum::<f64>()
    };
    pairs(adapter).map(square).sum::<f64>().max(0.0).sqrt()
}

fn dot<'a>(left: impl Iterator<Item = &'a f32>, right: impl Iterator<Item = &'a f32>) -> f64 {
    left.zip(right).map(|(&left, &right)| f64::from(left) * f64::from(right)).sum()
}
