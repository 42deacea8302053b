//! `config.json` and `generation_config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{read_json, read_optional_json};
use crate::model::{Llama3RopeScaling, ModelConfig, ModelError};

pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";

/// `config.json` as `transformers` writes it. Defaults are those of its `LlamaConfig`.
#[derive(Deserialize)]
struct ConfigJson {
    architectures: Option<Vec<String>>,
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    /// Up to version 4.
    rope_scaling: Option<RopeJson>,
    /// From version 5 on, with `rope_theta` inside.
    rope_parameters: Option<RopeJson>,
    rope_interleaved: Option<bool>,
    partial_rotary_factor: Option<f64>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    sliding_window: Option<i64>,
    quantization_config: Option<Value>,
    eos_token_id: Option<TokenIds>,
}

#[derive(Deserialize)]
struct RopeJson {
    rope_type: Option<String>,
    /// The name before `rope_type`.
    #[serde(rename = "type")]
    legacy_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// One token id or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TokenIds {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}

#[derive(Deserialize)]
struct GenerationJson {
    eos_token_id: Option<TokenIds>,
}

/// The architecture of the model in `directory`, and the tokens that end its generation.
pub(super) fn read(directory: &Path) -> Result<(ModelConfig, Vec<u32>), ModelError> {
    let path = directory.join(CONFIG);
    let mut json: ConfigJson = read_json(&path)?;
    let mut stop_ids = json.eos_token_id.take().map(TokenIds::into_vec).unwrap_or_default();
    let generation: Option<GenerationJson> = read_optional_json(&directory.join(GENERATION_CONFIG))?;
    stop_ids.extend(generation.and_then(|json| json.eos_token_id).map(TokenIds::into_vec).unwrap_or_default());
    let config = resolve(&json).map_err(|problem| ModelError::invalid(&path, problem))?;
    Ok((config, stop_ids))
}

fn resolve(json: &ConfigJson) -> Result<ModelConfig, String> {
    refuse_other_architectures(json)?;
    let rope = json.rope_parameters.as_ref().or(json.rope_scaling.as_ref());
    let head_dim = match json.head_dim {
        Some(head_dim) => head_dim,
        None => json.hidden_size.checked_div(json.num_attention_heads).ok_or("num_attention_heads: found 0")?,
    };
    let config = ModelConfig {
        vocab_size: json.vocab_size,
        hidden_size: json.hidden_size,
        intermediate_size: json.intermediate_size,
        num_hidden_layers: json.num_hidden_layers,
        num_attention_heads: json.num_attention_heads,
        num_key_value_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
        head_dim,
        rms_norm_eps: json.rms_norm_eps.unwrap_or(1e-6),
        rope_theta: rope.and_then(|rope| rope.rope_theta).or(json.rope_theta).unwrap_or(10_000.0),
        rope_scaling: rope.map(rope_scaling).transpose()?.flatten(),
        max_position_embeddings: json.max_position_embeddings.unwrap_or(2048),
        tie_word_embeddings: json.tie_word_embeddings.unwrap_or(false),
    };
    config.check()?;
    Ok(config)
}

fn refuse_other_architectures(json: &ConfigJson) -> Result<(), String> {
    match json.architectures.as_deref() {
        Some([name]) if name == "LlamaForCausalLM" => {}
        found => {
            let found = found.map_or_else(|| "nothing".to_owned(), |names| names.join(", "));
            return Err(format!("architectures: found {found}, allowed is LlamaForCausalLM"));
        }
    }
    if let Some(found) = json.hidden_act.as_deref().filter(|act| *act != "silu") {
        return Err(format!("hidden_act: found {found:?}, allowed is \"silu\""));
    }
    let flags = [
        ("attention_bias", json.attention_bias),
        ("mlp_bias", json.mlp_bias),
        ("rope_interleaved", json.rope_interleaved),
    ];
    if let Some((key, _)) = flags.iter().find(|(_, flag)| *flag == Some(true)) {
        return Err(format!("{key}: found true, allowed is false"));
    }
    if let Some(found) = json.sliding_window {
        return Err(format!("sliding_window: found {found}, allowed is null"));
    }
    if json.quantization_config.as_ref().is_some_and(|config| !config.is_null()) {
        return Err("quantization_config: quantized safetensors are not read; use a GGUF file".to_owned());
    }
    let rope = json.rope_parameters.as_ref().or(json.rope_scaling.as_ref());
    let partial = json.partial_rotary_factor.or_else(|| rope?.partial_rotary_factor);
    match partial {
        None => Ok(()),
        Some(factor) if (factor - 1.0).abs() < f64::EPSILON => Ok(()),
        Some(found) => Err(format!("partial_rotary_factor: found {found}, allowed is 1")),
    }
}

fn rope_scaling(rope: &RopeJson) -> Result<Option<Llama3RopeScaling>, String> {
    match rope.rope_type.as_deref().or(rope.legacy_type.as_deref()).unwrap_or("default") {
        "default" => Ok(None),
        "llama3" => {
            let need = |key: &str, value: Option<f64>| {
                value.ok_or_else(|| format!("rope_scaling.{key} is missing, which rope_type \"llama3\" needs"))
            };
            Ok(Some(Llama3RopeScaling {
                factor: need("factor", rope.factor)?,
                low_freq_factor: need("low_freq_factor", rope.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", rope.high_freq_factor)?,
                original_max_position_embeddings: need(
                    "original_max_position_embeddings",
                    rope.original_max_position_embeddings,
                )?,
            }))
        }
        found => Err(format!("rope_scaling.rope_type: found {found:?}, allowed: \"default\", \"llama3\"")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, String> {
        let mut value = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        });
        change(&mut value);
        resolve(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = config(|_| ()).unwrap();
        assert_eq!((config.head_dim, config.max_position_embeddings), (8, 2048));
        assert!((config.rope_theta - 10_000.0).abs() < f64::EPSILON);
        assert!(!config.tie_word_embeddings && config.rope_scaling.is_none());
    }

    #[test]
    fn both_spellings_of_llama_3_scaling_are_read() {
        let scaling = json!({
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        let old = config(|json| {
            json["rope_scaling"] = scaling.clone();
            json["rope_theta"] = 500_000.0.into();
        });
        let new = config(|json| {
            json["rope_parameters"] = scaling.clone();
            json["rope_parameters"]["rope_theta"] = 500_000.0.into();
        });
        assert_eq!(old, new);
        assert!((new.unwrap().rope_scaling.unwrap().factor - 32.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let cases: [(&str, Value, &str); 10] = [
            ("architectures", json!(["Qwen2ForCausalLM"]), "found Qwen2ForCausalLM, allowed is LlamaForCausalLM"),
            ("hidden_act", json!("gelu"), "found \"gelu\", allowed is \"silu\""),
            ("attention_bias", json!(true), "found true, allowed is false"),
            ("rope_scaling", json!({"type": "yarn", "factor": 2.0}), "found \"yarn\""),
            ("rope_scaling", json!({"rope_type": "llama3"}), "factor is missing"),
            ("num_key_value_heads", json!(3), "found 3, which does not divide"),
            ("num_attention_heads", json!(0), "found 0"),
            ("hidden_size", json!(-1), "found -1, allowed are 1 to"),
            ("head_dim", json!(7), "found 7"),
            ("quantization_config", json!({"bits": 4}), "use a GGUF file"),
        ];
        for (key, value, expected) in cases {
            let error = config(|json| json[key] = value).unwrap_err();
            assert!(error.starts_with(key) && error.contains(expected), "{error}");
        }
    }
}
