//! Robust aggregation of federated updates, and attacks on it: pure arithmetic on slices of `f32`.
//!
//! Three rooms. [`preaggregators`] change updates before they are combined, [`aggregators`] combine them into one, and
//! [`attacks`] compute what a malicious client sends. Each rule is a file with its equation, its source and what it
//! needs ("n ≥ 2f + 3"); too few updates are an error, never a smaller f. Adding a rule is a file and a line of
//! registration at the top of its room's `mod.rs`.
//!
//! An update is a *delta*: local minus global adapter, so that zero is "no change" and norms are lengths of steps.
//! Callers have checked that every value is finite. n is the number of updates, f how many of them may be malicious.
//!
//! # Determinism
//!
//! The same arguments give the same bytes, whatever the number of threads: work is cut into chunks of fixed size, and
//! partial sums are added up in the order of chunks. What has memory or draws random numbers takes both as arguments
//! ([`Context`]). Sums are accumulated in `f64`; pairwise distances in `f32` within blocks of 256 values, then in `f64`.

mod context;
mod error;
mod memory;
mod registry;
mod updates;

pub mod aggregators;
pub mod attacks;
pub mod factors;
pub mod preaggregators;
pub mod vectors;

pub use aggregators::{Aggregate, Aggregator, AggregatorSettings, Weighting};
pub use attacks::{Attack, AttackSettings, Sight};
pub use context::Context;
pub use error::AggregationError;
pub use memory::Memory;
pub use preaggregators::{Mixing, PreAggregator, PreAggregatorSettings};
pub use updates::Updates;

/// Computes what pre-aggregators, in their order, and an aggregator make of updates.
///
/// # Errors
///
/// [`AggregationError`] of the first rule that cannot work on what it is given.
pub fn combine(
    pre: &[PreAggregatorSettings],
    aggregator: &AggregatorSettings,
    mut updates: Updates<'_>,
    context: &mut Context<'_>,
) -> Result<Aggregate, AggregationError> {
    for settings in pre {
        let rule = settings.rule();
        rule.check(updates.len())?;
        updates = rule.transform(updates, context)?;
    }
    let rule = aggregator.rule();
    rule.check(updates.len())?;
    rule.aggregate(&updates, context)
}

/// Checks, before there are any updates, that rules can combine `updates` of them.
///
/// # Errors
///
/// As [`combine`], as far as the number of updates and the rules' settings decide it.
pub fn check(
    pre: &[PreAggregatorSettings],
    aggregator: &AggregatorSettings,
    updates: usize,
) -> Result<(), AggregationError> {
    let mut left = updates;
    for settings in pre {
        settings.rule().check(left)?;
        left = settings.rule().updates_after(left);
    }
    aggregator.rule().check(left)?;
    let mixes = pre.iter().find(|settings| settings.rule().mixing() == Mixing::Clients);
    match mixes {
        Some(mixing) if aggregator.rule().needs_clients() => {
            Err(AggregationError::NoClients { rule: aggregator.name(), mixed_by: mixing.name() })
        }
        _ => Ok(()),
    }
}
