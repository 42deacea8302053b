//! Weighted sums of vectors.

use rayon::prelude::*;

/// Numbers that one task adds up at a time: small enough for its accumulators to stay in the cache.
const CHUNK: usize = 8192;

/// Vectors whose terms are added in one pass over the accumulators.
const TOGETHER: usize = 4;

/// Computes `Σ w_i x_i` for each number of the vectors, `w_i` being the weights divided by their sum.
///
/// Added up in `f64` in the order of the vectors and rounded once, so the result depends neither on the number of
/// threads nor on the size of chunks.
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
    let sum: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    weighted_sum(vectors, &shares)
}

/// Computes `Σ c_i x_i` for each number of the vectors, as [`weighted_mean`] does.
///
/// # Shapes
///
/// As [`weighted_mean`]. Vectors whose coefficient is 0 are not read.
///
/// # Panics
///
/// As [`weighted_mean`].
pub fn weighted_sum(vectors: &[&[f32]], coefficients: &[f64]) -> Vec<f32> {
    assert_eq!(vectors.len(), coefficients.len(), "one weight a vector");
    let length = vectors.first().map_or(0, |first| first.len());
    assert!(vectors.iter().all(|vector| vector.len() == length), "vectors of one length");
    // Adding 0 to a sum that began as 0 changes no bit of it.
    let terms: Vec<(&[f32], f64)> =
        vectors.iter().copied().zip(coefficients.iter().copied()).filter(|&(_, share)| share != 0.0).collect();
    let mut total = vec![0.0; length];
    total.par_chunks_mut(CHUNK).enumerate().for_each_init(
        || vec![0.0_f64; CHUNK],
        |sums, (chunk, out)| {
            let start = chunk * CHUNK;
            let sums = &mut sums[..out.len()];
            sums.fill(0.0);
            let (whole, rest) = terms.as_chunks::<TOGETHER>();
            for four in whole {
                add_four(sums, four.map(|(vector, share)| (&vector[start..start + out.len()], share)));
            }
            for &(vector, share) in rest {
                for (sum, &value) in sums.iter_mut().zip(&vector[start..]) {
                    *sum += share * f64::from(value);
                }
            }
            for (out, &sum) in out.iter_mut().zip(&*sums) {
                *out = sum as f32;
            }
        },
    );
    total
}

/// Adds four terms to each sum, one after another, so that it rounds as if they came one at a time.
fn add_four(sums: &mut [f64], terms: [(&[f32], f64); TOGETHER]) {
    let [(first, w0), (second, w1), (third, w2), (fourth, w3)] = terms;
    let values = first.iter().zip(second).zip(third).zip(fourth);
    for (sum, (((&x0, &x1), &x2), &x3)) in sums.iter_mut().zip(values) {
        *sum = (((*sum + w0 * f64::from(x0)) + w1 * f64::from(x1)) + w2 * f64::from(x2)) + w3 * f64::from(x3);
    }
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
        let weights = [3.0, 1.0, 4.0, 0.0, 5.0, 9.0, 3.0];
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
