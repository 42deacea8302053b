//! How many floating-point operations work on a model takes: by formula, so that it means the same on every machine.

use crate::{
    lora::LoraRef,
    model::{BaseModel, ModelConfig},
};

/// Floating-point operations a token.
///
/// With `N` weights of the base in matrix multiplications (the head included, the embedding's look-up not) and `a` values
/// of the adapter:
///
/// - forward: `2 · (N + a)`, a multiplication and an addition a weight;
/// - training: forward, `2 · N` for gradients through the frozen base, which needs none of its weights, and `4 · a` for
///   the adapter, which needs both: `4 · N + 6 · a`. A base that is trained itself would take `6 · N`.
///
/// Left out: attention scores, norms and activations (some per cent at short lengths), and what is saved by computing
/// shared prefixes once and the head at response tokens alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// Weights of the base in matrix multiplications.
    pub base_weights: f64,
    /// Values of the adapter.
    pub adapter_values: f64,
}

impl Flops {
    /// For a model with an adapter. What is frozen beneath it counts as the base does.
    pub fn of<'a>(model: &BaseModel, lora: impl Into<LoraRef<'a>>) -> Self {
        let LoraRef { frozen, trainable } = lora.into();
        let frozen: usize = frozen.iter().map(|term| term.values().len()).sum();
        Self {
            base_weights: base_weights(model.config()) + frozen as f64,
            adapter_values: trainable.values().len() as f64,
        }
    }

    /// Of reading `tokens` tokens, generated ones included.
    pub fn forward(self, tokens: u64) -> f64 {
        2.0 * (self.base_weights + self.adapter_values) * tokens as f64
    }

    /// Of training on `tokens` tokens.
    pub fn training(self, tokens: u64) -> f64 {
        4.0f64.mul_add(self.base_weights, 6.0 * self.adapter_values) * tokens as f64
    }
}

fn base_weights(config: &ModelConfig) -> f64 {
    let (hidden, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
    let query = (config.num_attention_heads * config.head_dim) as f64;
    let key_value = (2 * config.num_key_value_heads * config.head_dim) as f64;
    let attention = hidden * (2.0 * query + key_value);
    let mlp = 3.0 * hidden * inner;
    (config.num_hidden_layers as f64).mul_add(attention + mlp, hidden * config.vocab_size as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_model_takes_half_a_billion_operations_a_token() {
        let config = ModelConfig {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1_536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 1e5,
            rope_scaling: None,
            max_position_embeddings: 8_192,
            tie_word_embeddings: true,
            design: crate::model::Design::LLAMA,
        };
        // SmolLM2-135M has 134,515,008 parameters, of which 61 norms of 576 are in no matrix multiplication.
        let weights = base_weights(&config);
        assert!((weights - (134_515_008.0 - 61.0 * 576.0)).abs() < 0.5, "{weights}");
        let flops = Flops { base_weights: weights, adapter_values: 921_600.0 };
        assert!((flops.training(1) / 1e9 - 0.543).abs() < 1e-3, "{}", flops.training(1));
        assert!((flops.forward(2) / 1e9 - 0.541_6).abs() < 1e-3, "{}", flops.forward(2));
    }
}
