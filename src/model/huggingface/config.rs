//! `config.json` and `generation_config.json`.

mod design;
mod rope;

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use self::rope::{RopeJson, RopeParametersJson};
use super::{read_json, read_optional_json};
use crate::model::{Family, ModelConfig, ModelError, config::check_layer_count};

pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";

/// What names the architecture in `config.json`.
#[derive(Deserialize)]
struct Architectures {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
}

/// `config.json` as `transformers` writes it.
#[derive(Deserialize)]
struct ConfigJson {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    hidden_act: Option<String>,
    /// Gemma's name for it.
    hidden_activation: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    /// Up to version 4.
    rope_scaling: Option<RopeJson>,
    /// From version 5 on, with `rope_theta` inside.
    rope_parameters: Option<RopeParametersJson>,
    rope_interleaved: Option<bool>,
    partial_rotary_factor: Option<f64>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    #[serde(default)]
    sliding_window: Setting<usize>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<LayerType>>,
    use_bidirectional_attention: Option<bool>,
    query_pre_attn_scalar: Option<f64>,
    #[serde(default)]
    attn_logit_softcapping: Setting<f64>,
    #[serde(default)]
    final_logit_softcapping: Setting<f64>,
    quantization_config: Option<Value>,
    eos_token_id: Option<TokenIds>,
}

/// A key for which null means something else than absence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Setting<T> {
    #[default]
    Absent,
    Null,
    Value(T),
}

