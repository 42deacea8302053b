//! The weighted mean.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator, Weighting};
use crate::{AggregationError, Context, Updates, vectors::weighted_mean};

/// `Σ w_i δ_i / Σ w_i`: federated averaging ("Communication-Efficient Learning of Deep Networks from Decentralized Data",
/// `McMahan` et al. 2017, Algorithm 1). Needs one update; one malicious update can move it anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mean {
    /// What each update counts.
    pub weights: MeanWeights,
}

/// What each update counts in the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeanWeights {
    /// The rows that its client trained on, times its trust.
    #[default]
    Rows,
    /// Its trust alone.
    Uniform,
}

impl Aggregator for Mean {
    fn weighting(&self) -> Weighting {
        match self.weights {
            MeanWeights::Rows => Weighting::ByRows,
            MeanWeights::Uniform => Weighting::ByTrust,
        }
    }

    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless_enough("mean", "n ≥ 1", 1, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let (vectors, weights) = (updates.slices(), updates.weights());
        let sum: f64 = weights.iter().sum();
        let shares = weights.iter().map(|weight| weight / sum).collect();
        Ok(Aggregate { values: weighted_mean(&vectors, weights), shares: Some(shares) })
    }
}
