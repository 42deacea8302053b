//! The product of a weight matrix with the states of a few tokens.

use std::arch::x86_64::{_mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};

use tch::Tensor;

use super::{
    Lines, by_kind, fits,
    lanes::{Element, LANES, first_lanes, transposed},
    product::{IN_MEMORY, Left, Output, Right, product},
};

/// Most tokens: four vectors.
pub const MOST_TOKENS: usize = 64;

/// Lines of the weights whose products are computed before they are put in their places.
const BLOCK: usize = LANES;

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
    let matrices =
        states.dim() == 2 && weight.dim() == 2 && states.size()[1] == weight.size()[1] && states.size()[1] > 0;
    let fit = matrices && fits(states) && fits(weight) && states.kind() == weight.kind();
    if !fit || tokens > MOST_TOKENS as i64 || outputs % BLOCK as i64 != 0 {
        return None;
    }
    let output = Tensor::empty([tokens, outputs], (states.kind(), states.device()));
    by_kind!(states.kind(), few(states, weight, &output));
    Some(output)
}

#[expect(clippy::needless_range_loop, reason = "as in `product`: loops over indices become straight code")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn few<E: Element>(states: &Tensor, weight: &Tensor, output: &Tensor) {
    let (states, weight, output) = (Lines::<E>::of(states), Lines::<E>::of(weight), Lines::<E>::of(output));
    let depth = states.width / E::PACKED;
    let vectors = states.count.div_ceil(LANES);
    let stride = vectors * LANES;
    let side_by_side = tokens_side_by_side(&states);
    let right = Right { first: side_by_side.as_ptr().cast(), stride };
    let mut sums = vec![0.0_f32; BLOCK * stride];
    let to = Output { first: sums.as_mut_ptr(), stride, adds: false };
    for first in (0..weight.count).step_by(BLOCK) {
        // SAFETY: `few_tokens_product` has seen that weights are as wide as states, and their lines whole blocks; `sums` holds a
        // block for all tokens.
        unsafe {
            let left = Left { first: weight.line(first).cast_const().cast(), stride: depth };
            product::<E, IN_MEMORY>(left, right, to, BLOCK, vectors, depth);
            for some in (0..states.count).step_by(LANES) {
                let mut lines = [_mm512_setzero_ps(); LANES];
                for line in 0..BLOCK {
                    lines[line] = _mm512_loadu_ps(sums.as_ptr().add(line * stride + some));
                }
                let columns = transposed(&lines);
                for token in 0..LANES {
                    if some + token < states.count {
                        E::store(output.line(some + token).add(first), columns[token]);
                    }
                }
            }
        }
    }
}

/// A line for each lane, with all tokens of which there are some in whole vectors; those that are not there are zero.
#[expect(clippy::needless_range_loop, reason = "as in `product`: loops over indices become straight code")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn tokens_side_by_side<E: Element>(states: &Lines<E>) -> Vec<f32> {
    let (depth, stride) = (states.width / E::PACKED, states.count.next_multiple_of(LANES));
    let mut side_by_side = vec![0.0; depth * stride];
    for first in (0..states.count).step_by(LANES) {
        for lane in (0..depth).step_by(LANES) {
            let width = LANES.min(depth - lane);
            let mut lines = [_mm512_setzero_ps(); LANES];
            for token in 0..LANES {
                if first + token < states.count {
                    let line = states.line(first + token).cast::<f32>();
                    // SAFETY: the line holds `depth` lanes, `width` of them from `lane` on.
                    lines[token] = unsafe { _mm512_maskz_loadu_ps(first_lanes(width), line.add(lane)) };
                }
            }
            let columns = transposed(&lines);
            for place in 0..LANES {
                if place < width {
                    let to = &mut side_by_side[(lane + place) * stride + first..][..LANES];
                    // SAFETY: `to` has room for a vector.
                    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), columns[place]) };
                }
            }
        }
    }
    side_by_side
}
