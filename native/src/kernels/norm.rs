//! The root-mean-square norm.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};

use tch::{Device, Kind, Tensor};

use super::{
    Lines, by_kind,
    lanes::{Element, LANES},
};

/// The norm of each line, computed in `f32`: what is divided by the root mean square, that times the weight, and the
/// inverse of the root mean square in `f32`.
///
/// # Shapes
///
/// `states`: `[tokens, hidden]`, which [`fits`](super::fits), `weight`: `[hidden]` → twice like `states`, `[tokens, 1]`.
pub fn rms_norm(states: &Tensor, weight: &Tensor, epsilon: f64) -> (Tensor, Tensor, Tensor) {
    let (normed, output) = (super::empty_like(states), super::empty_like(states));
    let tokens = states.numel() as i64 / states.size().last().copied().unwrap_or(1).max(1);
    let inverse_rms = Tensor::empty([tokens, 1], (Kind::Float, Device::Cpu));
    by_kind!(states.kind(), forward(states, weight, epsilon as f32, &normed, &output, &inverse_rms));
    (normed, output, inverse_rms)
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn forward<E: Element>(
    states: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    normed: &Tensor,
    output: &Tensor,
    inverse_rms: &Tensor,
) {
    assert_eq!(states.kind(), weight.kind(), "numbers of one kind");
    let (states, weight) = (Lines::<E>::of(states), Lines::<E>::of(weight));
    let (weights, weight) = (weight.width, weight.line(0));
    let (normed, output, inverse_rms) = (Lines::<E>::of(normed), Lines::<E>::of(output), Lines::<f32>::of(inverse_rms));
    let width = states.width;
    assert!(normed.width == width && output.width == width && weights == width, "lines of one width");
    for index in 0..states.count {
        let (from, normed, output) = (states.line(index), normed.line(index), output.line(index));
        // SAFETY: all lines are `width` long, a multiple of the vector's length.
        unsafe {
            let mut squares = _mm512_setzero_ps();
            for column in (0..width).step_by(LANES) {
                let x = E::load(from.add(column));
                squares = _mm512_fmadd_ps(x, x, squares);
            }
            let inverse = 1.0 / (_mm512_reduce_add_ps(squares) / width as f32 + epsilon).sqrt();
            *inverse_rms.line(index) = inverse;
            let inverse = _mm512_set1_ps(inverse);
            for column in (0..width).step_by(LANES) {
                // Rounded before it is multiplied, as checkpoints were trained.
                let x = E::rounded(_mm512_mul_ps(E::load(from.add(column)), inverse));
                E::store(normed.add(column), x);
                E::store(output.add(column), _mm512_mul_ps(x, E::load(weight.add(column))));
            }
        }
    }
}

/// Adds the gradient of a norm's input to `grad`, given that of its output.
///
/// # Shapes
///
/// `grad`, `grad_output`, `normed`: `[tokens, hidden]`, `inverse_rms`: `[tokens, 1]` in `f32`, `weight`: `[hidden]`.
pub fn rms_norm_backward(grad: &Tensor, grad_output: &Tensor, normed: &Tensor, inverse_rms: &Tensor, weight: &Tensor) {
    by_kind!(grad.kind(), backward(grad, grad_output, normed, inverse_rms, weight));
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn backward<E: Element>(
    grad: &Tensor,
    grad_output: &Tensor,
    normed: &Tensor,
    inverse_rms: &Tensor,
    weight: &Tensor,
) {
    let (grad, weight) = (Lines::<E>::of(grad), Lines::<E>::of(weight));
    let (weights, weight) = (weight.width, weight.line(0));
    let (grad_output, normed, inverse_rms) =
        (Lines::<E>::of(grad_output), Lines::<E>::of(normed), Lines::<f32>::of(inverse_rms));
    let width = grad.width;
    assert!(grad_output.width == width && normed.width == width && weights == width, "lines of one width");
    for index in 0..grad.count {
        let (grad, grad_output, normed) = (grad.line(index), grad_output.line(index), normed.line(index));
        // SAFETY: all lines are `width` long, a multiple of the vector's length.
        unsafe {
            let mut along = _mm512_setzero_ps();
            for column in (0..width).step_by(LANES) {
                let weighted = _mm512_mul_ps(E::load(grad_output.add(column)), E::load(weight.add(column)));
                along = _mm512_fmadd_ps(weighted, E::load(normed.add(column)), along);
            }
            let along = _mm512_set1_ps(_mm512_reduce_add_ps(along) / width as f32);
            let inverse = _mm512_set1_ps(*inverse_rms.line(index));
            for column in (0..width).step_by(LANES) {
                let weighted = _mm512_mul_ps(E::load(grad_output.add(column)), E::load(weight.add(column)));
                let across = _mm512_fnmadd_ps(E::load(normed.add(column)), along, weighted);
                let sum = _mm512_add_ps(E::load(grad.add(column)), _mm512_mul_ps(across, inverse));
                E::store(grad.add(column), sum);
            }
        }
    }
}
