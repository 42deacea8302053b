//! The gate of an MLP, forward and backward.

use fedward_native::kernels;
use tch::Tensor;

use super::{Activation, Result};

impl Activation {
    fn apply(self, gate: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => Ok(gate.f_silu()?),
            Self::GeluTanh => Ok(gate.f_gelu("tanh")?),
        }
    }

    /// Writes the gradient of its input to `grad_gate`.
    fn apply_backward(self, gate: &Tensor, grad: &Tensor, grad_gate: &Tensor) -> Result<()> {
        let _ = match self {
            Self::Silu => gate.f_silu_backward_grad_input(grad_gate, grad)?,
            Self::GeluTanh => gate.f_gelu_backward_grad_input(grad_gate, grad, "tanh")?,
        };
        Ok(())
    }
}

/// `activation(gate) · up`.
///
/// # Shapes
///
/// `[tokens, 2 × intermediate]` → `[tokens, intermediate]`
pub(super) fn gated(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    if activation == Activation::Silu && gate_fits(gate_up) {
        return Ok(kernels::silu_gated(gate_up));
    }
    let [gate, up] = halves(gate_up)?;
    Ok(activation.apply(&gate)?.f_mul_(&up)?)
}

/// Gradient of [`gated`].
///
/// # Shapes
///
/// `gate_up`: `[tokens, 2 × intermediate]`, `grad`: `[tokens, intermediate]` → `[tokens, 2 × intermediate]`.
pub(super) fn gated_backward(gate_up: &Tensor, mut grad: Tensor, activation: Activation) -> Result<Tensor> {
    if activation == Activation::Silu && gate_fits(gate_up) && kernels::fits(&grad) {
        return Ok(kernels::silu_gated_backward(gate_up, &grad));
    }
    let output = Tensor::f_empty(gate_up.size(), (gate_up.kind(), gate_up.device()))?;
    let [gate, up] = halves(gate_up)?;
    let [grad_gate, grad_up] = halves(&output)?;
    let _ = grad.f_mul_out(&grad_up, &activation.apply(&gate)?)?;
    let grad = grad.f_mul_(&up)?;
    activation.apply_backward(&gate, &grad, &grad_gate)?;
    Ok(output)
}

/// Whether a kernel can take both halves.
fn gate_fits(gate_up: &Tensor) -> bool {
    kernels::fits(gate_up) && gate_up.size()[1] % 32 == 0
}

fn halves(fused: &Tensor) -> Result<[Tensor; 2]> {
    let Ok(halves) = fused.f_chunk(2, 1)?.try_into() else { unreachable!("two chunks of an even number of columns") };
    Ok(halves)
}
