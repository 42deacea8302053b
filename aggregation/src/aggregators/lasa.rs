//! LASA.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{
    AggregationError, Context, Updates,
    vectors::{clip_factor, median, norms, weighted_sum},
};

/// Layer-adaptive aggregation of sparsified updates ("Achieving Byzantine-Resilient Federated Learning via Layer-Adaptive
/// Sparsified Model Aggregation", Xu et al. 2025): updates are clipped to the median norm and keep the values of their largest
/// magnitudes; in each layer the mean is of those whose norm and whose sign purity `½ (1 + Σ sign / Σ |sign|)` both lie within
/// `bound` of the median's, |x − median| over the standard deviation. Each of them counts the same; a layer that nobody passes
/// does not change. Needs n ≥ 3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lasa {
    /// Share of its values, those of the largest magnitudes, that an update keeps.
    pub kept_share: f64,
    /// How many standard deviations a layer's norm may lie from the median.
    pub norm_bound: f64,
    /// The same for the purity of signs.
    pub sign_bound: f64,
}

impl Default for Lasa {
    fn default() -> Self {
        Self { kept_share: 0.7, norm_bound: 1.0, sign_bound: 1.0 }
    }
}

const RULE: &str = "lasa";

impl Aggregator for Lasa {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        let &Self { kept_share, norm_bound, sign_bound } = self;
        let is_share = kept_share > 0.0 && kept_share <= 1.0;
        AggregationError::unless(is_share, RULE, "kept_share", kept_share, "above 0 to 1")?;
        for (key, bound) in [("norm_bound", norm_bound), ("sign_bound", sign_bound)] {
            AggregationError::unless(bound > 0.0, RULE, key, bound, "a number above 0")?;
        }
        AggregationError::unless_enough(RULE, "n ≥ 3", 3, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let norms = norms(&vectors);
        let bound = median(&norms);
        let sparse: Vec<Vec<f32>> = vectors
            .par_iter()
            .zip(&norms)
            .map(|(vector, &norm)| sparsified(vector, clip_factor(norm, bound), self.kept_share))
            .collect();
        let mut values = vec![0.0; updates.dimension()];
        for layer in updates.layers() {
            let parts: Vec<&[f32]> = sparse.iter().map(|vector| &vector[layer.clone()]).collect();
            let passes = self.passing(&parts);
            let count = passes.iter().filter(|&&passes| passes).count();
            if count > 0 {
                let shares: Vec<f64> = passes.iter().map(|&passes| f64::from(passes) / count as f64).collect();
                values[layer.clone()].copy_from_slice(&weighted_sum(&parts, &shares));
            }
        }
        Ok(Aggregate::by_coordinate(values))
    }
}

impl Lasa {
    /// Which updates of one layer lie near the others in norm and in signs.
    fn passing(&self, layer: &[&[f32]]) -> Vec<bool> {
        let norms = from_median(&norms(layer));
        let signs = from_median(&layer.par_iter().map(|part| sign_purity(part)).collect::<Vec<_>>());
        norms.into_iter().zip(signs).map(|(norm, sign)| norm < self.norm_bound && sign < self.sign_bound).collect()
    }
}

/// The vector times `factor`, all but its largest magnitudes set to 0; of equal ones at the limit all stay.
fn sparsified(vector: &[f32], factor: f64, kept_share: f64) -> Vec<f32> {
    let mut magnitudes: Vec<f32> = vector.iter().map(|value| value.abs()).collect();
    let dropped = ((1.0 - kept_share) * vector.len() as f64).round() as usize;
    let limit = match dropped {
        0 => 0.0,
        dropped => *magnitudes.select_nth_unstable_by(dropped.min(vector.len() - 1), f32::total_cmp).1,
    };
    let kept = |&value: &f32| if value.abs() >= limit { (factor * f64::from(value)) as f32 } else { 0.0 };
    vector.iter().map(kept).collect()
}

/// `½ (1 + Σ sign / Σ |sign|)`; ½ where all are 0.
fn sign_purity(values: &[f32]) -> f64 {
    let (mut sum, mut count) = (0_i64, 0_i64);
    for &value in values {
        sum += i64::from(value > 0.0) - i64::from(value < 0.0);
        count += i64::from(value != 0.0);
    }
    if count == 0 { 0.5 } else { 0.5 * (1.0 + sum as f64 / count as f64) }
}

/// |x − median| over the standard deviation (of the n values, as numpy has it); 0 where all are equal.
fn from_median(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    let (middle, mean) = (median(values), values.iter().sum::<f64>() / n);
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
    let far = |value: &f64| if deviation > 0.0 { (value - middle).abs() / deviation } else { 0.0 };
    values.iter().map(far).collect()
}
