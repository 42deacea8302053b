//! What a checkpoint says of its architecture, resolved from `config.json` or GGUF metadata.

use std::collections::BTreeMap;

use super::Design;

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// All of them by one factor (position interpolation; Chen et al., 2023).
    Linear {
        /// How much.
        factor: f64,
    },
    /// As Llama 3 does it.
    Llama3(Llama3RopeScaling),
    /// `YaRN` (Peng et al., 2023).
    Yarn(YarnRopeScaling),
}

/// Frequencies stretched the more, the fewer turns they make within the original context; scores become sharper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnRopeScaling {
    /// How much low frequencies are stretched.
    pub factor: f64,
    /// Context length before stretching.
    pub original_max_position_embeddings: f64,
    /// Frequencies with more turns than this are left alone.
    pub beta_fast: f64,
    /// Frequencies with fewer turns than this are stretched whole.
    pub beta_slow: f64,
    /// What rotated queries and keys are multiplied by; `0.1 ln factor + 1` without.
    pub attention_factor: Option<f64>,
    /// The border dimensions are rounded outwards.
    pub truncate: bool,
}

/// Frequencies of rotary embeddings stretched for long contexts, as Llama 3 does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3RopeScaling {
    /// How much low frequencies are stretched.
    pub factor: f64,
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched whole.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are left alone.
    pub high_freq_factor: f64,
    /// Context length before stretching.
    pub original_max_position_embeddings: f64,
}

/// A decoder-only architecture. Fields are named after the checkpoint's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the MLP.
    pub intermediate_size: i64,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads (grouped-query attention).
    pub num_key_value_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// Added to the mean square in RMS norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// In what it differs from Llama's.
    pub design: Design,
}

impl RopeScaling {
    /// The numbers that must be positive, by name.
    fn checked_factors(&self) -> Result<Vec<(&'static str, f64)>, String> {
        const CONTEXT: &str = "rope_scaling.original_max_position_embeddings";
        match self {
            Self::Linear { factor } => Ok(vec![("rope_scaling.factor", *factor)]),
            Self::Llama3(scaling) => {
                if scaling.low_freq_factor >= scaling.high_freq_factor {
                    return Err(format!(
                        "rope_scaling.low_freq_factor: found {}, must be below high_freq_factor = {}",
                        scaling.low_freq_factor, scaling.high_freq_factor
                    ));
                }
                Ok(vec![
                    ("rope_scaling.factor", scaling.factor),
                    ("rope_scaling.low_freq_factor", scaling.low_freq_factor),
                    ("rope_scaling.high_freq_factor", scaling.high_freq_factor),
                    (CONTEXT, scaling.original_max_position_embeddings),
                ])
            }
            Self::Yarn(scaling) => {
                if scaling.beta_slow >= scaling.beta_fast {
                    return Err(format!(
                        "rope_scaling.beta_slow: found {}, must be below beta_fast = {}",
                        scaling.beta_slow, scaling.beta_fast
                    ));
                }
                Ok(vec![
                    ("rope_scaling.factor", scaling.factor),
                    ("rope_scaling.beta_fast", scaling.beta_fast),
                    ("rope_scaling.beta_slow", scaling.beta_slow),
                    ("rope_scaling.attention_factor", scaling.attention_factor.unwrap_or(1.0)),
                    (CONTEXT, scaling.original_max_position_embeddings),
                ])
            }
        }
    }
}

/// Above this, a size is taken for a corrupt file rather than a large model.
const LARGEST_SIZE: i64 = 1 << 24;
/// Likewise; there are a few hundred in the deepest models.
const MAX_LAYERS: usize = 1 << 16;

/// Checks that so many layers are plausible, whatever the weights hold.
pub(super) fn check_layer_count(found: usize) -> Result<(), String> {
    if (1..=MAX_LAYERS).contains(&found) {
        return Ok(());
    }
    Err(format!("num_hidden_layers: found {found}, allowed are 1 to {MAX_LAYERS}"))
}

