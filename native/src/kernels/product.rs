//! Small matrix products, whose operands lie in caches or are fetched ahead.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_ps,
};

use super::lanes::{Element, LANES, fetch};

/// A matrix of 32-bit lanes and the lanes from one of its lines to the next.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) first: *const i32,
    pub(super) stride: usize,
}

/// The right-hand matrix: 32-bit lanes, `depth` lines of a multiple of sixteen columns.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub(super) first: *const i32,
    pub(super) stride: usize,
}

/// Where the product goes.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) first: *mut f32,
    pub(super) stride: usize,
    /// Adds to what is there instead of replacing it.
    pub(super) adds: bool,
}

/// Where the left-hand matrix of a [`product`] lies: in caches,
pub(super) const IN_CACHES: bool = false;
/// or in memory. Then, while some of its lines are multiplied, those behind them are fetched into caches, which the processor does by
/// itself only along each line.
pub(super) const IN_MEMORY: bool = true;

/// `output = left · right` with `rows` lines, `vectors` × 16 columns and `depth` lanes in between.
///
/// # Safety
///
/// The matrices are as large as that.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn product<E: Element, const PLACE: bool>(
    left: Left,
    right: Right,
    output: Output,
    rows: usize,
    vectors: usize,
    depth: usize,
) {
    let mut vector = 0;
    while vector < vectors {
        // Eight lines by three vectors fill the registers; of four vectors, two and two are better than three and one.
        let wide = match vectors - vector {
            1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        // SAFETY: columns from `vector` on are within the matrices.
        unsafe {
            let right = Right { first: right.first.add(vector * LANES), ..right };
            let output = Output { first: output.first.add(vector * LANES), ..output };
            match wide {
                1 => column::<E, 1, PLACE>(left, right, output, rows, depth),
                2 => column::<E, 2, PLACE>(left, right, output, rows, depth),
                _ => column::<E, 3, PLACE>(left, right, output, rows, depth),
            }
        }
        vector += wide;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn column<E: Element, const WIDE: usize, const PLACE: bool>(
    left: Left,
    right: Right,
    output: Output,
    rows: usize,
    depth: usize,
) {
    let mut row = 0;
    while row < rows {
        // SAFETY: lines from `row` on are within the matrices.
        unsafe {
            let left = Left { first: left.first.add(row * left.stride), ..left };
            let output = Output { first: output.first.add(row * output.stride), ..output };
            match rows - row {
                8.. => tile::<E, 8, WIDE, PLACE>(left, right, output, depth),
                4.. => tile::<E, 4, WIDE, PLACE>(left, right, output, depth),
                2.. => tile::<E, 2, WIDE, PLACE>(left, right, output, depth),
                _ => tile::<E, 1, WIDE, PLACE>(left, right, output, depth),
            }
        }
        row += match rows - row {
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
    }
}

#[expect(
    clippy::needless_range_loop,
    reason = "loops over indices become straight code that keeps the sums in registers; iterators are not inlined here"
)]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<E: Element, const ROWS: usize, const WIDE: usize, const PLACE: bool>(
    left: Left,
    right: Right,
    output: Output,
    depth: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); WIDE]; ROWS];
        for lane in 0..depth {
            if PLACE == IN_MEMORY && lane.is_multiple_of(LANES) {
                for row in ROWS..2 * ROWS {
                    // Behind the last line lies the next block's first, or what nobody needs; that may be outside of the tensor.
                    fetch(left.first.wrapping_add(row * left.stride + lane), LANES);
                }
            }
            let line = right.first.add(lane * right.stride);
            let mut columns = [_mm512_setzero_si512(); WIDE];
            for vector in 0..WIDE {
                columns[vector] = _mm512_loadu_si512(line.add(vector * LANES).cast());
            }
            for row in 0..ROWS {
                let number = _mm512_set1_epi32(left.first.add(row * left.stride + lane).read_unaligned());
                for vector in 0..WIDE {
                    sums[row][vector] = E::dot(sums[row][vector], number, columns[vector]);
                }
            }
        }
        for row in 0..ROWS {
            for vector in 0..WIDE {
                let to = output.first.add(row * output.stride + vector * LANES);
                let sum = sums[row][vector];
                let sum = if output.adds { _mm512_add_ps(sum, _mm512_loadu_ps(to)) } else { sum };
                _mm512_storeu_ps(to, sum);
            }
        }
    }
}
