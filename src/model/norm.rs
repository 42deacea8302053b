//! The gradient of root-mean-square norms.

use fedward_native::{cuda, kernels};
use tch::{Kind, Tensor};

use super::Result;

/// What the backward pass of an RMS norm needs.
///
/// # Shapes
///
/// `normed`, `states`: `[tokens, hidden]`, `inverse_rms`: `[tokens, 1]`; of heads `[tokens, heads, head_dim]` and
/// `[tokens, heads, 1]`.
pub(crate) enum NormTape {
    /// The input divided by its root mean square.
    Normed { normed: Tensor, inverse_rms: Tensor },
    /// The input as it was, where libtorch has a kernel for the whole backward pass.
    Fused { states: Tensor, inverse_rms: Tensor },
}

/// Adds the gradient of a norm's input to `grad`.
///
/// # Shapes
///
/// `grad`, `grad_output`: `[tokens, hidden]`, `weight`: `[hidden]`; of heads as in the forward pass.
pub(crate) fn norm_backward(
    grad: &mut Tensor,
    mut grad_output: Tensor,
    tape: &NormTape,
    weight: &Tensor,
) -> Result<()> {
    let (normed, inverse_rms) = match tape {
        NormTape::Normed { normed, inverse_rms } => (normed, inverse_rms),
        NormTape::Fused { states, inverse_rms } => {
            let _ = grad.f_add_(&cuda::rms_norm_backward(&grad_output, states, inverse_rms, weight)?)?;
            return Ok(());
        }
    };
    // A tape of libtorch's has inverses in the kind of the states.
    let fits = kernels::fits(grad) && kernels::fits(&grad_output) && kernels::fits(normed);
    if weight.dim() == 1 && fits && inverse_rms.kind() == Kind::Float {
        kernels::rms_norm_backward(grad, &grad_output, normed, inverse_rms, weight);
        return Ok(());
    }
    let mut grad_normed = grad_output.f_mul_(weight)?;
    let along = grad_normed.f_mul(normed)?.f_mean_dim([-1_i64].as_slice(), true, None::<Kind>)?.f_neg_()?;
    let across = grad_normed.f_addcmul_(normed, &along)?;
    let _ = grad.f_addcmul_(&across, inverse_rms)?;
    Ok(())
}

/// The gradient of a norm's input, given that of its output; the same tensor where there is no norm.
pub(super) fn behind_norm(grad: &Tensor, tape: Option<&NormTape>, weight: Option<&Tensor>) -> Result<Tensor> {
    let (Some(tape), Some(weight)) = (tape, weight) else { return Ok(grad.shallow_clone()) };
    let mut copy = grad.f_empty_like()?;
    copy.f_copy_(grad)?;
    let mut before = copy.f_zeros_like()?;
    norm_backward(&mut before, copy, tape, weight)?;
    Ok(before)
}
