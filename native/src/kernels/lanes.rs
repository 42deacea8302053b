//! Sixteen numbers at a time: how the two kinds of numbers are read, written and multiplied.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT,
    _mm256_loadu_si256, _mm256_storeu_si256, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_mask_mov_ps,
    _mm512_max_ps, _mm512_mul_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_slli_epi32,
    _mm512_storeu_ps,
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
