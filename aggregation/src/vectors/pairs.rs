//! Products and distances of all pairs of vectors.

use super::sum_over_chunks;

/// Values that are added up in `f32` before they enter a sum in `f64`.
const BLOCK: usize = 256;

/// Sums side by side in a block.
const LANES: usize = 8;

/// Vectors that one vector is held against in one pass over its block.
const TOGETHER: usize = 4;

/// A symmetric matrix of numbers, one for each pair of n vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    n: usize,
    values: Vec<f64>,
}

impl Pairs {
    /// Returns n.
    pub const fn len(&self) -> usize {
        self.n
    }

    /// Whether it is of no vectors.
    pub const fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Returns the number of the pair of vectors i and j.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.n + j]
    }

    /// Returns the numbers of vector i with each vector, itself included.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.n..(i + 1) * self.n]
    }
}

/// Computes ‖`x_i` − `x_j‖²` of all pairs, from differences and so without the cancellation of
/// ‖`x_i‖²` + ‖`x_j‖²` − `2⟨x_i`, `x_j⟩`: relative error about 1e-7.
///
/// # Shapes
///
/// `vectors`: n of one length.
pub fn squared_distances(vectors: &[&[f32]]) -> Pairs {
    all_pairs(vectors, |a, b| {
        let difference = a - b;
        difference * difference
    })
}

/// Computes ⟨`x_i`, `x_j`⟩ of all pairs; error about 1e-7 of ‖`x_i‖·‖x_j`‖.
///
/// # Shapes
///
/// `vectors`: n of one length.
pub fn dot_products(vectors: &[&[f32]]) -> Pairs {
    all_pairs(vectors, |a, b| a * b)
}

fn all_pairs(vectors: &[&[f32]], term: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Pairs {
    let n = vectors.len();
    let length = vectors.first().map_or(0, |first| first.len());
    let mut values = sum_over_chunks(length, n * n, |chunk| {
        let mut sums = vec![0.0; n * n];
        let mut start = chunk.start;
        while start < chunk.end {
            let end = chunk.end.min(start + BLOCK);
            for i in 0..n {
                // A row's pairs with itself and later ones, as many together as go.
                let mut j = i;
                while j + TOGETHER <= n {
                    let others = std::array::from_fn(|k| &vectors[j + k][start..end]);
                    let found = block_of_four(&vectors[i][start..end], others, term);
                    for (k, found) in found.into_iter().enumerate() {
                        sums[i * n + j + k] += found;
                    }
                    j += TOGETHER;
                }
                for j in j..n {
                    sums[i * n + j] += block_of_one(&vectors[i][start..end], &vectors[j][start..end], term);
                }
            }
            start = end;
        }
        sums
    });
    for i in 0..n {
        for j in 0..i {
            values[i * n + j] = values[j * n + i];
        }
    }
    Pairs { n, values }
}

fn block_of_four(a: &[f32], others: [&[f32]; TOGETHER], term: impl Fn(f32, f32) -> f32 + Copy) -> [f64; TOGETHER] {
    let (heads, tail) = a.as_chunks::<LANES>();
    let blocks = others.map(|other| &other.as_chunks::<LANES>().0[..heads.len()]);
    let mut sums = [[0.0_f32; LANES]; TOGETHER];
    for (index, a) in heads.iter().enumerate() {
        for k in 0..TOGETHER {
            let b = &blocks[k][index];
            for lane in 0..LANES {
                sums[k][lane] += term(a[lane], b[lane]);
            }
        }
    }
    let from = a.len() - tail.len();
    std::array::from_fn(|k| wide(&sums[k]) + rest(tail, &others[k][from..], term))
}

fn block_of_one(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32 + Copy) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += term(a[lane], b[lane]);
        }
    }
    wide(&sums) + rest(a_rest, b_rest, term)
}

fn wide(sums: &[f32; LANES]) -> f64 {
    sums.iter().map(|&sum| f64::from(sum)).sum()
}

fn rest(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(term(a, b))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_those_of_plain_sums_whatever_n_and_length() {
        for (n, length) in [(1, 3), (3, 7), (4, 8), (6, 300), (9, (1 << 16) + 5)] {
            let vectors: Vec<Vec<f32>> =
                (0..n).map(|i| (0..length).map(|k| ((i * 31 + k * 17) % 101) as f32 * 0.02 - 1.0).collect()).collect();
            let slices: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
            let (distances, products) = (squared_distances(&slices), dot_products(&slices));
            for i in 0..n {
                for j in 0..n {
                    let pairs = || vectors[i].iter().zip(&vectors[j]).map(|(&a, &b)| (f64::from(a), f64::from(b)));
                    let (distance, product) =
                        (pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>(), pairs().map(|(a, b)| a * b).sum::<f64>());
                    assert!((distances.get(i, j) - distance).abs() <= 1e-6 * distance, "{n} {length}: {i} {j}");
                    assert!((products.get(i, j) - product).abs() <= 1e-6 * length as f64, "{n} {length}: {i} {j}");
                }
            }
            assert_eq!(distances.row(0).len(), n);
        }
    }

    #[test]
    fn what_vectors_have_in_common_does_not_hide_their_distance() {
        let (a, b) = (vec![1e4_f32; 1000], vec![1e4_f32 + 0.125; 1000]);
        let found = squared_distances(&[&a, &b]).get(0, 1);
        assert!((found - 1000.0 / 64.0).abs() < 1e-6, "{found}");
    }
}
