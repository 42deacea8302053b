//! The arithmetic that rules share, in chunks of fixed size on several threads.

mod columns;
mod mean;
mod pairs;

pub use columns::{WIDTH, for_each_sorted_block};
pub use mean::{weighted_mean, weighted_sum};
pub use pairs::{Pairs, dot_products, squared_distances};

use rayon::prelude::*;

/// Values that one task takes at a time where it adds up one number.
const CHUNK: usize = 1 << 16;

/// Computes `f` of each chunk of coordinates in parallel, and adds the results up in order.
fn sum_over_chunks(length: usize, numbers: usize, f: impl Fn(std::ops::Range<usize>) -> Vec<f64> + Sync) -> Vec<f64> {
    let chunks: Vec<Vec<f64>> = (0..length.div_ceil(CHUNK))
        .into_par_iter()
        .map(|chunk| f(chunk * CHUNK..length.min((chunk + 1) * CHUNK)))
        .collect();
    let mut sums = vec![0.0; numbers];
    for chunk in chunks {
        for (sum, part) in sums.iter_mut().zip(chunk) {
            *sum += part;
        }
    }
    sums
}

/// Adds up `term` of the pairs of values, in `f64`: sixteen sums side by side, always the same ones.
fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0_f64; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += term(f64::from(a[lane]), f64::from(b[lane]));
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += term(f64::from(a), f64::from(b));
    }
    sums.iter().sum()
}

/// Euclidean norm of each vector.
///
/// # Shapes
///
/// `vectors`: n of one length. The result has n numbers.
pub fn norms(vectors: &[&[f32]]) -> Vec<f64> {
    let length = vectors.first().map_or(0, |first| first.len());
    let squares = sum_over_chunks(length, vectors.len(), |chunk| {
        vectors.iter().map(|vector| sum_of(&vector[chunk.clone()], &vector[chunk.clone()], |a, b| a * b)).collect()
    });
    squares.into_iter().map(f64::sqrt).collect()
}

/// Euclidean distance of each vector to `point`.
///
/// # Shapes
///
/// `vectors`: n of the length of `point`. The result has n numbers.
pub fn distances_to(point: &[f32], vectors: &[&[f32]]) -> Vec<f64> {
    let squares = sum_over_chunks(point.len(), vectors.len(), |chunk| {
        let square = |a: f64, b: f64| (a - b) * (a - b);
        vectors.iter().map(|vector| sum_of(&vector[chunk.clone()], &point[chunk.clone()], square)).collect()
    });
    squares.into_iter().map(f64::sqrt).collect()
}

/// Returns `factor` times the vector, each value rounded once.
pub fn scaled(vector: &[f32], factor: f64) -> Vec<f32> {
    vector.par_iter().with_min_len(CHUNK).map(|&value| (factor * f64::from(value)) as f32).collect()
}

/// Returns the value in the middle, or the mean of the two there; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => f64::midpoint(values[(n - 1) / 2], values[n / 2]),
    }
}

/// Returns the indices of `values` in increasing order; equal values stay in the order of their indices.
pub(crate) fn order(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

/// Returns the factor that shortens a vector of this norm to at most `bound`.
pub(crate) fn clip_factor(norm: f64, bound: f64) -> f64 {
    if norm > bound { bound / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_distances_and_medians_are_right_by_hand() {
        let (a, b) = ([3.0, 4.0], [0.0, 0.0]);
        assert_eq!(norms(&[&a, &b]), [5.0, 0.0]);
        assert_eq!(distances_to(&[3.0, 0.0], &[&a, &b]), [4.0, 3.0]);
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 9.0]), median(&[])), (2.0, 3.0, 0.0));
        assert_eq!(order(&[2.0, 1.0, 2.0, 0.0]), [3, 1, 0, 2]);
        assert_eq!(scaled(&[2.0, -4.0], 0.5), [1.0, -2.0]);
    }

    #[test]
    fn every_value_counts_whatever_the_length() {
        for length in [1, 15, 16, 17, CHUNK - 1, CHUNK + 3] {
            let vector = vec![1.0_f32; length];
            assert_eq!(norms(&[&vector]), [(length as f64).sqrt()], "{length}");
        }
    }
}
