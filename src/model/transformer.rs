//! The transformer: token ids to hidden states, and the gradient of an adapter, layer by layer.
//!
//! The backward pass is written out instead of recorded: only an adapter is trained, so most of what automatic
//! differentiation would keep and compute is not needed. No operation here records gradients.

mod backward;
mod decoding;
mod opening;

use fedward_actors::CancelFlag;
use tch::{Device, Kind, Tensor};

pub(crate) use self::opening::Opening;
use super::{
    BaseModel, EmbeddingScale, ModelConfig, ModelError, Result,
    attention::{Softmax, attend},
    attention_heads::Heads,
    base_model::{LayerWeights, Weights},
    frozen::FrozenLinear,
    gate::gated,
    linear::{linear, linear_onto, product},
    norm::{NormTape, rms_norm},
    packing::{PackedRows, check_rows, surely_shared_prefix},
};
use crate::lora::{Dropout, LinearGroup, LoraLinear, LoraRef, LoraTape, LoraTensors};

/// A model with an adapter, ready to compute in one thread.
pub(crate) struct Transformer<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) weights: Weights,
    pub(crate) lora: Option<LoraTensors>,
    pub(crate) heads: Heads,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
    /// What embeddings are multiplied by, rounded as they are.
    embedding_scale: Option<f64>,
    cancel: &'a CancelFlag,
}

/// What a forward pass keeps for the backward pass.
pub(crate) struct Tape {
    layers: Vec<KeptLayer>,
    /// Keep [`KeptLayer::Entry`] of each layer.
    checkpoints: bool,
}

/// What is kept of one layer.
enum KeptLayer {
    /// All that its backward pass reads.
    Whole(LayerTape),
    /// What that is computed from once more when the backward pass gets there.
    Entry {
        /// # Shapes
        ///
        /// `[tokens, hidden]`
        hidden: Tensor,
        /// As it stood before the layer.
        dropout: Option<Dropout>,
    },
}

struct LayerTape {
    attention_norm: NormTape,
    qkv_lora: Option<LoraTape>,
    query_key_norm: Option<NormTape>,
    /// Rotated.
    qkv: Tensor,
    softmax: Softmax,
    output_lora: Option<LoraTape>,
    attention_post_norm: Option<NormTape>,
    mlp_norm: NormTape,
    gate_up_lora: Option<LoraTape>,
    gate_up: Tensor,
    down_lora: Option<LoraTape>,
    mlp_post_norm: Option<NormTape>,
}

/// Sees the rotated queries, keys and values of each layer (`[tokens, columns]`) as they are computed.
pub(crate) type QkvSink<'s> = &'s mut dyn FnMut(usize, &Tensor) -> Result<()>;

/// What a pass finds computed and what it shows, if anything.
#[derive(Default)]
struct Around<'o, 's> {
    opening: Option<&'o Opening>,
    sink: Option<QkvSink<'s>>,
}

impl Around<'_, '_> {
    /// # Shapes
    ///
    /// `qkv`: `[tokens, columns]` → `[opening + tokens, columns]`
    fn with_opening(&self, layer: usize, qkv: Tensor) -> Result<Tensor> {
        match self.opening {
            Some(opening) => Ok(Tensor::f_cat(&[&opening.qkv[layer], &qkv], 0)?),
            None => Ok(qkv),
        }
    }

    /// # Shapes
    ///
    /// `attended`: `[opening + tokens, query_columns]` → `[tokens, query_columns]`
    fn without_opening(&self, attended: Tensor) -> Result<Tensor> {
        let Some(opening) = self.opening else { return Ok(attended) };
        let computed = opening.ids.len() as i64;
        Ok(attended.f_narrow(0, computed, attended.size()[0] - computed)?)
    }
}

impl<'a> Transformer<'a> {
    /// `model` with `lora` on top.
    pub(crate) fn new(model: &'a BaseModel, lora: Option<LoraRef>, cancel: &'a CancelFlag) -> Result<Self> {
        let (config, kind, device) = (model.config(), model.kind(), model.device());
        let lora = lora.map(|lora| LoraTensors::from_adapter(lora, config, device, kind)).transpose()?;
        let embedding_scale = match config.design.embedding {
            EmbeddingScale::One => None,
            EmbeddingScale::RootOfHiddenSize => {
                let scale = (config.hidden_size as f64).sqrt();
                Some(if kind == Kind::BFloat16 { half::bf16::from_f64(scale).to_f64() } else { scale })
            }
        };
        let heads = Heads::new(config);
        Ok(Self { config, weights: model.weights(), lora, heads, kind, device, embedding_scale, cancel })
    }

