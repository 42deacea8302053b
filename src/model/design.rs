//! In what a family's transformer differs from Llama's.

/// A family of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a family's name says which it is")]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma2, Self::Gemma3];

    /// What `architectures` of `config.json` calls it.
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
        }
    }
}

/// What the gate of an MLP goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)` with Φ by its hyperbolic tangent.
    GeluTanh,
}

/// How far back the tokens of a layer look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// At everything before.
    Full,
    /// At the last tokens alone: [`SlidingAttention::window`].
    Sliding,
}

/// Attention of some layers to the last tokens alone (Beltagy et al., 2020).
#[derive(Clone, Debug, PartialEq)]
pub struct SlidingAttention {
    /// Tokens that a token looks at, itself included.
    pub window: usize,
    /// Of each layer.
    pub spans: Vec<Span>,
    /// Base of these layers' rotary frequencies, which are then not stretched; as in the others without.
    pub rope_theta: Option<f64>,
}

/// What embeddings are multiplied by on their way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// Nothing.
    One,
    /// The root of the hidden size.
    RootOfHiddenSize,
}

/// In what a family's transformer differs from Llama's. What an architecture does not have costs it nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    /// Whose checkpoints these are.
    pub family: Family,
    /// What the gate of an MLP goes through.
    pub activation: Activation,
    /// Queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Each head's query and key goes through an RMS norm before it is rotated.
    pub query_key_norm: bool,
    /// Attention and MLP have a norm behind them, too, before their output is added.
    pub post_norms: bool,
    /// Added to every norm's weight: Gemma stores them less one.
    pub norm_offset: f64,
    /// Attention scores are divided by this number's root; by that of the heads' width without.
    pub query_pre_attn_scalar: Option<f64>,
    /// Embeddings are multiplied by the root of the hidden size.
    pub embedding: EmbeddingScale,
    /// Bound `c` of attention scores, each of which becomes `c · tanh(score / c)`.
    pub attn_logit_softcapping: Option<f64>,
    /// Bound of logits, likewise.
    pub final_logit_softcapping: Option<f64>,
    /// Layers that look at the last tokens alone.
    pub sliding: Option<SlidingAttention>,
}

impl Design {
    /// Llama's own.
    pub const LLAMA: Self = Self {
        family: Family::Llama,
        activation: Activation::Silu,
        qkv_bias: false,
        query_key_norm: false,
        post_norms: false,
        norm_offset: 0.0,
        query_pre_attn_scalar: None,
        embedding: EmbeddingScale::One,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        sliding: None,
    };

    /// How far back the tokens of a layer look.
    pub fn span(&self, layer: usize) -> Span {
        self.sliding.as_ref().and_then(|sliding| sliding.spans.get(layer).copied()).unwrap_or(Span::Full)
    }

    /// Checks the numbers for a model of `layers` layers.
    pub(super) fn check(&self, layers: usize) -> Result<(), String> {
        let mut positive = vec![
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ];
        if let Some(sliding) = &self.sliding {
            positive.push(("rope_local_base_freq", sliding.rope_theta));
            if sliding.window == 0 {
                return Err("sliding_window: found 0, must be at least 1".to_owned());
            }
            if sliding.spans.len() != layers {
                let found = sliding.spans.len();
                return Err(format!("layer_types: found {found} of them, num_hidden_layers is {layers}"));
            }
        }
        for (key, found) in positive {
            if let Some(found) = found.filter(|found| !(found.is_finite() && *found > 0.0)) {
                return Err(format!("{key}: found {found}, must be a positive number"));
            }
        }
        Ok(())
    }
}