impl<T> Setting<T> {
    /// The value, or the default of `transformers` for an absent key.
    fn or_default(self, default: Option<T>) -> Option<T> {
        match self {
            Self::Absent => default,
            Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map_or(Self::Null, Self::Value))
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
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

impl ConfigJson {
    /// The rotation of layers that look at everything before.
    fn rope(&self) -> Option<&RopeJson> {
        match &self.rope_parameters {
            Some(RopeParametersJson::One(rope) | RopeParametersJson::PerKind { full_attention: rope, .. }) => {
                Some(rope)
            }
            None => self.rope_scaling.as_ref(),
        }
    }
}

/// The architecture of the model in `directory`, and the tokens that end its generation.
pub(super) fn read(directory: &Path) -> Result<(ModelConfig, Vec<u32>), ModelError> {
    let path = directory.join(CONFIG);
    // What another architecture lacks or has is no concern of ours: its name says more.
    let named: Architectures = read_json(&path)?;
    family(named.architectures.as_deref(), named.model_type.as_deref())
        .map_err(|problem| ModelError::invalid(&path, problem))?;
    let mut json: ConfigJson = read_json(&path)?;
    let mut stop_ids = json.eos_token_id.take().map(TokenIds::into_vec).unwrap_or_default();
    let generation: Option<GenerationJson> = read_optional_json(&directory.join(GENERATION_CONFIG))?;
    stop_ids.extend(generation.and_then(|json| json.eos_token_id).map(TokenIds::into_vec).unwrap_or_default());
    let config = resolve(&json).map_err(|problem| ModelError::invalid(&path, problem))?;
    Ok((config, stop_ids))
}

/// What `transformers` takes for an absent key, which differs between families.
struct Defaults {
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    max_position_embeddings: usize,
    rope_theta: f64,
    tie_word_embeddings: bool,
}

impl Defaults {
    const fn of(family: Family) -> Self {
        let llama = Self {
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            rope_theta: 10_000.0,
            tie_word_embeddings: false,
        };
        let gemma2 = Self {
            num_key_value_heads: Some(4),
            head_dim: Some(256),
            max_position_embeddings: 8192,
            tie_word_embeddings: true,
            ..llama
        };
        match family {
            Family::Llama => llama,
            Family::Mistral => Self { num_key_value_heads: Some(8), max_position_embeddings: 131_072, ..llama },
            Family::Qwen2 => Self { num_key_value_heads: Some(32), max_position_embeddings: 32_768, ..llama },
            Family::Qwen3 => {
                Self { num_key_value_heads: Some(32), head_dim: Some(128), max_position_embeddings: 32_768, ..llama }
            }
            Family::Gemma2 => gemma2,
            Family::Gemma3 => Self { max_position_embeddings: 131_072, rope_theta: 1_000_000.0, ..gemma2 },
        }
    }
}

fn resolve(json: &ConfigJson) -> Result<ModelConfig, String> {
    let family = family(json.architectures.as_deref(), json.model_type.as_deref())?;
    refuse_what_is_not_supported(json)?;
    // Before anything is made for each of them.
    check_layer_count(json.num_hidden_layers)?;
    let defaults = Defaults::of(family);
    let rope = json.rope();
    let head_dim = match json.head_dim.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None => json.hidden_size.checked_div(json.num_attention_heads).ok_or("num_attention_heads: found 0")?,
    };
    let key_values = json.num_key_value_heads.or(defaults.num_key_value_heads);
    let config = ModelConfig {
        vocab_size: json.vocab_size,
        hidden_size: json.hidden_size,
        intermediate_size: json.intermediate_size,
        num_hidden_layers: json.num_hidden_layers,
        num_attention_heads: json.num_attention_heads,
        num_key_value_heads: key_values.unwrap_or(json.num_attention_heads),
        head_dim,
        rms_norm_eps: json.rms_norm_eps.unwrap_or(1e-6),
        rope_theta: rope.and_then(|rope| rope.rope_theta).or(json.rope_theta).unwrap_or(defaults.rope_theta),
        rope_scaling: rope.map(RopeJson::scaling).transpose()?.flatten(),
        max_position_embeddings: json.max_position_embeddings.unwrap_or(defaults.max_position_embeddings),
        tie_word_embeddings: json.tie_word_embeddings.unwrap_or(defaults.tie_word_embeddings),
        design: design::of(family, json)?,
    };
    config.check()?;
    Ok(config)
}

fn family(architectures: Option<&[String]>, model_type: Option<&str>) -> Result<Family, String> {
    let names = architectures.unwrap_or_default();
    let family = match names {
        [name] => Family::ALL.into_iter().find(|family| family.architecture() == name),
        _ => None,
    };
    family.ok_or_else(|| {
        let found = match (model_type, names) {
            (Some(model_type), []) => format!("nothing (model_type is {model_type:?})"),
            (None, []) => "nothing".to_owned(),
            _ => names.join(", "),
        };
        let allowed = Family::ALL.map(Family::architecture).join(", ");
        format!("architectures: found {found}, allowed are {allowed}")
    })
}

fn refuse_what_is_not_supported(json: &ConfigJson) -> Result<(), String> {
    let flags = [
        ("attention_bias", json.attention_bias),
        ("mlp_bias", json.mlp_bias),
        ("rope_interleaved", json.rope_interleaved),
        ("use_bidirectional_attention", json.use_bidirectional_attention),
    ];
    if let Some((key, _)) = flags.iter().find(|(_, flag)| *flag == Some(true)) {
        return Err(format!("{key}: found true, allowed is false"));
    }
    if json.quantization_config.as_ref().is_some_and(|config| !config.is_null()) {
        return Err("quantization_config: quantized safetensors are not read; use a GGUF file".to_owned());
    }
    let partial = json.partial_rotary_factor.or_else(|| json.rope()?.partial_rotary_factor);
    match partial {
        None => Ok(()),
        Some(factor) if (factor - 1.0).abs() < f64::EPSILON => Ok(()),
        Some(found) => Err(format!("partial_rotary_factor: found {found}, allowed is 1")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Activation, Design, RopeScaling, Span};

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
        let Some(RopeScaling::Llama3(scaling)) = new.unwrap().rope_scaling else { panic!("another scaling") };
        assert!((scaling.factor - 32.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let cases: [(&str, Value, &str); 13] = [
            ("architectures", json!(["PhiForCausalLM"]), "found PhiForCausalLM, allowed are LlamaForCausalLM, Mistral"),
            ("sliding_window", json!(8), "found 8, allowed is null"),
            ("rope_scaling", json!({"type": "yarn", "factor": 2.0, "mscale": 1.0}), "mscale: found 1"),
            ("hidden_act", json!("gelu"), "found \"gelu\", allowed is \"silu\""),
            ("attention_bias", json!(true), "found true, allowed is false"),
            ("rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "found \"dynamic\""),
            ("rope_scaling", json!({"rope_type": "llama3"}), "factor is missing"),
            ("num_key_value_heads", json!(3), "found 3, which does not divide"),
            ("num_attention_heads", json!(0), "found 0"),
            ("hidden_size", json!(-1), "found -1, allowed are 1 to"),
            ("head_dim", json!(7), "found 7"),
            ("num_hidden_layers", json!(u32::MAX), "found 4294967295, allowed are 1 to 65536"),
            ("quantization_config", json!({"bits": 4}), "use a GGUF file"),
        ];
        for (key, value, expected) in cases {
            let error = config(|json| json[key] = value).unwrap_err();
            assert!(error.starts_with(key) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn another_architecture_is_named_before_what_it_lacks() {
        let problem = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(CONFIG), text).unwrap();
            read(folder.path()).unwrap_err().to_string()
        };
        // GPT-2 calls hidden_size n_embd.
        let gpt2 =
            problem(r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_layer": 12}"#);
        assert!(gpt2.contains("architectures: found GPT2LMHeadModel, allowed are LlamaForCausalLM"), "{gpt2}");
        let unnamed = problem(r#"{"model_type": "gpt2", "n_embd": 768}"#);
        assert!(unnamed.contains("architectures: found nothing (model_type is \"gpt2\"), allowed"), "{unnamed}");
        let llama = problem(r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 64}"#);
        assert!(llama.contains("missing field `hidden_size`"), "{llama}");
    }

    fn design(architecture: &str, change: impl FnOnce(&mut Value)) -> Result<Design, String> {
        let changed = config(|json| {
            json["architectures"] = json!([architecture]);
            change(json);
        });
        changed.map(|config| config.design)
    }

    #[test]
    fn windows_are_those_of_the_family() {
        let mistral = |window: Option<Value>| {
            design("MistralForCausalLM", |json| {
                if let Some(window) = window {
                    json["sliding_window"] = window;
                }
            })
        };
        assert_eq!(mistral(Some(Value::Null)).unwrap(), Design { family: Family::Mistral, ..Design::LLAMA });
        assert_eq!(mistral(None).unwrap().sliding.unwrap().window, 4096);
        assert_eq!(mistral(Some(json!(7))).unwrap().sliding.unwrap().spans, [Span::Sliding; 2]);
        assert!(mistral(Some(json!(0))).unwrap_err().starts_with("sliding_window: found 0"));

        let qwen = |used: bool| {
            design("Qwen2ForCausalLM", |json| {
                json["use_sliding_window"] = json!(used);
                json["sliding_window"] = json!(8);
                json["max_window_layers"] = json!(1);
            })
        };
        assert!(qwen(false).unwrap().sliding.is_none() && qwen(false).unwrap().qkv_bias);
        assert_eq!(qwen(true).unwrap().sliding.unwrap().spans, [Span::Full, Span::Sliding]);

        let endless = design("MistralForCausalLM", |json| json["num_hidden_layers"] = json!(u64::MAX));
        assert!(endless.unwrap_err().starts_with("num_hidden_layers: found 18446744073709551615"));
        let gemma = design("Gemma3ForCausalLM", |json| json["layer_types"] = Value::Null).unwrap();
        assert_eq!((gemma.activation, gemma.query_pre_attn_scalar), (Activation::GeluTanh, Some(256.0)));
        let sliding = gemma.sliding.unwrap();
        assert_eq!((sliding.spans, sliding.rope_theta), (vec![Span::Sliding; 2], Some(10_000.0)));
        let wrong = design("Gemma2ForCausalLM", |json| json["layer_types"] = json!(["full_attention"]));
        assert!(wrong.unwrap_err().starts_with("layer_types: found 1 of them, num_hidden_layers is 2"));
    }
}