    /// Token ids to the states that enter the first layer.
    ///
    /// # Shapes
    ///
    /// `ids`: `[tokens]` → `[tokens, hidden]`.
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let mut embedded = self.weights.embedding.f_index_select(0, ids)?;
        if let Some(scale) = self.embedding_scale {
            let _ = embedded.f_mul_scalar_(scale)?;
        }
        Ok(embedded)
    }

    /// Packs rows for this model.
    pub(crate) fn pack(&self, rows: &[&[u32]], share_prefix: bool) -> Result<PackedRows> {
        PackedRows::new(rows, share_prefix, self.config, self.device, self.kind)
    }

    /// Tokens at the begin of `rows` that a pass over them, or over some of them, computes once.
    pub(crate) fn counted_once(&self, rows: &[&[u32]]) -> usize {
        surely_shared_prefix(rows, self.config, self.device, self.kind)
    }

    /// Packs what follows `opening`, which all rows begin with and which is computed already.
    pub(crate) fn pack_behind(&self, opening: &Opening, rows: &[&[u32]]) -> Result<PackedRows> {
        PackedRows::behind(opening.ids.len(), rows, self.config, self.device, self.kind)
    }

    /// Checks that this model can take rows.
    pub(crate) fn check_rows<'r>(&self, rows: impl IntoIterator<Item = &'r [u32]>) -> Result<()> {
        check_rows(rows, self.config)
    }

    /// [`ModelError::Cancelled`] if the flag is raised.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(ModelError::Cancelled) } else { Ok(()) }
    }

    /// Hidden states before the final norm.
    ///
    /// # Shapes
    ///
    /// → `[tokens, hidden]`
    pub(crate) fn forward(&self, packed: &PackedRows, sink: Option<QkvSink>) -> Result<Tensor> {
        self.forward_behind(None, packed, sink)
    }

    /// As [`Transformer::forward`], of what [`Transformer::pack_behind`] packed behind `opening`.
    pub(crate) fn forward_behind(
        &self,
        opening: Option<&Opening>,
        packed: &PackedRows,
        sink: Option<QkvSink>,
    ) -> Result<Tensor> {
        self.run(packed, self.weights.layers.len(), None, None, Around { opening, sink })
    }

    /// Hidden states after the first `layers` layers, all of them where there are fewer.
    ///
    /// # Shapes
    ///
    /// → `[tokens, hidden]`
    pub(crate) fn forward_to(&self, packed: &PackedRows, layers: usize) -> Result<Tensor> {
        self.run(packed, layers, None, None, Around::default())
    }

    /// As [`Transformer::forward`], keeping what [`Transformer::backward`] needs; with `checkpoints` only what enters each
    /// layer, whose forward pass is then computed twice.
    pub(crate) fn forward_taped(
        &self,
        packed: &PackedRows,
        dropout: Option<&mut Dropout>,
        checkpoints: bool,
    ) -> Result<(Tensor, Tape)> {
        let mut tape = Tape { layers: Vec::with_capacity(self.weights.layers.len()), checkpoints };
        let hidden = self.run(packed, self.weights.layers.len(), Some(&mut tape), dropout, Around::default())?;
        Ok((hidden, tape))
    }

    fn run(
        &self,
        packed: &PackedRows,
        layers: usize,
        mut tape: Option<&mut Tape>,
        mut dropout: Option<&mut Dropout>,
        mut around: Around,
    ) -> Result<Tensor> {
        let mut hidden = self.embed(&packed.ids)?;
        for index in 0..layers.min(self.weights.layers.len()) {
            let drawn = tape.as_ref().filter(|tape| tape.checkpoints).and(dropout.as_deref().cloned());
            let (output, layer) = self.layer(index, &hidden, packed, dropout.as_deref_mut(), &mut around)?;
            let input = std::mem::replace(&mut hidden, output);
            if let Some(tape) = tape.as_mut() {
                let entry = KeptLayer::Entry { hidden: input, dropout: drawn };
                tape.layers.push(if tape.checkpoints { entry } else { KeptLayer::Whole(layer) });
            }
        }
        Ok(hidden)
    }

    /// One layer.
    ///
    /// # Shapes
    ///
    /// `hidden`: `[tokens, hidden]` → the same.
    fn layer(
        &self,
        index: usize,
        hidden: &Tensor,
        packed: &PackedRows,
        mut dropout: Option<&mut Dropout>,
        around: &mut Around,
    ) -> Result<(Tensor, LayerTape)> {
        self.check_cancelled()?;
        let layer: &LayerWeights = &self.weights.layers[index];
        let lora = |group| self.lora_linear(index, group);
        let span = self.config.design.span(index);

        let (normed, attention_norm) = self.norm(hidden, &layer.attention_norm)?;
        let (qkv, qkv_lora, query_key_norm) = self.qkv(index, &normed, dropout.as_deref_mut())?;
        packed.rotations.of(span).apply(&qkv, self.heads.rotated())?;
        let qkv = around.with_opening(index, qkv)?;
        if let Some(sink) = around.sink.as_mut() {
            sink(index, &qkv)?;
        }
        let (attended, softmax) = attend(self.heads, &qkv, packed, span)?;
        let attended = around.without_opening(attended)?;
        let branch = Branch { weight: &layer.output, post_norm: layer.attention_post_norm.as_ref() };
        let (after_attention, output_lora, attention_post_norm) =
            self.add_branch(hidden, &attended, branch, lora(LinearGroup::Output), dropout.as_deref_mut())?;

        let (normed, mlp_norm) = self.norm(&after_attention, &layer.mlp_norm)?;
        let (gate_up, gate_up_lora) =
            linear(&normed, &layer.gate_up, lora(LinearGroup::GateUp), dropout.as_deref_mut())?;
        let gated = gated(&gate_up, self.config.design.activation)?;
        let branch = Branch { weight: &layer.down, post_norm: layer.mlp_post_norm.as_ref() };
        let (after_mlp, down_lora, mlp_post_norm) =
            self.add_branch(&after_attention, &gated, branch, lora(LinearGroup::Down), dropout)?;

        let tape = LayerTape {
            attention_norm,
            qkv_lora,
            query_key_norm,
            qkv,
            softmax,
            output_lora,
            attention_post_norm,
            mlp_norm,
            gate_up_lora,
            gate_up,
            down_lora,
            mlp_post_norm,
        };
        Ok((after_mlp, tape))
    }

    /// The adapter of one group of linear layers.
    pub(crate) fn lora_linear(&self, layer: usize, group: LinearGroup) -> Option<&LoraLinear> {
        self.lora.as_ref().and_then(|lora| lora.linear(layer, group))
    }

    /// Queries, keys and values of one layer, not yet rotated.
    ///
    /// # Shapes
    ///
    /// `normed`: `[tokens, hidden]` → `[tokens, columns]`.
    fn qkv(
        &self,
        index: usize,
        normed: &Tensor,
        dropout: Option<&mut Dropout>,
    ) -> Result<(Tensor, Option<LoraTape>, Option<NormTape>)> {
        let layer: &LayerWeights = &self.weights.layers[index];
        let (mut qkv, lora) = linear(normed, &layer.qkv, self.lora_linear(index, LinearGroup::Qkv), dropout)?;
        if let Some(bias) = &layer.qkv_bias {
            let _ = qkv.f_add_(bias)?;
        }
        let Some(weight) = &layer.query_key_norm else { return Ok((qkv, lora, None)) };
        let mut heads = self.heads.queries_and_keys(&qkv)?;
        let (output, tape) = self.norm(&heads, weight)?;
        heads.f_copy_(&output)?;
        Ok((qkv, lora, Some(tape)))
    }

    /// `residual + x Wᵀ`, plus the adapter's share; `x Wᵀ` goes through a norm before it is added where there is one.
    fn add_branch(
        &self,
        residual: &Tensor,
        input: &Tensor,
        branch: Branch,
        lora: Option<&LoraLinear>,
        dropout: Option<&mut Dropout>,
    ) -> Result<(Tensor, Option<LoraTape>, Option<NormTape>)> {
        let Some(post_norm) = branch.post_norm else {
            let (sum, lora) = linear_onto(residual, input, branch.weight, lora, dropout)?;
            return Ok((sum, lora, None));
        };
        let (output, lora) = linear(input, branch.weight, lora, dropout)?;
        let (mut normed, tape) = self.norm(&output, post_norm)?;
        Ok((normed.f_add_(residual)?, lora, Some(tape)))
    }

    fn norm(&self, states: &Tensor, weight: &Tensor) -> Result<(Tensor, NormTape)> {
        rms_norm(states, weight, self.config.rms_norm_eps)
    }

    /// The final norm.
    ///
    /// # Shapes
    ///
    /// `hidden`: `[tokens, hidden]` → `[tokens, hidden]`.
    pub(crate) fn final_norm(&self, hidden: &Tensor) -> Result<(Tensor, NormTape)> {
        self.norm(hidden, &self.weights.norm)
    }

    /// Logits in `f32`.
    ///
    /// # Shapes
    ///
    /// `normed`: `[tokens, hidden]`, after the final norm → `[tokens, vocab_size]`.
    pub(crate) fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        let mut logits = self.unbounded_logits(normed)?.f_to_kind(Kind::Float)?;
        if let Some(cap) = self.config.design.final_logit_softcapping {
            logits = logits.f_mul_scalar_(1.0 / cap)?.f_tanh_()?.f_mul_scalar_(cap)?;
        }
        Ok(logits)
    }

    /// Logits before they are bounded, in the kind of the states.
    ///
    /// # Shapes
    ///
    /// As [`Transformer::logits`].
    pub(crate) fn unbounded_logits(&self, normed: &Tensor) -> Result<Tensor> {
        product(normed, &self.weights.head)
    }

    /// Derivative of each logit with respect to what it was before it was bounded, where it was.
    ///
    /// # Shapes
    ///
    /// `logits`: `[tokens, vocab_size]` → the same.
    pub(crate) fn logits_slope(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        let Some(cap) = self.config.design.final_logit_softcapping else { return Ok(None) };
        let slope = logits.f_mul_scalar(1.0 / cap)?.f_square_()?.f_neg_()?.f_add_scalar_(1.0)?;
        Ok(Some(slope))
    }
}

/// The last step of attention or MLP.
#[derive(Clone, Copy)]
struct Branch<'w> {
    weight: &'w FrozenLinear,
    /// # Shapes
    ///
    /// `[hidden]`
    post_norm: Option<&'w Tensor>,
}
