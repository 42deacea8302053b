//! Cross-entropy of many classes.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_max_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_sub_ps,
};

use tch::Tensor;

use super::{
    Lines, by_kind,
    lanes::{Element, LANES, exp},
};

/// Negative log-likelihoods of targets, one a line of logits. With `gradient` the logits become the gradient of these.
///
/// # Shapes
///
/// `logits`: `[targets, classes]`, which [`fits`](super::fits).
///
/// # Panics
///
/// If there are fewer lines than targets, or a target is no class.
pub fn cross_entropy(logits: &Tensor, targets: &[i64], gradient: bool) -> Vec<f32> {
    by_kind!(logits.kind(), lines(logits, targets, gradient))
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn lines<E: Element>(logits: &Tensor, targets: &[i64], gradient: bool) -> Vec<f32> {
    let logits = Lines::<E>::of(logits);
    let width = logits.width;
    assert_eq!(width % LANES, 0, "classes in whole vectors");
    let mut losses = Vec::with_capacity(targets.len());
    for (index, &target) in targets.iter().enumerate() {
        let (line, target) = (logits.line(index), target as usize);
        assert!(target < width, "target {target} of {width} classes");
        // SAFETY: the line is `width` long, a multiple of the vector's length, and the target within it.
        unsafe {
            let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
            for column in (0..width).step_by(LANES) {
                largest = _mm512_max_ps(largest, E::load(line.add(column)));
            }
            let largest = _mm512_reduce_max_ps(largest);
            let offset = _mm512_set1_ps(largest);
            let mut sum = _mm512_setzero_ps();
            for column in (0..width).step_by(LANES) {
                sum = _mm512_add_ps(sum, exp(_mm512_sub_ps(E::load(line.add(column)), offset)));
            }
            let log_sum = largest + _mm512_reduce_add_ps(sum).ln();
            losses.push(log_sum - number(line.add(target)));
            if gradient {
                // The distribution minus the target's one-hot vector.
                let offset = _mm512_set1_ps(log_sum);
                let certain = number(line.add(target)) - log_sum;
                for column in (0..width).step_by(LANES) {
                    E::store(line.add(column), exp(_mm512_sub_ps(E::load(line.add(column)), offset)));
                }
                put(line.add(target), certain.exp_m1());
            }
        }
    }
    losses
}

/// # Safety
///
/// `at` is readable and `E` is either of two kinds.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn number<E: Element>(at: *const E) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        if E::PACKED == 1 { at.cast::<f32>().read() } else { f32::from_bits(u32::from(at.cast::<u16>().read()) << 16) }
    }
}

/// # Safety
///
/// `at` is writable and `E` is either of two kinds.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn put<E: Element>(at: *mut E, value: f32) {
    let mut line = [0.0_f32; LANES];
    // SAFETY: a vector of its own; then the caller's.
    unsafe {
        E::store(line.as_mut_ptr().cast(), _mm512_set1_ps(value));
        at.write(line.as_ptr().cast::<E>().read());
    }
}
