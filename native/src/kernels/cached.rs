//! Attention of single new tokens over cached keys and values.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps, _mm512_sub_ps,
};

use tch::Tensor;

use super::{
    AttentionShape, Lines, by_kind, fits,
    lanes::{Element, LANES, exp, fetch},
    product::{IN_MEMORY, Left, Output, Right, product},
};

/// Attention of one new token a row over the slots `begins[row]..end` of its cache.
///
/// # Shapes
///
/// `qkv`: `[rows, columns]`, rotated; `keys`, `values`: `[rows, key_values, capacity, width]`; all of them
/// [`fit`](super::fits) → `[rows, queries × width]`.
///
/// # Panics
///
/// If shapes do not go together, or more than sixteen queries share a key.
pub fn attend_cached(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    shape: AttentionShape,
    begins: &[usize],
    end: usize,
) -> Tensor {
    let fit = [qkv, keys, values].iter().all(|tensor| fits(tensor) && tensor.kind() == qkv.kind());
    assert!(fit && keys.dim() == 4, "contiguous tensors of one kind");
    let capacity = keys.size()[2] as usize;
    let output = Tensor::empty([qkv.size()[0], (shape.queries * shape.width) as i64], (qkv.kind(), qkv.device()));
    by_kind!(qkv.kind(), rows(qkv, keys, values, shape, begins, end, capacity, &output));
    output
}

#[expect(clippy::too_many_arguments, reason = "the arguments of `attend_cached`, and where the result goes")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows<E: Element>(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    shape: AttentionShape,
    begins: &[usize],
    end: usize,
    capacity: usize,
    output: &Tensor,
) {
    let (qkv, output) = (Lines::<E>::of(qkv), Lines::<E>::of(output));
    let (keys, values) = (Lines::<E>::of(keys), Lines::<E>::of(values));
    let (width, repeats) = (shape.width, shape.queries / shape.key_values);
    let slots = qkv.count * shape.key_values * capacity;
    assert!(qkv.width == shape.columns() && keys.width == width && values.width == width, "lines of a head each");
    assert!(keys.count == slots && values.count == slots && begins.len() == qkv.count, "a cache for each row");
    assert!(end <= capacity && begins.iter().all(|&begin| begin < end), "slots within the cache");
    assert!(repeats <= LANES && width % LANES == 0, "at most {LANES} queries a key, heads of whole vectors");
    assert!(repeats * shape.key_values == shape.queries, "as many queries for each key");
    let depth = width / E::PACKED;
    let mut queries = vec![0_i32; depth * LANES];
    let mut scores = vec![0.0_f32; end * LANES];
    let factor = _mm512_set1_ps(shape.scale);
    for (row, &begin) in begins.iter().enumerate() {
        for group in 0..shape.key_values {
            let first = (row * shape.key_values + group) * capacity + begin;
            let count = end - begin;
            // SAFETY: the slots of this row and group lie within the cache, the group's queries within the line.
            unsafe {
                // The queries that share a key side by side, one a lane.
                for repeat in 0..repeats {
                    let line = qkv.line(row).add((group * repeats + repeat) * width).cast::<i32>();
                    for lane in 0..depth {
                        queries[lane * LANES + repeat] = line.add(lane).read_unaligned();
                    }
                }
                let left = Left { first: keys.line(first).cast_const().cast(), stride: depth };
                let right = Right { first: queries.as_ptr(), stride: LANES };
                product::<E, IN_MEMORY>(
                    left,
                    right,
                    Output { first: scores.as_mut_ptr(), stride: LANES, adds: false },
                    count,
                    1,
                    depth,
                );
                let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
                for key in 0..count {
                    largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores.as_ptr().add(key * LANES)));
                }
                let mut sum = _mm512_setzero_ps();
                for key in 0..count {
                    // To be weighed next, and far enough from the last group's for the processor not to expect it.
                    fetch(values.line(first + key), width);
                    let at = scores.as_mut_ptr().add(key * LANES);
                    let likely = exp(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(at), largest), factor));
                    sum = _mm512_add_ps(sum, likely);
                    _mm512_storeu_ps(at, likely);
                }
                let mut sums = [0.0_f32; LANES];
                _mm512_storeu_ps(sums.as_mut_ptr(), sum);
                let values = values.line(first).cast_const();
                let mut repeat = 0;
                while repeat < repeats {
                    let step = 4.min(repeats - repeat);
                    let likely = scores.as_ptr().add(repeat);
                    let to = output.line(row).add((group * repeats + repeat) * width);
                    match step {
                        1 => weigh::<E, 1>(likely, values, count, width, &sums[repeat..], to),
                        2 => weigh::<E, 2>(likely, values, count, width, &sums[repeat..], to),
                        3 => weigh::<E, 3>(likely, values, count, width, &sums[repeat..], to),
                        _ => weigh::<E, 4>(likely, values, count, width, &sums[repeat..], to),
                    }
                    repeat += step;
                }
            }
        }
    }
}

/// Sums of values, weighed by what each of some queries finds in their keys.
///
/// # Safety
///
/// There are `count` lines of sixteen weights and of `width` values, and `QUERIES` lines of `width` numbers to write.
#[expect(clippy::needless_range_loop, reason = "as in `product`: loops over indices keep the sums in registers")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn weigh<E: Element, const QUERIES: usize>(
    likely: *const f32,
    values: *const E,
    count: usize,
    width: usize,
    sums: &[f32],
    to: *mut E,
) {
    let mut column = 0;
    while column < width {
        // SAFETY: the caller's.
        unsafe {
            // Two vectors at a time, where there are two.
            let second = if column + LANES < width { LANES } else { 0 };
            let mut attended = [[_mm512_setzero_ps(); 2]; QUERIES];
            for key in 0..count {
                let line = values.add(key * width + column);
                let (low, high) = (E::load(line), E::load(line.add(second)));
                for query in 0..QUERIES {
                    let weight = _mm512_set1_ps(*likely.add(key * LANES + query));
                    attended[query][0] = _mm512_fmadd_ps(weight, low, attended[query][0]);
                    attended[query][1] = _mm512_fmadd_ps(weight, high, attended[query][1]);
                }
            }
            for query in 0..QUERIES {
                let share = _mm512_set1_ps(1.0 / sums[query]);
                let to = to.add(query * width + column);
                E::store(to, _mm512_mul_ps(attended[query][0], share));
                E::store(to.add(second), _mm512_mul_ps(attended[query][usize::from(second > 0)], share));
            }
            column += LANES + second;
        }
    }
}
