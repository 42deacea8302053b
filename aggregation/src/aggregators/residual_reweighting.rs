//! Residual-based reweighting.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Aggregate, Aggregator};
use crate::{AggregationError, Context, Updates, vectors::weighted_sum};

/// Weighs updates by how well their values fit a line through each coordinate's sorted values ("Attack-Resistant Federated
/// Learning with Residual-based Reweighting", Fu et al. 2019, section 3).
///
/// Per coordinate, y being its values and x their ranks: a line by repeated medians (Siegel 1982), residuals r, their scale
/// `τ = 1.4826 (1 + 5 / (n − 1)) median |r|`, `e = r / τ`, leverages h, confidences `w = √(1 − h) / e · Ψ(e / √(1 − h))` with Ψ
/// cutting off at ±λ√(2/n). A value whose confidence is below the threshold gives way to the line's. An update weighs
/// `Σ w · std(w)` over all coordinates. Rows do not weigh. Needs n ≥ 3.
///
/// Costs n² slopes per coordinate: minutes for 100 updates of millions of values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResidualReweighting {
    /// λ, where confidence begins to fall.
    pub lambda: f64,
    /// δ, the confidence below which a value is replaced.
    pub threshold: f64,
}

impl Default for ResidualReweighting {
    fn default() -> Self {
        Self { lambda: 2.0, threshold: 0.05 }
    }
}

const RULE: &str = "residual_reweighting";

/// Coordinates that one task takes at a time.
const STRIP: usize = 256;

impl Aggregator for ResidualReweighting {
    fn check(&self, updates: usize) -> Result<(), AggregationError> {
        let &Self { lambda, threshold } = self;
        AggregationError::unless(lambda > 0.0 && lambda.is_finite(), RULE, "lambda", lambda, "a number above 0")?;
        AggregationError::unless((0.0..=1.0).contains(&threshold), RULE, "threshold", threshold, "from 0 to 1")?;
        AggregationError::unless_enough(RULE, "n ≥ 3", 3, updates)
    }

    fn aggregate(&self, updates: &Updates<'_>, _: &mut Context<'_>) -> Result<Aggregate, AggregationError> {
        let vectors = updates.slices();
        let (n, length) = (vectors.len(), updates.dimension());
        let fitted: Vec<(Vec<f64>, Vec<Vec<f32>>)> =
            (0..length.div_ceil(STRIP)).into_par_iter().map(|strip| self.fit_strip(&vectors, strip)).collect();
        let mut weights = vec![0.0; n];
        let mut corrected = vec![Vec::with_capacity(length); n];
        for (strip_weights, strip_values) in fitted {
            for client in 0..n {
                weights[client] += strip_weights[client];
                corrected[client].extend_from_slice(&strip_values[client]);
            }
        }
        let total: f64 = weights.iter().sum();
        // Where all confidences agree, in all coordinates, nothing tells updates apart.
        let shares =
            weights.iter().map(|weight| if total > 0.0 { weight / total } else { 1.0 / n as f64 }).collect::<Vec<_>>();
        let slices: Vec<&[f32]> = corrected.iter().map(Vec::as_slice).collect();
        Ok(Aggregate { values: weighted_sum(&slices, &shares), shares: Some(shares) })
    }
}

