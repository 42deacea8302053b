//! What a checkpoint says of its architecture, resolved from `config.json` or GGUF metadata.

use std::collections::BTreeMap;

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

/// A Llama-family architecture. Fields are named after the checkpoint's `config.json`.
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
    pub rope_scaling: Option<Llama3RopeScaling>,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
}

/// Above this, a size is taken for a corrupt file rather than a large model.
const LARGEST_SIZE: i64 = 1 << 24;

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
            ("num_hidden_layers", i64::try_from(self.num_hidden_layers).unwrap_or(i64::MAX)),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", i64::try_from(self.max_position_embeddings).unwrap_or(i64::MAX)),
        ];
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
            factors.extend([
                ("rope_scaling.factor", scaling.factor),
                ("rope_scaling.low_freq_factor", scaling.low_freq_factor),
                ("rope_scaling.high_freq_factor", scaling.high_freq_factor),
                ("rope_scaling.original_max_position_embeddings", scaling.original_max_position_embeddings),
            ]);
            if scaling.low_freq_factor >= scaling.high_freq_factor {
                return Err(format!(
                    "rope_scaling.low_freq_factor: found {}, must be below high_freq_factor = {}",
                    scaling.low_freq_factor, scaling.high_freq_factor
                ));
            }
        }
        for (key, found) in factors {
            if !(found.is_finite() && found > 0.0) {
                return Err(format!("{key}: found {found}, must be a positive number"));
            }
        }
        Ok(())
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
            let block = [
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![query, hidden]),
                ("self_attn.k_proj", vec![key_value, hidden]),
                ("self_attn.v_proj", vec![key_value, hidden]),
                ("self_attn.o_proj", vec![hidden, query]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ];
            tensors.extend(block.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        }
        tensors
    }

    /// Checks that a checkpoint's tensors, given as Hugging Face name and shape, are those of this architecture.
    ///
    /// # Errors
    ///
    /// Names the first tensor that is missing, has another shape, or that this architecture does not know.
    pub(super) fn check_tensors(&self, mut found: BTreeMap<String, Vec<i64>>) -> Result<(), String> {
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
        found.retain(|name, _| name != "lm_head.weight" && !name.ends_with("rotary_emb.inv_freq"));
        match found.first_key_value() {
            None => Ok(()),
            Some((name, shape)) => Err(format!(
                "tensor {name} of shape {shape:?} belongs to no layer of LlamaForCausalLM with {} layers",
                self.num_hidden_layers
            )),
        }
    }
}
