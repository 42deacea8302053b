//! A bound on frozen terms: above it they become one term of that rank, the best approximation of their sum.

use std::sync::Arc;

use fedward_actors::{
    ports::PortResult,
    protocol::{Adapter, GlobalModel},
};
use fedward_aggregation::factors::{Split, mean_product};

use super::{
    Next,
    factorised::{factorise, factors_of, from_products, lost},
    pairs,
};
use crate::lora::stack;

/// Bounds the ranks of frozen terms, and reports their number and the share of their norm that the bound loses.
pub(super) fn bounded(mut next: Next, max_rank: Option<usize>) -> PortResult<Next> {
    let ranks = |model: &GlobalModel| model.frozen().iter().map(|term| rank(term)).sum::<usize>();
    if let Some(most) = max_rank.filter(|&most| ranks(&next.model) > most) {
        let (compressed, share) = compress(&next.model, most)?;
        next.model = GlobalModel::new(vec![Arc::new(compressed)], next.model.trainable().clone());
        next.report.insert("frozen_lost".to_owned(), share);
    }
    next.report.insert("frozen_rank".to_owned(), ranks(&next.model) as f64);
    Ok(next)
}

fn rank(term: &Adapter) -> usize {
    pairs(term).map(|(a, _)| a.shape[0]).max().unwrap_or(0)
}

fn compress(model: &GlobalModel, rank: usize) -> PortResult<(Adapter, f64)> {
    let stacked = stack(&model.frozen().iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    let products = factorise(&stacked, |index, shape, _| {
        mean_product(&[factors_of(&stacked, index, 1.0)], shape, rank, Split::Even)
    })?;
    let compressed = from_products(&Adapter::zeros(Arc::new(stacked.layout().truncated(rank))), &products)?;
    Ok((compressed, lost(&products)))
}