impl ResidualReweighting {
    /// The weights of all updates in a strip of coordinates, and their corrected values there.
    fn fit_strip(self, vectors: &[&[f32]], strip: usize) -> (Vec<f64>, Vec<Vec<f32>>) {
        let n = vectors.len();
        let range = strip * STRIP..vectors[0].len().min((strip + 1) * STRIP);
        let (mut weights, mut corrected) = (vec![0.0; n], vec![Vec::with_capacity(range.len()); n]);
        let mut line = Line::new(n);
        for coordinate in range {
            let mut column: Vec<(f64, usize)> =
                vectors.iter().enumerate().map(|(client, vector)| (f64::from(vector[coordinate]), client)).collect();
            column.sort_by(|a, b| a.0.total_cmp(&b.0));
            let sorted: Vec<f64> = column.iter().map(|&(value, _)| value).collect();
            line.fit(&sorted);
            let confidences = self.confidences(&sorted, &line);
            let mean = confidences.iter().sum::<f64>() / n as f64;
            let squares = confidences.iter().map(|confidence| (confidence - mean).powi(2)).sum::<f64>();
            let deviation = (squares / (n - 1) as f64).sqrt();
            for (rank, &(value, client)) in column.iter().enumerate() {
                let confidence = confidences[rank];
                weights[client] += confidence * deviation;
                corrected[client].push(if confidence < self.threshold { line.at(rank) } else { value } as f32);
            }
        }
        (weights, corrected)
    }

    fn confidences(self, sorted: &[f64], line: &Line) -> Vec<f64> {
        let n = sorted.len() as f64;
        let residuals: Vec<f64> = sorted.iter().enumerate().map(|(rank, value)| value - line.at(rank)).collect();
        let mut sizes: Vec<f64> = residuals.iter().map(|residual| residual.abs()).collect();
        let scale = 1.4826 * (1.0 + 5.0 / (n - 1.0)) * median(&mut sizes);
        let cut = self.lambda * (2.0 / n).sqrt();
        let (middle, spread) = ((n - 1.0) / 2.0, n * (n * n - 1.0) / 12.0);
        let confidence = |(rank, residual): (usize, f64)| {
            let leverage = 1.0 / n + (rank as f64 - middle).powi(2) / spread;
            // Of size e / √(1 − h): what fits exactly is sure, what does not where all else does is not.
            let ratio = residual.abs() / (scale * (1.0 - leverage).sqrt());
            if ratio > cut { cut / ratio } else { 1.0 }
        };
        residuals.into_iter().enumerate().map(confidence).collect()
    }
}

/// A line through sorted values over their ranks, by repeated medians.
struct Line {
    slope: f64,
    intercept: f64,
    slopes: Vec<f64>,
    intercepts: Vec<f64>,
    of_one: Vec<f64>,
}

impl Line {
    fn new(n: usize) -> Self {
        let buffer = || Vec::with_capacity(n);
        Self { slope: 0.0, intercept: 0.0, slopes: buffer(), intercepts: buffer(), of_one: buffer() }
    }

    fn at(&self, rank: usize) -> f64 {
        self.intercept + self.slope * rank as f64
    }

    /// `slope = med_i med_{j ≠ i} (y_i − y_j) / (x_i − x_j)`, the intercept likewise of
    /// `(x_j y_i − x_i y_j) / (x_j − x_i)`.
    fn fit(&mut self, sorted: &[f64]) {
        let x = |rank: usize| rank as f64;
        let n = sorted.len();
        let Self { slopes, intercepts, of_one, .. } = self;
        slopes.clear();
        intercepts.clear();
        for i in 0..n {
            let others = || (0..n).filter(move |&j| j != i);
            of_one.clear();
            of_one.extend(others().map(|j| (sorted[i] - sorted[j]) / (x(i) - x(j))));
            slopes.push(median(of_one));
            of_one.clear();
            of_one.extend(others().map(|j| (x(j) * sorted[i] - x(i) * sorted[j]) / (x(j) - x(i))));
            intercepts.push(median(of_one));
        }
        (self.slope, self.intercept) = (median(&mut self.slopes), median(&mut self.intercepts));
    }
}

/// The median of values that it may reorder; there is at least one.
fn median(values: &mut [f64]) -> f64 {
    let n = values.len();
    let (low, &mut high, _) = values.select_nth_unstable_by(n / 2, f64::total_cmp);
    if n % 2 == 1 { high } else { f64::midpoint(low.iter().copied().fold(f64::NEG_INFINITY, f64::max), high) }
}
