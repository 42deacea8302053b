//! The mean of products, factorised at the adapter's rank.

use std::collections::BTreeMap;

use fedward_actors::{
    ports::{PortError, PortResult},
    protocol::Adapter,
};
use fedward_aggregation::{
    AggregationError,
    factors::{Factors, Product, fed_svd, flex_lora as flex_lora_product},
};
use rayon::prelude::*;

use super::{Given, Next, pairs};
use crate::federated::state::adapter_like;

/// `FlexLoRA`: `B = U √Σ`, `A = √Σ Vᵀ` of the best approximation of `Σ p_k B_k A_k`. What its rank leaves out is reported as a
/// share of the norm of all products.
pub(super) fn flex_lora(given: &Given<'_>) -> PortResult<Next> {
    let global = given.global.trainable();
    let products = factorise(global, |index, shape, rank| {
        let updates = given.updates.iter().zip(&given.shares);
        let factors: Vec<Factors<'_>> =
            updates.map(|(update, &share)| factors_of(&update.adapter, index, share)).collect();
        flex_lora_product(&factors, shape, rank)
    })?;
    let report = BTreeMap::from([("rank_loss_ratio".to_owned(), loss_ratio(&products))]);
    let next = given.revived(&from_products(global, &products)?)?;
    Ok(Next { model: given.global.with_trainable(next), report })
}

/// `FedSVD`'s step: the same product, A's rows orthonormal.
pub(super) fn orthonormal(combined: &Adapter) -> PortResult<Adapter> {
    let products = factorise(combined, |index, shape, rank| fed_svd(&[factors_of(combined, index, 1.0)], shape, rank))?;
    from_products(combined, &products)
}

/// The share of the norm of all products that their ranks leave out.
pub(super) fn loss_ratio(products: &[Product]) -> f64 {
    let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
    let left_out: f64 = products.iter().map(|product| squares(&product.left_out)).sum();
    let kept: f64 = products.iter().map(|product| squares(&product.kept)).sum();
    if left_out > 0.0 { (left_out / (left_out + kept)).sqrt() } else { 0.0 }
}

/// A product for each pair of an adapter, side by side; `product` is given the pair's number, the shape of its product and its rank.
pub(super) fn factorise(
    like: &Adapter,
    product: impl Fn(usize, [usize; 2], usize) -> Result<Product, AggregationError> + Sync,
) -> PortResult<Vec<Product>> {
    let shapes: Vec<_> = pairs(like).map(|(a, b)| ([b.shape[0], a.shape[1]], a.shape[0])).collect();
    let products = shapes.into_par_iter().enumerate().map(|(index, (shape, rank))| product(index, shape, rank));
    products.collect::<Result<_, _>>().map_err(|error| PortError::Failed(error.to_string()))
}

/// One pair of an adapter.
pub(super) fn factors_of(adapter: &Adapter, index: usize, weight: f64) -> Factors<'_> {
    let tensors = &adapter.layout().tensors()[2 * index..2 * index + 2];
    Factors { a: adapter.tensor(&tensors[0]), b: adapter.tensor(&tensors[1]), weight }
}

/// The adapter of these factors.
pub(super) fn from_products(like: &Adapter, products: &[Product]) -> PortResult<Adapter> {
    adapter_like(like, products.iter().flat_map(|product| product.a.iter().chain(&product.b)).copied().collect())
}
