//! Sixteen numbers at a time: how the two kinds of numbers are read, written and multiplied.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT,
    _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
    _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps,
    _mm512_mask_mov_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps,
    _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_unpackhi_ps,
    _mm512_unpacklo_ps,
};

/// Numbers in one vector.
pub(super) const LANES: usize = 16;

/// A kind of number that kernels read and write; they compute in `f32`.
///
/// All methods need the features that [`super::available`] checks.
pub(super) trait Element: Copy {
    /// Numbers of this kind in 32 bits: [`Element::dot`] multiplies that many pairs a lane.
    const PACKED: usize;

    /// # Safety
    ///
    /// Sixteen numbers can be read.
    unsafe fn load(from: *const Self) -> __m512;

    /// # Safety
    ///
    /// Sixteen numbers can be written.
    unsafe fn store(to: *mut Self, values: __m512);

    /// The same, each rounded to this kind.
    ///
    /// # Safety
    ///
    /// The features are there.
    unsafe fn rounded(values: __m512) -> __m512;

    /// `sum + a · b`, where each lane holds [`Element::PACKED`] numbers.
    ///
    /// # Safety
    ///
    /// The features are there.
    unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512;
}

impl Element for f32 {
    const PACKED: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn store(to: *mut Self, values: __m512) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(to, values) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn rounded(values: __m512) -> __m512 {
        values
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
    }
}

/// A bfloat16: the upper half of an `f32`.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Bf16(pub(super) u16);

impl Element for Bf16 {
    const PACKED: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller's.
        let halves = unsafe { _mm256_loadu_si256(from.cast::<__m256i>()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn store(to: *mut Self, values: __m512) {
        // SAFETY: two names of the same 256 bits; the caller's.
        unsafe {
            let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
            _mm256_storeu_si256(to.cast::<__m256i>(), halves);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn rounded(values: __m512) -> __m512 {
        // SAFETY: two names of the same 256 bits.
        let halves = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: two names of the same 512 bits.
        let (a, b) =
            unsafe { (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b)) };
        _mm512_dpbf16_ps(sum, a, b)
    }
}

/// Asks for the numbers of a line, which need not be there, to be brought into caches.
#[inline]
pub(super) fn fetch<E>(line: *const E, numbers: usize) {
    const CACHE_LINE: usize = 64;
    for at in (0..numbers).step_by(CACHE_LINE / size_of::<E>()) {
        // SAFETY: every processor with vectors has it, and it does nothing but fill caches, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(at).cast()) };
    }
}

/// A mask of the first `count` lanes: at most sixteen.
pub(super) fn first_lanes(count: usize) -> u16 {
    ((1_u32 << count) - 1) as u16
}

/// Turns sixteen lines of sixteen numbers into columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn transposed(lines: &[__m512; LANES]) -> [__m512; LANES] {
    // Within 128 bits: pairs of lines, then fours of them. Column `4 block + place` of the lines `4 four..` is now in 128 bits
    // `block` of `fours[4 four + place]`.
    let mut fours = *lines;
    for four in 0..4 {
        let first = 4 * four;
        let (a, b, c, d) = (lines[first], lines[first + 1], lines[first + 2], lines[first + 3]);
        let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        fours[first] = _mm512_shuffle_ps::<0x44>(ab_low, cd_low);
        fours[first + 1] = _mm512_shuffle_ps::<0xee>(ab_low, cd_low);
        fours[first + 2] = _mm512_shuffle_ps::<0x44>(ab_high, cd_high);
        fours[first + 3] = _mm512_shuffle_ps::<0xee>(ab_high, cd_high);
    }
    let mut columns = *lines;
    for place in 0..4 {
        let (a, b, c, d) = (fours[place], fours[4 + place], fours[8 + place], fours[12 + place]);
        // Blocks 0 and 2, and 1 and 3, of two fours.
        let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        columns[place] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
        columns[8 + place] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
        columns[4 + place] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
        columns[12 + place] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
    }
    columns
}

/// `eˣ`, off by less than two units in the last place; 0 below -87.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn exp(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    // ln 2 in two parts, so that the subtraction is exact to the second.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let lowest = _mm512_set1_ps(-87.0);
    let too_low = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, lowest);
    let x = _mm512_max_ps(x, lowest);
    let power = _mm512_roundscale_ps::<NEAREST>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(LN2_HIGH), x);
    let rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(LN2_LOW), rest);
    // The Taylor series on [-ln 2 / 2, ln 2 / 2]; the first term left out is below 6e-9.
    let mut sum = _mm512_set1_ps(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
    }
    _mm512_mask_mov_ps(_mm512_scalef_ps(sum, power), too_low, _mm512_set1_ps(0.0))
}
