//! The gated unit with SiLU.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_div_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_sub_ps,
};

use tch::Tensor;

use super::{
    Lines, by_kind,
    lanes::{Element, LANES, exp},
};

/// `silu(gate) · up`, where a line holds the gate's numbers and then the up projection's.
///
/// # Shapes
///
/// `gate_up`: `[tokens, 2 × intermediate]` → `[tokens, intermediate]`, both of which [`fit`](super::fits).
pub fn silu_gated(gate_up: &Tensor) -> Tensor {
    let width = gate_up.size()[1] / 2;
    let output = Tensor::empty([gate_up.size()[0], width], (gate_up.kind(), gate_up.device()));
    by_kind!(gate_up.kind(), forward(gate_up, &output));
    output
}

/// `1 / (1 + e⁻ˣ)`
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn sigmoid(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))))
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn forward<E: Element>(gate_up: &Tensor, output: &Tensor) {
    let (gate_up, output) = (Lines::<E>::of(gate_up), Lines::<E>::of(output));
    let width = output.width;
    assert!(gate_up.width == 2 * width && width % LANES == 0, "a line holds gate and up, whole vectors each");
    for index in 0..gate_up.count {
        let (from, to) = (gate_up.line(index), output.line(index));
        for column in (0..width).step_by(LANES) {
            // SAFETY: `to` is `width` long, a multiple of the vector's length, and `from` twice that.
            unsafe {
                let (gate, up) = (E::load(from.add(column)), E::load(from.add(width + column)));
                E::store(to.add(column), _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up));
            }
        }
    }
}

/// Gradient of [`silu_gated`].
///
/// # Shapes
///
/// `gate_up`: `[tokens, 2 × intermediate]`, `grad`: `[tokens, intermediate]` → like `gate_up`.
pub fn silu_gated_backward(gate_up: &Tensor, grad: &Tensor) -> Tensor {
    let output = super::empty_like(gate_up);
    by_kind!(gate_up.kind(), backward(gate_up, grad, &output));
    output
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn backward<E: Element>(gate_up: &Tensor, grad: &Tensor, output: &Tensor) {
    let (gate_up, grad, output) = (Lines::<E>::of(gate_up), Lines::<E>::of(grad), Lines::<E>::of(output));
    let width = grad.width;
    assert!(gate_up.width == 2 * width && width % LANES == 0, "a line holds gate and up, whole vectors each");
    let one = _mm512_set1_ps(1.0);
    for index in 0..gate_up.count {
        let (from, grad, to) = (gate_up.line(index), grad.line(index), output.line(index));
        for column in (0..width).step_by(LANES) {
            // SAFETY: `grad` is `width` long, a multiple of the vector's length, the others twice that.
            unsafe {
                let (gate, up) = (E::load(from.add(column)), E::load(from.add(width + column)));
                let grad = E::load(grad.add(column));
                let share = sigmoid(gate);
                // The derivative of x σ(x) is σ(x) (1 + x (1 − σ(x))).
                let slope = _mm512_mul_ps(share, _mm512_fmadd_ps(gate, _mm512_sub_ps(one, share), one));
                E::store(to.add(column), _mm512_mul_ps(_mm512_mul_ps(grad, up), slope));
                E::store(to.add(width + column), _mm512_mul_ps(grad, _mm512_mul_ps(gate, share)));
            }
        }
    }
}
