//! The values of each coordinate in order, for rules that work coordinate by coordinate.

use rayon::prelude::*;

/// Coordinates that are sorted side by side.
pub const WIDTH: usize = 16;

/// Coordinates that are copied from each vector at a time: sixteen cache lines, so that reads are sequential.
const STRIP: usize = 256;

/// Sorts the n values of each coordinate and has `f` turn them into one.
///
/// `f` is given n rows of [`WIDTH`] coordinates, increasing from row to row, and where in each vector they begin; it
/// returns a number per coordinate. Sorted by Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 M), whose comparisons do not
/// depend on values, so that coordinates are compared side by side.
///
/// # Shapes
///
/// `vectors`: n of one length, which the result has, too. Values are finite.
pub fn for_each_sorted_block(vectors: &[&[f32]], f: impl Fn(&[[f32; WIDTH]]) -> [f32; WIDTH] + Sync) -> Vec<f32> {
    let (n, length) = (vectors.len(), vectors.first().map_or(0, |first| first.len()));
    let comparisons = merge_exchange(n);
    let mut result = vec![0.0; length];
    result.par_chunks_mut(STRIP).enumerate().for_each_init(
        || vec![[0.0_f32; WIDTH]; n * (STRIP / WIDTH)],
        |rows, (strip, out)| {
            let start = strip * STRIP;
            for (i, vector) in vectors.iter().enumerate() {
                for (block, values) in vector[start..start + out.len()].chunks(WIDTH).enumerate() {
                    rows[block * n + i][..values.len()].copy_from_slice(values);
                }
            }
            for (block, out) in out.chunks_mut(WIDTH).enumerate() {
                let rows = &mut rows[block * n..(block + 1) * n];
                sort(rows, &comparisons);
                out.copy_from_slice(&f(rows)[..out.len()]);
            }
        },
    );
    result
}

fn sort(rows: &mut [[f32; WIDTH]], comparisons: &[(u32, u32)]) {
    for &(low, high) in comparisons {
        let (head, tail) = rows.split_at_mut(high as usize);
        let (a, b) = (&mut head[low as usize], &mut tail[0]);
        for lane in 0..WIDTH {
            let (x, y) = (a[lane], b[lane]);
            (a[lane], b[lane]) = (if x < y { x } else { y }, if x < y { y } else { x });
        }
    }
}

/// The comparisons that sort n values: pairs of places, the lower first.
fn merge_exchange(n: usize) -> Vec<(u32, u32)> {
    let mut comparisons = Vec::new();
    let mut p = 1;
    while p < n {
        let mut k = p;
        while k >= 1 {
            let mut j = k % p;
            while j + k < n {
                for i in (0..k.min(n - j - k)).filter(|i| (i + j) / (2 * p) == (i + j + k) / (2 * p)) {
                    comparisons.push(((i + j) as u32, (i + j + k) as u32));
                }
                j += 2 * k;
            }
            k /= 2;
        }
        p *= 2;
    }
    comparisons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_sorted_whatever_n_and_length() {
        for n in [1, 2, 3, 7, 16, 33, 100] {
            for length in [1, WIDTH, STRIP + WIDTH + 3] {
                let vectors: Vec<Vec<f32>> = (0..n)
                    .map(|i| (0..length).map(|k| ((i * 7919 + k * 104_729) % 1013) as f32 - 500.0).collect())
                    .collect();
                let slices: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
                for rank in [0, n / 2, n - 1] {
                    let found = for_each_sorted_block(&slices, |rows| rows[rank]);
                    for k in 0..length {
                        let mut column: Vec<f32> = vectors.iter().map(|vector| vector[k]).collect();
                        column.sort_by(f32::total_cmp);
                        assert_eq!(found[k].to_bits(), column[rank].to_bits(), "{n} {length}: {k}");
                    }
                }
            }
        }
    }
}
