//! Rotary position embeddings.

use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_mul_ps};

use tch::Tensor;

use super::{
    Lines, by_kind,
    lanes::{Element, LANES},
};

/// Rotates the first `heads` heads of each line in place, in rotate-half order.
///
/// # Shapes
///
/// `states`: `[tokens, at least heads × head_dim]`, `cos`, `sin`: `[tokens, 1, 1, head_dim / 2]`; all of them
/// [`fit`](super::fits) and are of one kind.
pub fn rotate(states: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) {
    by_kind!(states.kind(), rotate_lines(states, heads, cos, sin));
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rotate_lines<E: Element>(states: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) {
    let (states, cos, sin) = (Lines::<E>::of(states), Lines::<E>::of(cos), Lines::<E>::of(sin));
    let half = cos.width;
    assert!(half == sin.width && half % LANES == 0, "as many sines as cosines, whole vectors each");
    assert!(heads * half * 2 <= states.width, "{heads} heads of {half} pairs in {} columns", states.width);
    for index in 0..states.count {
        let (line, cos, sin) = (states.line(index), cos.line(index), sin.line(index));
        for head in 0..heads {
            for pair in (0..half).step_by(LANES) {
                // SAFETY: `half` is a multiple of the vector's length, and all heads lie within the line.
                unsafe {
                    let (low, high) = (line.add(head * half * 2 + pair), line.add(head * half * 2 + half + pair));
                    let (first, second) = (E::load(low), E::load(high));
                    let (cos, sin) = (E::load(cos.add(pair)), E::load(sin.add(pair)));
                    E::store(low, _mm512_fnmadd_ps(second, sin, _mm512_mul_ps(first, cos)));
                    E::store(high, _mm512_fmadd_ps(first, sin, _mm512_mul_ps(second, cos)));
                }
            }
        }
    }
}
