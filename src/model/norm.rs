//! Root-mean-square norms, forward and backward.

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

/// Root-mean-square norm (Zhang & Sennrich, 2019) of the last dimension, computed in `f32` whatever the kind.
///
/// # Shapes
///
/// `states`: `[tokens, hidden]`, `weight`: `[hidden]` → `[tokens, hidden]`; of heads `[tokens, heads, head_dim]`,
/// `[heads, head_dim]` → `[tokens, heads, head_dim]`.
pub(super) fn rms_norm(states: &Tensor, weight: &Tensor, epsilon: f64) -> Result<(Tensor, NormTape)> {
    if weight.dim() == 1 && kernels::fits(states) {
        let (normed, output, inverse_rms) = kernels::rms_norm(states, weight, epsilon);
        return Ok((output, NormTape::Normed { normed, inverse_rms }));
    }
    if weight.dim() == 1 && states.device().is_cuda() {
        let (output, inverse_rms) = states.f_internal_fused_rms_norm(weight.size(), Some(weight), epsilon)?;
        return Ok((output, NormTape::Fused { states: states.shallow_clone(), inverse_rms }));
    }
    let kind = states.kind();
    let width = weight.size().last().copied().unwrap_or(1);
    let mut length = states.f_norm_scalaropt_dim_dtype(2.0, [-1_i64].as_slice(), true, Kind::Float)?;
    let inverse_rms = length.f_square_()?.f_mul_scalar_(1.0 / width as f64)?.f_add_scalar_(epsilon)?.f_rsqrt_()?;
    let normed = states.f_mul(&inverse_rms)?.f_to_kind(kind)?;
    let output = normed.f_mul(weight)?;
    Ok((output, NormTape::Normed { normed, inverse_rms: inverse_rms.f_to_kind(kind)? }))
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
    if let NormTape::Fused { states, inverse_rms } = tape {
        return Ok(cuda::rms_norm_backward(grad, states, inverse_rms, weight)?);
    }
    let mut copy = grad.f_empty_like()?;
    copy.f_copy_(grad)?;
    let mut before = copy.f_zeros_like()?;
    norm_backward(&mut before, copy, tape, weight)?;
    Ok(before)
}
