//! Adapters as PEFT directories: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter in memory has one rank and one scaling for all its matrices, in every layer. Those of PEFT that vary by module are
//! brought into that form, which computes the same: matrices of a smaller rank are filled up with zeros, modules that are not
//! adapted have zeros alone, and what a module's scaling differs by is multiplied into its B.

mod config;
mod modules;
mod weights;

use std::{collections::HashMap, path::Path, sync::Arc};

use fedward_actors::protocol::{Adapter, AdapterLayout};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};

use self::config::Settings;
use super::{LoraConfig, LoraRef, stack};
use crate::{
    model::{ModelConfig, ModelError},
    store::{read_regular, replace},
};

/// What tells a directory for a PEFT adapter.
pub const CONFIG_FILE: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// The same as a pickle, which may run any code when it is opened.
const PICKLED_WEIGHTS: &str = "adapter_model.bin";
/// What [`save`] writes.
pub(crate) const FILES: [&str; 2] = [WEIGHTS, CONFIG_FILE];

/// Writes an adapter that was made by `config` to the directory `dir`, which is created; each file is replaced whole or not at all.
///
/// With frozen terms beneath it, their ranks and its own stand one behind another in one adapter of an alpha that equals its rank: the
/// sum of all products, exactly.
///
/// # Errors
///
/// [`ModelError::Io`] if a file cannot be written.
pub fn save<'a>(
    dir: &Path,
    config: &LoraConfig,
    lora: impl Into<LoraRef<'a>>,
    base_model_name: &str,
) -> Result<(), ModelError> {
    let lora = lora.into();
    let Some(stacked) = stacked(lora)? else { return write(dir, config, lora.trainable, base_model_name) };
    let rank = stacked.layout().tensors().first().map_or(0, |a| a.shape[0]);
    let config = LoraConfig { rank, alpha: rank as f64, use_rslora: false, ..config.clone() };
    write(dir, &config, &stacked, base_model_name)
}

/// Returns the one adapter that [`save`] writes of several terms; `None` where nothing is frozen.
///
/// # Errors
///
/// [`ModelError`] if the terms differ in their targets.
pub fn stacked(LoraRef { frozen, trainable }: LoraRef<'_>) -> Result<Option<Adapter>, ModelError> {
    if frozen.is_empty() {
        return Ok(None);
    }
    let terms: Vec<&Adapter> = frozen.iter().map(AsRef::as_ref).chain([trainable]).collect();
    stack(&terms).map(Some)
}

fn write(dir: &Path, config: &LoraConfig, adapter: &Adapter, base_model_name: &str) -> Result<(), ModelError> {
    let (weights_path, config_path) = (dir.join(WEIGHTS), dir.join(CONFIG_FILE));
    let mut text = serde_json::to_vec_pretty(&config_json(config, base_model_name))
        .map_err(|error| ModelError::invalid(&config_path, error.to_string()))?;
    text.push(b'\n');
    let weights = to_safetensors(adapter).map_err(|error| ModelError::invalid(&weights_path, error.to_string()))?;
    replace(&weights_path, &weights).map_err(ModelError::io(&weights_path))?;
    replace(&config_path, &text).map_err(ModelError::io(&config_path))
}

/// Reads the adapter in the directory `dir`, which must fit a model of `model`.
///
/// # Errors
///
/// [`ModelError`] names the file, the key or tensor, what was found and what is allowed.
pub fn load(dir: &Path, model: &ModelConfig) -> Result<(LoraConfig, Adapter), ModelError> {
    let path = dir.join(CONFIG_FILE);
    let text = read_regular(&path).map_err(ModelError::io(&path))?;
    let json: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| ModelError::invalid(&path, error.to_string()))?;
    let invalid = |problem| ModelError::invalid(&path, problem);
    let settings = Settings::parse(&json).map_err(invalid)?;
    let modules = settings.modules(model).map_err(invalid)?;
    let path = dir.join(WEIGHTS);
    if !path.exists() && dir.join(PICKLED_WEIGHTS).exists() {
        return Err(ModelError::invalid(&dir.join(PICKLED_WEIGHTS), pickle_problem()));
    }
    let bytes = read_regular(&path).map_err(ModelError::io(&path))?;
    weights::read(&bytes, &settings, &modules, model).map_err(|problem| ModelError::invalid(&path, problem))
}

/// Reads the adapter in the directory `dir` as [`save`] wrote it, with nothing known of its model but the adapter's layout.
///
/// # Errors
///
/// [`ModelError`] if the file is not whole, or holds other tensors than those of `layout`.
pub fn load_saved(dir: &Path, layout: &Arc<AdapterLayout>) -> Result<Adapter, ModelError> {
    let path = dir.join(WEIGHTS);
    let bytes = read_regular(&path).map_err(ModelError::io(&path))?;
    weights::read_saved(&bytes, layout).map_err(|problem| ModelError::invalid(&path, problem))
}

