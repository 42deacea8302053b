//! The arithmetic of aggregation: pure functions on the flat buffers of adapters.

use fedward_actors::{
    ports::{ClientUpdate, PortError, PortResult},
    protocol::Adapter,
};
use rayon::prelude::*;

use super::state::adapter_like;

/// Numbers that one task adds up at a time: small enough for its accumulators to stay in the cache.
const CHUNK: usize = 8192;

/// `Σ w_i x_i` for each number of the vectors, `w_i` being the weights divided by their sum.
///
/// Added up in `f64` in the order of the vectors and rounded once, so the result depends neither on the number of
/// threads nor on the size of chunks (invariant D-1).
///
/// # Shapes
///
/// `vectors`: n vectors of one length; `weights`: n numbers, not negative. The result has the vectors' length; it is
/// empty if there are no vectors.
///
/// # Panics
///
/// If there are more or fewer weights than vectors, or vectors of different length: callers check layouts first.
pub fn weighted_mean(vectors: &[&[f32]], weights: &[f64]) -> Vec<f32> {
    assert_eq!(vectors.len(), weights.len(), "one weight a vector");
    let length = vectors.first().map_or(0, |first| first.len());
    assert!(vectors.iter().all(|vector| vector.len() == length), "vectors of one length");
    let sum: f64 = weights.iter().sum();
    let mut mean = vec![0.0; length];
    mean.par_chunks_mut(CHUNK).enumerate().for_each_init(
        || vec![0.0_f64; CHUNK],
        |sums, (chunk, out)| {
            let start = chunk * CHUNK;
            let sums = &mut sums[..out.len()];
            sums.fill(0.0);
            for (vector, weight) in vectors.iter().zip(weights) {
                let weight = weight / sum;
                for (sum, &value) in sums.iter_mut().zip(&vector[start..]) {
                    *sum += weight * f64::from(value);
                }
            }
            for (out, &sum) in out.iter_mut().zip(&*sums) {
                *out = sum as f32;
            }
        },
    );
    mean
}

/// Refuses updates that do not fit the global adapter, or that there are none of.
fn check(global: &Adapter, updates: &[ClientUpdate]) -> PortResult<()> {
    for update in updates {
        global
            .check_same_layout(&update.adapter)
            .map_err(|error| PortError::Failed(format!("{}: {error}", update.client)))?;
    }
    let rows: f64 = updates.iter().map(|update| update.n_examples * update.trust).sum();
    if rows > 0.0 {
        return Ok(());
    }
    let problem = format!("{} updates rest on 0 rows, expected at least one row in one update", updates.len());
    Err(PortError::Failed(problem))
}

/// The mean of the clients' adapters, weighted by the rows that each trained on, each row counted by its own weight, and by trust.
pub(super) fn mean_by_examples(global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
    check(global, updates)?;
    let weights: Vec<f64> = updates.iter().map(|update| update.n_examples * update.trust).collect();
    adapter_like(global, weighted_mean(&vectors(updates), &weights))
}

/// The mean of the clients' adapters, each counting as much as it is trusted.
pub(super) fn plain_mean(global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
    check(global, updates)?;
    let trusts: Vec<f64> = updates.iter().map(|update| update.trust).collect();
    adapter_like(global, weighted_mean(&vectors(updates), &trusts))
}

/// Returns `mean − global`, number by number.
pub(super) fn change(global: &Adapter, mean: &Adapter) -> Vec<f64> {
    mean.values().iter().zip(global.values()).map(|(&mean, &global)| f64::from(mean) - f64::from(global)).collect()
}

fn vectors(updates: &[ClientUpdate]) -> Vec<&[f32]> {
    updates.iter().map(|update| update.adapter.values()).collect()
}

/// Euclidean norm.
pub(super) fn l2_norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```python
    /// import numpy as np
    /// x = np.array([[.1, -2.5, 3e-8, 1e6], [.2, 1.25, -7e-8, -3.3], [.7, .3, 1.1e-7, 12345.678]], dtype=np.float32)
    /// w = np.array([50, 30, 20]); w = w / w.sum()
    /// s = np.zeros(4)
    /// for wi, xi in zip(w, x): s += wi * xi.astype(np.float64)
    /// print([hex(v) for v in s.astype(np.float32).view(np.uint32)])
    /// ```
    #[test]
    fn agrees_with_numpy_to_the_bit() {
        let x: [[f32; 4]; 3] = [[0.1, -2.5, 3e-8, 1e6], [0.2, 1.25, -7e-8, -3.3], [0.7, 0.3, 1.1e-7, 12_345.678]];
        let mean = weighted_mean(&[&x[0], &x[1], &x[2]], &[50.0, 30.0, 20.0]);
        let bits: Vec<u32> = mean.iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, NUMPY_BITS);
    }

    const NUMPY_BITS: [u32; 4] = [0x3e80_0000, 0xbf50_a3d7, 0x3289_705f, 0x48f5_5885];

    #[test]
    fn neither_threads_nor_chunks_change_a_bit() {
        let length = 3 * CHUNK + 17;
        let vector = |client: usize| -> Vec<f32> {
            (0..length).map(|i| ((i * 37 + client * 101) % 1009) as f32 * 1.3e-3 - 0.5).collect()
        };
        let vectors: Vec<Vec<f32>> = (0..7).map(vector).collect();
        let slices: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let weights = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0];
        let with_threads = |n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| weighted_mean(&slices, &weights))
        };
        let one = with_threads(1);
        assert_eq!(one, with_threads(4));
        let plain = |i: usize| {
            let products = vectors.iter().zip(weights).map(|(vector, weight)| weight / 25.0 * f64::from(vector[i]));
            products.fold(0.0, |sum, product| sum + product) as f32
        };
        assert!((0..length).all(|i| one[i].to_bits() == plain(i).to_bits()));
    }
}
