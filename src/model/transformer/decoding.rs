//! One new token a row.

use tch::Tensor;

use super::{Branch, Result, Transformer};
use crate::{
    lora::{LinearGroup, LoraLinear},
    model::{
        base_model::LayerWeights,
        gate::gated,
        linear::{add_linear, linear},
    },
};

impl Transformer<'_> {
    /// One layer over single new tokens: everything but attention is as in [`Transformer::forward`]. Nothing is kept, so
    /// the states are changed where they are.
    ///
    /// # Shapes
    ///
    /// `hidden`: `[rows, hidden]`; `attend` maps `[rows, columns]`, not yet rotated, to `[rows, query_columns]`.
    pub(crate) fn decode_layer(
        &self,
        index: usize,
        hidden: &mut Tensor,
        attend: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        let layer: &LayerWeights = &self.weights.layers[index];
        let lora = |group| self.lora_linear(index, group);
        let (normed, _) = self.norm(hidden, &layer.attention_norm)?;
        let (qkv, _, _) = self.qkv(index, &normed, None)?;
        let branch = Branch { weight: &layer.output, post_norm: layer.attention_post_norm.as_ref() };
        self.add_branch_in_place(hidden, &attend(&qkv)?, branch, lora(LinearGroup::Output))?;
        let (normed, _) = self.norm(hidden, &layer.mlp_norm)?;
        let (gate_up, _) = linear(&normed, &layer.gate_up, lora(LinearGroup::GateUp), None)?;
        let gated = gated(&gate_up, self.config.design.activation)?;
        let branch = Branch { weight: &layer.down, post_norm: layer.mlp_post_norm.as_ref() };
        self.add_branch_in_place(hidden, &gated, branch, lora(LinearGroup::Down))
    }

    /// As [`Transformer::add_branch`], onto the states themselves.
    fn add_branch_in_place(
        &self,
        hidden: &mut Tensor,
        input: &Tensor,
        branch: Branch,
        lora: Option<&LoraLinear>,
    ) -> Result<()> {
        let Some(post_norm) = branch.post_norm else { return add_linear(hidden, input, branch.weight, lora) };
        let (output, _) = linear(input, branch.weight, lora, None)?;
        let _ = hidden.f_add_(&self.norm(&output, post_norm)?.0)?;
        Ok(())
    }
}
