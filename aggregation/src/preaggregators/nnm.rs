//! Nearest-neighbour mixing.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Mixing, PreAggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{order, squared_distances, weighted_sum},
};

/// Replaces each update by the mean of the n − f nearest to it, itself included ("Fixing by Mixing: A Recipe for Optimal
/// Byzantine ML under Heterogeneity", Allouah et al. 2023, Algorithm 2). Needs n ≥ 2f + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestNeighbourMixing {
    /// f, the malicious updates that it withstands.
    pub byzantine: usize,
}

impl PreAggregator for NearestNeighbourMixing {
    fn mixing(&self) -> Mixing {
        Mixing::Clients
    }

    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        AggregationError::unless_enough("nnm", "n ≥ 2f + 1", 2 * self.byzantine + 1, updates)
    }

    fn transform<'a>(&self, updates: Updates<'a>, _: &mut Context<'_>) -> Result<Updates<'a>, AggregationError> {
        let vectors = updates.slices();
        let near = vectors.len() - self.byzantine;
        let distances = squared_distances(&vectors);
        let mix = |i: usize| {
            let nearest = &order(distances.row(i))[..near];
            let nearest: Vec<&[f32]> = nearest.iter().map(|&j| vectors[j]).collect();
            weighted_sum(&nearest, &vec![1.0 / near as f64; near])
        };
        let mixed = (0..vectors.len()).into_par_iter().map(mix).collect();
        Ok(updates.mixed(mixed))
    }
}
