//! A bound on frozen terms: above it they become one term of that rank, the best approximation of their sum. A product has as many ranks as
//! its weight has rows or columns at most, so that a bound which is not set loses nothing.

use std::sync::Arc;

use fedward_actors::{
    ports::PortResult,
    protocol::{Adapter, GlobalModel},
};
use fedward_aggregation::factors::{Split, mean_product};

use super::{
    Next,
    factorised::{factorise, factors_of, from_products, loss_ratio},
    pairs, rank,
};
use crate::lora::stack;

/// Bounds the ranks of frozen terms, and reports their number and the share of their norm that the bound loses.
pub(super) fn bounded(mut next: Next, max_rank: Option<usize>) -> PortResult<Next> {
    let ranks = |model: &GlobalModel| model.frozen().iter().map(|term| rank(term)).sum::<usize>();
    let full = pairs(next.model.trainable()).map(|(a, b)| a.shape[1].min(b.shape[0])).max().unwrap_or(0);
    let most = max_rank.unwrap_or(full).min(full);
    if ranks(&next.model) > most {
        let (compressed, share) = compress(&next.model, most)?;
        next.model = GlobalModel::new(vec![Arc::new(compressed)], next.model.trainable().clone());
        next.report.insert("frozen_loss_ratio".to_owned(), share);
    }
    next.report.insert("frozen_rank".to_owned(), ranks(&next.model) as f64);
    Ok(next)
}

fn compress(model: &GlobalModel, rank: usize) -> PortResult<(Adapter, f64)> {
    let stacked = stack(&model.frozen().iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    let products = factorise(&stacked, |index, shape, _| {
        mean_product(&[factors_of(&stacked, index, 1.0)], shape, rank, Split::Even)
    })?;
    let compressed = from_products(&Adapter::zeros(Arc::new(stacked.layout().truncated(rank))), &products)?;
    Ok((compressed, loss_ratio(&products)))
}
