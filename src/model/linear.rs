//! Linear layers and their adapters, forward and backward.

use fedward_native::kernels;
use tch::{Device, Tensor};

use super::{Result, frozen::FrozenLinear};
use crate::lora::{Dropout, LoraLinear, LoraTape};

/// Up to this many tokens, `W xᵀ` is faster on a CPU than `x Wᵀ`: the library copies the right-hand matrix into its own
/// order first, and with few tokens that copy of the weights costs as much as half of the product.
const FEW_TOKENS: i64 = kernels::MOST_TOKENS as i64;

fn few_tokens(input: &Tensor) -> bool {
    input.device() == Device::Cpu && input.size()[0] <= FEW_TOKENS
}

/// `x Wᵀ`.
///
/// # Shapes
///
/// `input`: `[tokens, inputs]`, `weight`: `[outputs, inputs]` → `[tokens, outputs]`, contiguous.
pub(super) fn product(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if !few_tokens(input) {
        return Ok(input.f_mm(&weight.f_tr()?)?);
    }
    if let Some(output) = kernels::few_tokens_product(input, weight) {
        return Ok(output);
    }
    Ok(weight.f_mm(&input.f_tr()?)?.f_tr()?.f_contiguous()?)
}

/// `x Wᵀ`, plus the adapter's share.
pub(super) fn linear(
    input: &Tensor,
    weight: &FrozenLinear,
    lora: Option<&LoraLinear>,
    dropout: Option<&mut Dropout>,
) -> Result<(Tensor, Option<LoraTape>)> {
    let output =
        if few_tokens(input) { product(input, &weight.dense()?)? } else { input.f_mm(&weight.transposed()?)? };
    let tape = lora.map(|lora| lora.add_to(input, &output, dropout)).transpose()?;
    Ok((output, tape))
}

/// `residual + x Wᵀ`, plus the adapter's share.
pub(super) fn linear_onto(
    residual: &Tensor,
    input: &Tensor,
    weight: &FrozenLinear,
    lora: Option<&LoraLinear>,
    dropout: Option<&mut Dropout>,
) -> Result<(Tensor, Option<LoraTape>)> {
    let output = if few_tokens(input) {
        product(input, &weight.dense()?)?.f_add_(residual)?
    } else {
        residual.f_addmm(input, &weight.transposed()?)?
    };
    let tape = lora.map(|lora| lora.add_to(input, &output, dropout)).transpose()?;
    Ok((output, tape))
}

/// Adds `x Wᵀ` and the adapter's share to the states themselves.
pub(super) fn add_linear(
    states: &mut Tensor,
    input: &Tensor,
    weight: &FrozenLinear,
    lora: Option<&LoraLinear>,
) -> Result<()> {
    let _ = if few_tokens(input) {
        states.f_add_(&product(input, &weight.dense()?)?)?
    } else {
        states.f_addmm_(input, &weight.transposed()?)?
    };
    if let Some(lora) = lora {
        let _ = lora.add_to(input, states, None)?;
    }
    Ok(())
}

/// Gradient of the input of a linear layer; that of its adapter goes to `grads`.
pub(super) fn linear_backward(
    grad: &Tensor,
    weight: &FrozenLinear,
    lora: Option<&LoraLinear>,
    tape: Option<&LoraTape>,
    grads: &Tensor,
) -> Result<Tensor> {
    let mut grad_input = grad.f_mm(&weight.dense()?)?;
    lora_backward(grad, lora, tape, Some(&mut grad_input), grads)?;
    Ok(grad_input)
}

pub(super) fn lora_backward(
    grad: &Tensor,
    lora: Option<&LoraLinear>,
    tape: Option<&LoraTape>,
    grad_input: Option<&mut Tensor>,
    grads: &Tensor,
) -> Result<()> {
    match (lora, tape) {
        (Some(lora), Some(tape)) => lora.backward(tape, grad, grad_input, grads),
        _ => Ok(()),
    }
}
