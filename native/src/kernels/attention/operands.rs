//! What attention's products read and leave, as they want it to lie.

use std::arch::x86_64::{
    _mm512_and_si512, _mm512_castps_si512, _mm512_loadu_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_si512, _mm512_srli_epi32, _mm512_storeu_si512,
};

use super::{Element, LANES, Left, Lines, Right, Segment};

/// Lines of a tensor from a token and a column on, as the left-hand side of a product.
///
/// # Safety
///
/// Token and column exist.
#[inline]
pub(super) unsafe fn lines_of<E: Element>(lines: Lines<E>, token: usize, column: usize) -> Left {
    // SAFETY: the caller's.
    Left { first: unsafe { lines.line(token).add(column) }.cast_const().cast(), stride: lines.width / E::PACKED }
}

#[inline]
pub(super) fn matrix(lanes: &[i32], stride: usize) -> Right {
    Right { first: lanes.as_ptr(), stride }
}

/// Numbers times a factor, in the kind of the states.
///
/// # Safety
///
/// Both hold `width` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn store_scaled<E: Element>(from: *const f32, factor: f32, to: *mut E, width: usize) {
    let factor = _mm512_set1_ps(factor);
    for column in (0..width).step_by(LANES) {
        // SAFETY: the caller's.
        unsafe { E::store(to.add(column), _mm512_mul_ps(_mm512_loadu_ps(from.add(column)), factor)) };
    }
}

/// A segment's keys (or values) as the right-hand side of a product over a head's numbers.
///
/// # Shapes
///
/// → `[width / PACKED][padded]`
///
/// # Safety
///
/// Tokens and columns exist.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn across<E: Element>(
    qkv: Lines<E>,
    segment: Segment,
    column: usize,
    width: usize,
    padded: usize,
    to: &mut [i32],
) {
    for key in 0..segment.keys() {
        // SAFETY: the caller's.
        let line = unsafe { qkv.line(segment.token(key)).add(column) }.cast_const().cast::<i32>();
        for lane in 0..width / E::PACKED {
            // SAFETY: the same.
            to[lane * padded + key] = unsafe { line.add(lane).read_unaligned() };
        }
    }
}

/// A segment's keys (or values) as the right-hand side of a product over keys.
///
/// # Shapes
///
/// → `[padded / PACKED][width]`
///
/// # Safety
///
/// Tokens and columns exist.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn along<E: Element>(qkv: Lines<E>, segment: Segment, column: usize, width: usize, to: &mut [i32]) {
    for (lane, to) in to.chunks_exact_mut(width).enumerate() {
        let key = lane * E::PACKED;
        if key >= segment.keys() {
            to.fill(0);
            continue;
        }
        // SAFETY: the caller's.
        unsafe {
            let line = qkv.line(segment.token(key)).add(column);
            let next = (key + 1 < segment.keys()).then(|| qkv.line(segment.token(key + 1)).add(column));
            pack::<E>(line, next.filter(|_| E::PACKED == 2), to.as_mut_ptr(), width, 1);
        }
    }
}

/// Lines of a tensor, transposed, as the left-hand side of a product over tokens.
///
/// # Shapes
///
/// → `[width][tokens / PACKED, rounded up]`
///
/// # Safety
///
/// Tokens and columns exist.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn down<E: Element>(
    lines: Lines<E>,
    token: usize,
    tokens: usize,
    column: usize,
    width: usize,
    to: &mut [i32],
) {
    let depth = tokens.div_ceil(E::PACKED);
    for lane in 0..depth {
        let own = lane * E::PACKED;
        // SAFETY: the caller's.
        unsafe {
            let line = lines.line(token + own).add(column);
            let next = (own + 1 < tokens).then(|| lines.line(token + own + 1).add(column));
            pack::<E>(line, next.filter(|_| E::PACKED == 2), to.as_mut_ptr().add(lane), width, depth);
        }
    }
}

/// Puts a number of each of two lines into each 32-bit lane, zero where there is no second one; `stride` lanes apart. Where a
/// number takes a lane, `next` is nothing.
///
/// # Safety
///
/// The lines hold `width` numbers, and there are that many lanes.
#[inline]
unsafe fn pack<E: Element>(line: *const E, next: Option<*mut E>, to: *mut i32, width: usize, stride: usize) {
    for index in 0..width {
        // SAFETY: the caller's; a number of one lane is 32 bits long, one of two 16.
        unsafe {
            let lane = if E::PACKED == 1 {
                line.add(index).cast::<i32>().read()
            } else {
                let low = line.add(index).cast::<u16>().read();
                let high = next.map_or(0, |next| next.add(index).cast::<u16>().read());
                (u32::from(low) | u32::from(high) << 16).cast_signed()
            };
            to.add(index * stride).write(lane);
        }
    }
}

/// A line (for numbers of 16 bits: two) of a few queries' numbers as lanes: the first `vectors` vectors, then zero up to
/// `written`.
///
/// # Safety
///
/// `numbers` has lines of `padded` numbers for all `rows`, and `to` has room for `written` vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn interleave<E: Element>(
    numbers: &[f32],
    padded: usize,
    pair: usize,
    rows: usize,
    vectors: usize,
    written: usize,
    to: *mut i32,
) {
    let row = pair * E::PACKED;
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    for vector in 0..written {
        let number = |row: usize| {
            if row < rows && vector < vectors {
                // SAFETY: the caller's.
                _mm512_castps_si512(unsafe {
                    E::rounded(_mm512_loadu_ps(numbers.as_ptr().add(row * padded + vector * LANES)))
                })
            } else {
                _mm512_setzero_si512()
            }
        };
        let lanes = if E::PACKED == 1 {
            number(row)
        } else {
            _mm512_or_si512(_mm512_srli_epi32::<16>(number(row)), _mm512_and_si512(number(row + 1), upper))
        };
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_si512(to.add(vector * LANES).cast(), lanes) };
    }
}