/// What to do about weights that are not read.
fn pickle_problem() -> String {
    format!(
        "found a pickle, which could run code when it is opened, expected {WEIGHTS}; convert it in its folder with: python -c \
         \"import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in torch.load('{PICKLED_WEIGHTS}', \
         map_location='cpu', weights_only=True).items()}}, '{WEIGHTS}')\""
    )
}

/// As [`load`], with a warning if the adapter names another base model than `name`.
///
/// # Errors
///
/// As [`load`].
pub fn load_for(dir: &Path, model: &ModelConfig, name: &str) -> Result<(LoraConfig, Adapter), ModelError> {
    let loaded = load(dir, model)?;
    if let Some(made_for) = other_base_model(dir, name) {
        tracing::warn!(adapter = %dir.display(), made_for, used_on = name, "the adapter was made for another base model");
    }
    Ok(loaded)
}

/// The base model that the adapter in `dir` names, if it is plainly another one than `name`: by the last parts of their paths,
/// whatever the case and the ending.
fn other_base_model(dir: &Path, name: &str) -> Option<String> {
    let json: Value = serde_json::from_slice(&read_regular(&dir.join(CONFIG_FILE)).ok()?).ok()?;
    let named = json.get("base_model_name_or_path")?.as_str()?;
    let (theirs, ours) = (repository(named), repository(name));
    let (shorter, longer) = if theirs.len() < ours.len() { (&theirs, &ours) } else { (&ours, &theirs) };
    // Files have endings, and folders of files that were converted.
    let ends_alike = |rest: &str| rest.is_empty() || rest.starts_with('.') || rest.starts_with("-gguf");
    let is_the_same = longer.strip_prefix(shorter.as_str()).is_some_and(ends_alike);
    let says_nothing = shorter.is_empty() || shorter.starts_with('.');
    (!is_the_same && !says_nothing).then(|| named.to_owned())
}

/// What a checkpoint is called at the end of a path, in a cache of Hugging Face's in the middle.
fn repository(path: &str) -> String {
    let cached = path.split('/').find_map(|part| part.strip_prefix("models--")?.rsplit("--").next());
    let last = path.trim_end_matches('/').rsplit('/').next();
    cached.or(last).unwrap_or_default().to_lowercase()
}

/// The adapter as a safetensors file with PEFT's names, in `f32`.
fn to_safetensors(adapter: &Adapter) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let tensors: Vec<_> = adapter
        .layout()
        .tensors()
        .iter()
        .map(|tensor| {
            let bytes: Vec<u8> = adapter.tensor(tensor).iter().flat_map(|value| value.to_le_bytes()).collect();
            (tensor, bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(tensor, bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.to_vec(), bytes)?;
            Ok((&tensor.name, view))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(format))
}

fn config_json(config: &LoraConfig, base_model_name: &str) -> Value {
    // PEFT types alpha as an integer; it takes other numbers too.
    let alpha = if config.alpha.fract() == 0.0 && config.alpha.abs() < 1e15 {
        json!(config.alpha as i64)
    } else {
        json!(config.alpha)
    };
    let targets: Vec<_> = config.targets.iter().map(|target| target.name()).collect();
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base_model_name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.use_rslora,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_base_model_is_told_from_the_same_by_another_path() {
        let dir = tempfile::tempdir().unwrap();
        let other = |named: Value, name: &str| {
            let config = json!({"base_model_name_or_path": named}).to_string();
            std::fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
            other_base_model(dir.path(), name)
        };
        let small = "HuggingFaceTB/SmolLM2-135M-Instruct";
        assert_eq!(other(json!(small), "smollm2-135m-instruct"), None);
        assert_eq!(other(json!(small), "/models/SmolLM2-135M-Instruct.Q4_1.gguf"), None);
        assert_eq!(other(json!(""), "smollm2-135m-instruct"), None);
        assert_eq!(other(json!(small), "/cache/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/0af3"), None);
        assert_eq!(other(json!(small), "."), None);
        assert!(other(json!("meta-llama/Llama-3-8B"), "/models/Llama-3-8B-Instruct").is_some());
        assert_eq!(other(Value::Null, "smollm2-135m-instruct"), None);
        assert_eq!(
            other(json!("meta-llama/Llama-3-8B"), "smollm2-135m-instruct").as_deref(),
            Some("meta-llama/Llama-3-8B")
        );
    }
}