impl ModelConfig {
    /// Checks that the numbers describe a model that can be built.
    ///
    /// # Errors
    ///
    /// Says which field holds which value, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", i64::try_from(self.max_position_embeddings).unwrap_or(i64::MAX)),
        ];
        check_layer_count(self.num_hidden_layers)?;
        for (key, found) in sizes {
            if !(1..=LARGEST_SIZE).contains(&found) {
                return Err(format!("{key}: found {found}, allowed are 1 to {LARGEST_SIZE}"));
            }
        }
        if self.num_attention_heads % self.num_key_value_heads != 0 {
            return Err(format!(
                "num_key_value_heads: found {}, which does not divide num_attention_heads = {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        if self.head_dim % 2 != 0 {
            return Err(format!("head_dim: found {}, rotary embeddings need an even number", self.head_dim));
        }
        let mut factors = vec![("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)];
        if let Some(scaling) = &self.rope_scaling {
            factors.extend(scaling.checked_factors()?);
        }
        for (key, found) in factors {
            if !(found.is_finite() && found > 0.0) {
                return Err(format!("{key}: found {found}, must be a positive number"));
            }
        }
        self.design.check(self.num_hidden_layers)
    }

    /// Every tensor that a checkpoint of this architecture holds, under Hugging Face's names.
    ///
    /// # Shapes
    ///
    /// Linear layers are `[out_features, in_features]`, the embedding `[vocab_size, hidden_size]`.
    pub fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let query = self.num_attention_heads * self.head_dim;
        let key_value = self.num_key_value_heads * self.head_dim;
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        for layer in 0..self.num_hidden_layers {
            let mut block = vec![
                ("input_layernorm.weight", vec![hidden]),
                ("post_attention_layernorm.weight", vec![hidden]),
                ("self_attn.q_proj.weight", vec![query, hidden]),
                ("self_attn.k_proj.weight", vec![key_value, hidden]),
                ("self_attn.v_proj.weight", vec![key_value, hidden]),
                ("self_attn.o_proj.weight", vec![hidden, query]),
                ("mlp.gate_proj.weight", vec![inner, hidden]),
                ("mlp.up_proj.weight", vec![inner, hidden]),
                ("mlp.down_proj.weight", vec![hidden, inner]),
            ];
            if self.design.qkv_bias {
                block.extend([
                    ("self_attn.q_proj.bias", vec![query]),
                    ("self_attn.k_proj.bias", vec![key_value]),
                    ("self_attn.v_proj.bias", vec![key_value]),
                ]);
            }
            if self.design.query_key_norm {
                let norms = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];
                block.extend(norms.map(|name| (name, vec![self.head_dim])));
            }
            if self.design.post_norms {
                let norms = ["pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"];
                block.extend(norms.map(|name| (name, vec![hidden])));
            }
            tensors.extend(block.into_iter().map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
        }
        tensors
    }

    /// Checks that a checkpoint's tensors, given as Hugging Face name and shape, are those of this architecture.
    ///
    /// # Errors
    ///
    /// Names the first tensor that is missing, has another shape, or that this architecture does not know.
    pub(super) fn check_tensors(&self, mut found: BTreeMap<String, Vec<i64>>) -> Result<(), String> {
        // Each layer has tensors of its own: more layers than tensors are not even listed.
        if self.num_hidden_layers > found.len() {
            return Err(format!(
                "num_hidden_layers is {} by the configuration, but the weights hold {} tensors in all",
                self.num_hidden_layers,
                found.len()
            ));
        }
        for (name, expected) in self.tensors() {
            match found.remove(&name) {
                None => return Err(format!("tensor {name} of shape {expected:?} is missing")),
                Some(shape) if shape != expected => {
                    return Err(format!("tensor {name}: found shape {shape:?}, expected {expected:?}"));
                }
                Some(_) => {}
            }
        }
        // Some exporters write a tied head or the rotary table beside what they are computed from.
        let table = [self.vocab_size, self.hidden_size];
        if let Some(shape) = found.get("lm_head.weight").filter(|shape| **shape != table) {
            return Err(format!("tensor lm_head.weight: found shape {shape:?}, expected {table:?}"));
        }
        found.retain(|name, _| name != "lm_head.weight" && !name.ends_with("rotary_emb.inv_freq"));
        match found.first_key_value() {
            None => Ok(()),
            Some((name, shape)) => Err(format!(
                "tensor {name} of shape {shape:?} belongs to no layer of {} with {} layers",
                self.design.family.architecture(),
                self.num_hidden_layers
            )),
        }
    }
}
