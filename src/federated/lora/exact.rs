//! The mean of clients' products, exactly: as frozen terms of as many ranks as all clients have.

use std::collections::BTreeMap;

use fedward_actors::{
    ports::PortResult,
    protocol::Adapter,
    streams::{Purpose, stream},
};
use fedward_aggregation::vectors::weighted_mean;

use super::{Given, Next, pairs, rank};
use crate::{
    federated::state::adapter_like,
    lora::{fresh_values, stack},
};

/// `FedEx-LoRA` ("Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models", Singhal et al. 2024): clients go
/// on from the means Ā and B̄, and `s (Σ p_k B_k A_k − B̄ Ā)` is frozen.
pub(super) fn fed_ex(given: &Given<'_>) -> PortResult<Next> {
    let global = given.global.trainable();
    let values: Vec<&[f32]> = given.updates.iter().map(|update| update.adapter.values()).collect();
    let mean = given.revived(&adapter_like(global, weighted_mean(&values, &given.shares))?)?;
    let scaling = mean.layout().scaling();
    let mut terms = shared_products(given)?;
    terms.push(mean.with_scaling(-scaling));
    let residual = stack(&terms.iter().collect::<Vec<_>>())?;
    Ok(Next { model: given.global.with_trainable(mean).with_frozen(residual), report: BTreeMap::new() })
}

/// `FLoRA` ("`FLoRA`: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", Wang et al. 2024):
/// `s Σ p_k B_k A_k` is frozen, and the next round trains a new adapter, A drawn for the round, B zero.
pub(super) fn flora(given: &Given<'_>) -> PortResult<Next> {
    let products = stack(&shared_products(given)?.iter().collect::<Vec<_>>())?;
    let mut rng = stream(given.seed, Purpose::Initialization, given.round, None);
    let trainable = given.global.trainable();
    let fresh = adapter_like(trainable, fresh_values(trainable.layout(), &mut rng))?;
    Ok(Next { model: given.global.with_trainable(fresh).with_frozen(products), report: BTreeMap::new() })
}

/// `Σ p_k B_k A_k` as terms: of each client that counts as many ranks as it was sent, and the others once, as they stayed.
fn shared_products(given: &Given<'_>) -> PortResult<Vec<Adapter>> {
    let global = given.global.trainable();
    let scaling = global.layout().scaling();
    let counting = || given.updates.iter().zip(&given.shares).filter(|(_, share)| **share > 0.0);
    let mut terms: Vec<Adapter> = counting()
        .map(|(update, share)| update.adapter.truncated(given.rank(update)).with_scaling(scaling * share))
        .collect();
    // The share of those who were not sent a rank.
    let lacking: Vec<f64> = (0..rank(global))
        .map(|k| counting().filter(|(update, _)| given.rank(update) <= k).map(|(_, share)| share).sum())
        .collect();
    if lacking.iter().any(|share| *share > 0.0) {
        terms.push(weighted_ranks(global, &lacking)?);
    }
    Ok(terms)
}

/// An adapter whose k-th rank counts `weights[k]` times.
fn weighted_ranks(adapter: &Adapter, weights: &[f64]) -> PortResult<Adapter> {
    let mut values = adapter.values().to_vec();
    for (_, b) in pairs(adapter) {
        let ranks = b.shape[1];
        for (index, value) in values[b.range()].iter_mut().enumerate() {
            *value = (f64::from(*value) * weights[index % ranks]) as f32;
        }
    }
    adapter_like(adapter, values)
}
