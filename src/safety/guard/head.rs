//! A logistic head on feature vectors.

use serde::{Deserialize, Serialize};

/// `P(unsafe) = σ(w · (x − mean) / deviation + b)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogisticHead {
    mean: Vec<f64>,
    deviation: Vec<f64>,
    weights: Vec<f64>,
    bias: f64,
}

/// Strength of the L2 penalty on the weights, per row.
const L2: f64 = 0.01;
/// Iterations of the optimizer; the loss is convex and long flat by then.
const ITERATIONS: usize = 400;
const LEARNING_RATE: f64 = 0.05;

impl LogisticHead {
    /// Fits a head by full-batch Adam on the mean logistic loss with an L2 penalty; both classes weigh the same in sum.
    ///
    /// Returns `None` without rows of both classes.
    ///
    /// # Shapes
    ///
    /// `features: [rows][width]`, `labels: [rows]` (true = unsafe).
    pub fn fit(features: &[Vec<f32>], labels: &[bool]) -> Option<Self> {
        let positives = labels.iter().filter(|&&label| label).count();
        let negatives = labels.len() - positives;
        if positives == 0 || negatives == 0 {
            return None;
        }
        let mut head = Self::standardizing(features);
        let rows: Vec<Vec<f64>> = features.iter().map(|row| head.standardize(row)).collect();
        let row_weight = |label: bool| 0.5 / if label { positives } else { negatives } as f64;
        let width = head.mean.len();
        let mut adam = Adam::new(width + 1);
        for _ in 0..ITERATIONS {
            let mut gradient = vec![0.0; width + 1];
            for (row, &label) in rows.iter().zip(labels) {
                let error = row_weight(label) * (head.probability_of(row) - f64::from(u8::from(label)));
                for (slot, value) in gradient.iter_mut().zip(row) {
                    *slot += error * value;
                }
                gradient[width] += error;
            }
            for (slot, weight) in gradient.iter_mut().zip(&head.weights) {
                *slot += L2 * weight;
            }
            let step = adam.step(&gradient);
            for (weight, change) in head.weights.iter_mut().zip(&step) {
                *weight -= change;
            }
            head.bias -= step[width];
        }
        Some(head)
    }

    /// Numbers of a row that it reads.
    pub fn width(&self) -> usize {
        self.weights.len()
    }

    /// Probability that a row with these features is unsafe.
    pub fn probability(&self, features: &[f32]) -> f64 {
        self.probability_of(&self.standardize(features))
    }

    fn standardizing(features: &[Vec<f32>]) -> Self {
        let width = features.first().map_or(0, Vec::len);
        let n = features.len() as f64;
        let mut mean = vec![0.0; width];
        for row in features {
            for (slot, &value) in mean.iter_mut().zip(row) {
                *slot += f64::from(value) / n;
            }
        }
        let mut variance = vec![0.0; width];
        for row in features {
            for ((slot, &value), mean) in variance.iter_mut().zip(row).zip(&mean) {
                *slot += (f64::from(value) - mean).powi(2) / n;
            }
        }
        let deviation = variance.into_iter().map(|variance: f64| variance.sqrt().max(1e-6)).collect();
        Self { mean, deviation, weights: vec![0.0; width], bias: 0.0 }
    }

    fn standardize(&self, features: &[f32]) -> Vec<f64> {
        let scale = |((&value, mean), deviation): ((&f32, &f64), &f64)| (f64::from(value) - mean) / deviation;
        features.iter().zip(&self.mean).zip(&self.deviation).map(scale).collect()
    }

    fn probability_of(&self, row: &[f64]) -> f64 {
        let logit: f64 = self.bias + row.iter().zip(&self.weights).map(|(value, weight)| value * weight).sum::<f64>();
        1.0 / (1.0 + (-logit).exp())
    }
}

/// Adam with its usual constants.
struct Adam {
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl Adam {
    fn new(width: usize) -> Self {
        Self { first: vec![0.0; width], second: vec![0.0; width], steps: 0 }
    }

    fn step(&mut self, gradient: &[f64]) -> Vec<f64> {
        self.steps += 1;
        let (first_bias, second_bias) = (1.0 - 0.9_f64.powi(self.steps), 1.0 - 0.999_f64.powi(self.steps));
        let update = |((first, second), &gradient): ((&mut f64, &mut f64), &f64)| {
            *first = 0.9 * *first + 0.1 * gradient;
            *second = 0.999 * *second + 0.001 * gradient * gradient;
            LEARNING_RATE * (*first / first_bias) / ((*second / second_bias).sqrt() + 1e-8)
        };
        self.first.iter_mut().zip(&mut self.second).zip(gradient).map(update).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separable_rows_are_separated() {
        let features: Vec<Vec<f32>> = (0..40).map(|i| vec![i as f32, (i * 7 % 5) as f32]).collect();
        let labels: Vec<bool> = (0..40).map(|i| i >= 20).collect();
        let head = LogisticHead::fit(&features, &labels).unwrap();
        let right =
            features.iter().zip(&labels).filter(|(row, label)| (head.probability(row) >= 0.5) == **label).count();
        assert!(right >= 38, "{right} of 40");
    }

    #[test]
    fn one_class_alone_gives_no_head() {
        assert_eq!(LogisticHead::fit(&[vec![1.0], vec![2.0]], &[true, true]), None);
    }
}
