//! The architecture, from GGUF metadata.

use std::f64::consts::PI;

use super::header::{Header, Value};
use crate::model::{Design, Llama3RopeScaling, ModelConfig, RopeScaling};

/// The tensor in which llama.cpp keeps the factors of stretched rotary frequencies.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The architecture that `header` describes.
pub(super) fn model_config(header: &Header, file: &[u8]) -> Result<ModelConfig, String> {
    let architecture = header.text("general.architecture")?;
    if architecture != "llama" {
        return Err(format!("general.architecture: found {architecture:?}, allowed is \"llama\""));
    }
    if let Some(experts) = header.optional_integer("llama.expert_count")?.filter(|experts| *experts > 0) {
        return Err(format!("llama.expert_count: found {experts}, mixtures of experts are not supported"));
    }
    if let Some(kind) = header.optional_text("llama.rope.scaling.type")?.filter(|kind| *kind != "none") {
        return Err(format!("llama.rope.scaling.type: found {kind:?}, allowed is \"none\""));
    }
    let hidden_size = header.integer("llama.embedding_length")?;
    let num_attention_heads = header.integer("llama.attention.head_count")?;
    let head_dim = match header.optional_integer("llama.attention.key_length")? {
        Some(length) => length,
        None => hidden_size.checked_div(num_attention_heads).ok_or("llama.attention.head_count: found 0")?,
    };
    let same_as_head_dim = ["llama.attention.value_length", "llama.rope.dimension_count"];
    for key in same_as_head_dim {
        if let Some(found) = header.optional_integer(key)?.filter(|found| *found != head_dim) {
            return Err(format!("{key}: found {found}, allowed is the width of a head, {head_dim}"));
        }
    }
    let count = |key| -> Result<usize, String> {
        let found = header.integer(key)?;
        usize::try_from(found).map_err(|_| format!("{key}: found {found}, must not be negative"))
    };
    let vocab_size = match header.optional_integer("llama.vocab_size")? {
        Some(size) => size,
        None => header.array("tokenizer.ggml.tokens")?.len() as i64,
    };
    let mut config = ModelConfig {
        vocab_size,
        hidden_size,
        intermediate_size: header.integer("llama.feed_forward_length")?,
        num_hidden_layers: count("llama.block_count")?,
        num_attention_heads,
        num_key_value_heads: match header.get("llama.attention.head_count_kv") {
            Some(Value::Array(_)) => return Err("llama.attention.head_count_kv: varies by layer".to_owned()),
            _ => header.optional_integer("llama.attention.head_count_kv")?.unwrap_or(num_attention_heads),
        },
        head_dim,
        rms_norm_eps: header
            .optional_float("llama.attention.layer_norm_rms_epsilon")?
            .ok_or("metadata llama.attention.layer_norm_rms_epsilon is missing")?,
        rope_theta: header.optional_float("llama.rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: None,
        max_position_embeddings: count("llama.context_length")?,
        tie_word_embeddings: !header.tensors.contains_key("output.weight"),
        design: Design::LLAMA,
    };
    config.check()?;
    config.rope_scaling = rope_scaling(header, file, &config)?;
    Ok(config)
}

/// llama.cpp keeps the factor of each frequency instead of Llama 3's four numbers: finds the numbers that give them.
fn rope_scaling(header: &Header, file: &[u8], config: &ModelConfig) -> Result<Option<RopeScaling>, String> {
    let Some(entry) = header.tensors.get(ROPE_FACTORS) else { return Ok(None) };
    let half = config.head_dim / 2;
    if entry.shape != [half] {
        return Err(format!("tensor {ROPE_FACTORS}: found shape {:?}, expected [{half}]", entry.shape));
    }
    let mut factors = vec![0.0; entry.len()];
    entry.kind.dequantize(&file[entry.range.clone()], &mut factors);
    // Every Llama 3 release stretches from the same context by the same bounds, and the lowest frequency by the factor.
    let scaling = Llama3RopeScaling {
        factor: f64::from(factors.last().copied().unwrap_or(1.0)),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let expected = llama3_factors(&scaling, config);
    let agree =
        factors.iter().zip(&expected).all(|(found, expected)| (f64::from(*found) / expected - 1.0).abs() < 1e-4);
    if agree {
        Ok(Some(RopeScaling::Llama3(scaling)))
    } else {
        Err(format!("tensor {ROPE_FACTORS}: not the frequency factors of Llama 3"))
    }
}

/// What each rotary frequency is divided by.
fn llama3_factors(scaling: &Llama3RopeScaling, config: &ModelConfig) -> Vec<f64> {
    let context = scaling.original_max_position_embeddings;
    (0..config.head_dim / 2)
        .map(|index| {
            let frequency = config.rope_theta.powf(-2.0 * index as f64 / config.head_dim as f64);
            let turns = context * frequency / (2.0 * PI);
            let smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
            let smooth = smooth.clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / scaling.factor + smooth)
        })
        .collect()
}
