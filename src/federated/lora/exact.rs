//! The mean of clients' products, exactly: as frozen terms of as many ranks as all clients have.

use std::collections::BTreeMap;

use fedward_actors::{
    ports::PortResult,
    protocol::Adapter,
    streams::{Purpose, stream},
};
use fedward_aggregation::vectors::weighted_mean;

use super::{Given, Next};
use crate::{
    federated::state::adapter_like,
    lora::{fresh_values, stack},
};

/// `FedEx-LoRA` ("Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models", Singhal et al. 2024): clients go
/// on from the means Ā and B̄, and `s (Σ p_k B_k A_k − B̄ Ā)` is frozen.
pub(super) fn fed_ex(given: &Given<'_>) -> PortResult<Next> {
    let padded = given.padded();
    let values: Vec<&[f32]> = padded.iter().map(Adapter::values).collect();
    let mean = adapter_like(given.global.trainable(), weighted_mean(&values, &given.shares))?;
    let scaling = mean.layout().scaling();
    let mut terms = shared_products(given);
    terms.push(mean.with_scaling(-scaling));
    let residual = stack(&terms.iter().collect::<Vec<_>>())?;
    Ok(Next { model: given.global.with_trainable(mean).with_frozen(residual), report: BTreeMap::new() })
}

/// `FLoRA` ("`FLoRA`: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", Wang et al. 2024):
/// `s Σ p_k B_k A_k` is frozen, and the next round trains a new adapter, A drawn for the round, B zero.
pub(super) fn flora(given: &Given<'_>) -> PortResult<Next> {
    let products = stack(&shared_products(given).iter().collect::<Vec<_>>())?;
    let mut rng = stream(given.seed, Purpose::Initialization, given.round, None);
    let trainable = given.global.trainable();
    let fresh = adapter_like(trainable, fresh_values(trainable.layout(), &mut rng))?;
    Ok(Next { model: given.global.with_trainable(fresh).with_frozen(products), report: BTreeMap::new() })
}

/// Each client's adapter, its product multiplied by its share.
fn shared_products(given: &Given<'_>) -> Vec<Adapter> {
    let scaling = given.global.trainable().layout().scaling();
    given.locals().iter().zip(&given.shares).map(|(local, share)| local.with_scaling(scaling * share)).collect()
}
