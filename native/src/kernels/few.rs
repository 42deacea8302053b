//! The product of a weight matrix with the states of a few tokens.

use std::arch::x86_64::{
    _mm512_add_epi32, _mm512_i32gather_ps, _mm512_mullo_epi32, _mm512_set1_epi32, _mm512_setr_epi32,
};

use tch::Tensor;

use super::{
    Lines, by_kind, fits,
    lanes::{Element, LANES},
    product::{Left, Output, Right, product},
};

/// Most tokens: four vectors.
pub const MOST_TOKENS: usize = 64;

/// Lines of the weights whose products are computed before they are put in their places.
const BLOCK: usize = 16;

/// `x Wᵀ` for up to [`MOST_TOKENS`] tokens; nothing where libtorch has to do it.
///
/// Weights are read once, line by line and as they lie in memory, each number against all tokens: with few tokens, putting
/// them into another order first takes as long as the product.
///
/// # Shapes
///
/// `states`: `[tokens, inputs]`, `weight`: `[outputs, inputs]` → `[tokens, outputs]`.
pub fn few_tokens_product(states: &Tensor, weight: &Tensor) -> Option<Tensor> {
    let (tokens, outputs) = (states.size()[0], weight.size()[0]);
    let fit = fits(states) && fits(weight) && states.kind() == weight.kind() && states.size()[1] == weight.size()[1];
    if !fit || tokens > MOST_TOKENS as i64 || outputs % BLOCK as i64 != 0 {
        return None;
    }
    let output = Tensor::empty([tokens, outputs], (states.kind(), states.device()));
    by_kind!(states.kind(), few(states, weight, &output));
    Some(output)
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn few<E: Element>(states: &Tensor, weight: &Tensor, output: &Tensor) {
    let (states, weight, output) = (Lines::<E>::of(states), Lines::<E>::of(weight), Lines::<E>::of(output));
    let depth = states.width / E::PACKED;
    let vectors = states.count.div_ceil(LANES);
    let stride = vectors * LANES;
    // Tokens side by side.
    let mut across = vec![0_i32; depth * stride];
    for token in 0..states.count {
        let line = states.line(token).cast::<i32>();
        for lane in 0..depth {
            // SAFETY: the line holds `depth` lanes.
            across[lane * stride + token] = unsafe { line.add(lane).read_unaligned() };
        }
    }
    let right = Right { first: across.as_ptr(), stride };
    let mut sums = vec![0.0_f32; BLOCK * stride];
    let to = Output { first: sums.as_mut_ptr(), stride, adds: false };
    let places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let lines = _mm512_mullo_epi32(places, _mm512_set1_epi32(stride as i32));
    for first in (0..weight.count).step_by(BLOCK) {
        // SAFETY: `few_tokens_product` has seen that lines come in whole blocks; `sums` holds a block for all tokens.
        unsafe {
            let left = Left { first: weight.line(first).cast_const().cast(), stride: depth };
            product::<E>(left, right, to, BLOCK, vectors, depth);
            for token in 0..states.count {
                let at = _mm512_add_epi32(lines, _mm512_set1_epi32(token as i32));
                E::store(output.line(token).add(first), _mm512_i32gather_ps::<4>(at, sums.as_ptr()));
            }
        }
    }
}
