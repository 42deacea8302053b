//! The way back: the gradient of an adapter, layer by layer.

use tch::Tensor;

use super::{Around, KeptLayer, LayerTape, Result, Tape, Transformer};
use crate::{
    lora::{LinearGroup, LoraTape, LoraTensors},
    model::{
        attention::attend_backward,
        base_model::LayerWeights,
        frozen::FrozenLinear,
        gate::gated_backward,
        linear::{linear_backward, lora_backward},
        norm::{NormTape, behind_norm, norm_backward},
        packing::PackedRows,
    },
};

impl Transformer<'_> {
    /// Adds the adapter's gradient to the flat `grads`, given that of the hidden states before the final norm.
    ///
    /// # Shapes
    ///
    /// `grad`: `[tokens, hidden]`, `grads`: `[layout.len()]` in `f32`.
    pub(crate) fn backward(&self, packed: &PackedRows, mut tape: Tape, mut grad: Tensor, grads: &Tensor) -> Result<()> {
        let Some(lora) = &self.lora else { return Ok(()) };
        while let Some(kept) = tape.layers.pop() {
            self.check_cancelled()?;
            let index = tape.layers.len();
            let kept = match kept {
                KeptLayer::Whole(kept) => kept,
                KeptLayer::Entry { hidden, mut dropout } => {
                    self.layer(index, &hidden, packed, dropout.as_mut(), &mut Around::default())?.1
                }
            };
            let weights = &self.weights.layers[index];
            let layer = LayerBackward { transformer: self, lora, index, weights, kept: &kept, packed, grads };
            // Nothing below the first adapted layer has a gradient that anybody needs.
            let attention_matters = index > 0 || lora.adapts_attention(0);
            layer.mlp(&mut grad, attention_matters)?;
            if attention_matters {
                layer.attention(&mut grad, index > 0)?;
            }
        }
        Ok(())
    }
}

/// One layer on the way back.
struct LayerBackward<'l> {
    transformer: &'l Transformer<'l>,
    lora: &'l LoraTensors,
    index: usize,
    weights: &'l LayerWeights,
    kept: &'l LayerTape,
    packed: &'l PackedRows,
    /// # Shapes
    ///
    /// `[layout.len()]`
    grads: &'l Tensor,
}

/// What the branch of attention or MLP begins with.
#[derive(Clone, Copy)]
struct Entrance<'l> {
    norm: &'l Tensor,
    norm_tape: &'l NormTape,
    group: LinearGroup,
    weight: &'l FrozenLinear,
    lora_tape: Option<&'l LoraTape>,
}

impl LayerBackward<'_> {
    /// Takes `grad` from behind the MLP to before it, there only where it `matters`.
    ///
    /// # Shapes
    ///
    /// `grad`: `[tokens, hidden]`
    fn mlp(&self, grad: &mut Tensor, matters: bool) -> Result<()> {
        let Self { weights, kept, .. } = self;
        let grad_down = behind_norm(grad, kept.mlp_post_norm.as_ref(), weights.mlp_post_norm.as_ref())?;
        let grad_gated = self.linear(&grad_down, &weights.down, LinearGroup::Down, kept.down_lora.as_ref())?;
        let grad_gate_up = gated_backward(&kept.gate_up, grad_gated, self.transformer.config.design.activation)?;
        let entrance = Entrance {
            norm: &weights.mlp_norm,
            norm_tape: &kept.mlp_norm,
            group: LinearGroup::GateUp,
            weight: &weights.gate_up,
            lora_tape: kept.gate_up_lora.as_ref(),
        };
        self.entrance(grad, &grad_gate_up, entrance, matters)
    }

    /// Takes `grad` from behind attention to before it, there only where it `matters`.
    ///
    /// # Shapes
    ///
    /// `grad`: `[tokens, hidden]`
    fn attention(&self, grad: &mut Tensor, matters: bool) -> Result<()> {
        let Self { transformer, weights, kept, packed, .. } = self;
        let span = transformer.config.design.span(self.index);
        let grad_output = behind_norm(grad, kept.attention_post_norm.as_ref(), weights.attention_post_norm.as_ref())?;
        let grad_attended =
            self.linear(&grad_output, &weights.output, LinearGroup::Output, kept.output_lora.as_ref())?;
        let grad_qkv = attend_backward(transformer.heads, &grad_attended, &kept.qkv, &kept.softmax, packed, span)?;
        packed.rotations.of(span).apply_backward(&grad_qkv, transformer.heads.rotated())?;
        self.query_key_norm(&grad_qkv)?;
        let entrance = Entrance {
            norm: &weights.attention_norm,
            norm_tape: &kept.attention_norm,
            group: LinearGroup::Qkv,
            weight: &weights.qkv,
            lora_tape: kept.qkv_lora.as_ref(),
        };
        self.entrance(grad, &grad_qkv, entrance, matters)
    }

    /// Takes a gradient from behind the norm of queries and keys to before it, in place.
    ///
    /// # Shapes
    ///
    /// `grad_qkv`: `[tokens, columns]`
    fn query_key_norm(&self, grad_qkv: &Tensor) -> Result<()> {
        let tape = self.kept.query_key_norm.as_ref();
        if tape.is_some() {
            let mut heads = self.transformer.heads.queries_and_keys(grad_qkv)?;
            let before = behind_norm(&heads, tape, self.weights.query_key_norm.as_ref())?;
            heads.f_copy_(&before)?;
        }
        Ok(())
    }

    /// From the outputs of a branch's first linear layers to its input, whose share is added to `grad` if that `matters`;
    /// if not, the adapter's gradient is all that is computed.
    ///
    /// # Shapes
    ///
    /// `grad`: `[tokens, hidden]`, `grad_output`: `[tokens, columns]`
    fn entrance(&self, grad: &mut Tensor, grad_output: &Tensor, entrance: Entrance, matters: bool) -> Result<()> {
        let Entrance { norm, norm_tape, group, weight, lora_tape } = entrance;
        if !matters {
            return lora_backward(grad_output, self.lora.linear(self.index, group), lora_tape, None, self.grads);
        }
        let grad_normed = self.linear(grad_output, weight, group, lora_tape)?;
        norm_backward(grad, grad_normed, norm_tape, norm)
    }

    /// # Shapes
    ///
    /// `grad`: `[tokens, outputs]` → `[tokens, inputs]`
    fn linear(
        &self,
        grad: &Tensor,
        weight: &FrozenLinear,
        group: LinearGroup,
        tape: Option<&LoraTape>,
    ) -> Result<Tensor> {
        linear_backward(grad, weight, self.lora.linear(self.index, group), tape, self.grads)
    }
}
