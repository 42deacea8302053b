//! A little is enough.

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Attack, Sight, check_factor};
use crate::AggregationError;

/// `μ + τ σ`, σ being the standard deviation of each coordinate over the honest updates, with n − 1 in the denominator ("A Little
/// Is Enough: Circumventing Defenses For Distributed Learning", Baruch et al. 2019, Algorithm 3). Needs to see two of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ALittleIsEnough {
    /// τ, z in the paper.
    pub tau: f64,
}

impl Default for ALittleIsEnough {
    fn default() -> Self {
        Self { tau: 1.5 }
    }
}

impl Attack for ALittleIsEnough {
    fn check(&self) -> Result<(), AggregationError> {
        check_factor("alie", "tau", self.tau)
    }

    fn forge(&self, sight: &Sight<'_>, _: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError> {
        let (mean, deviation) = moments("alie", sight.honest)?;
        let shifted = mean.iter().zip(&deviation).map(|(mean, deviation)| (mean + self.tau * deviation) as f32);
        Ok(shifted.collect())
    }
}

/// Mean and standard deviation of each coordinate.
pub(super) fn moments(attack: &'static str, honest: &[&[f32]]) -> Result<(Vec<f64>, Vec<f64>), AggregationError> {
    if honest.len() < 2 {
        return Err(AggregationError::Unseen { attack, what: "two honest updates or more" });
    }
    let n = honest.len() as f64;
    let moment = |index: usize| {
        let mean = honest.iter().map(|vector| f64::from(vector[index])).sum::<f64>() / n;
        let squares: f64 = honest.iter().map(|vector| (f64::from(vector[index]) - mean).powi(2)).sum();
        (mean, (squares / (n - 1.0)).sqrt())
    };
    Ok((0..honest[0].len()).into_par_iter().with_min_len(4096).map(moment).unzip())
}
