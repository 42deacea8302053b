//! Adapters as PEFT directories: `adapter_config.json` and `adapter_model.safetensors`.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use fedward_actors::protocol::Adapter;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::{LoraConfig, Target};
use crate::{
    model::{ModelConfig, ModelError},
    store::replace,
};

/// What tells a directory for a PEFT adapter.
pub const CONFIG_FILE: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// Keys of `adapter_config.json` that are read, or that change nothing about what the adapter computes. Every other key
/// must be off, so that a variant of LoRA that is not known here is refused rather than misread.
const KNOWN_KEYS: [&str; 15] = [
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "use_rslora",
    "bias",
    "init_lora_weights",
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "megatron_core",
];

/// Writes `adapter` to the directory `dir`, which is created; each file is replaced whole or not at all.
///
/// # Errors
///
/// [`ModelError::Io`] if a file cannot be written.
pub fn save(dir: &Path, config: &LoraConfig, adapter: &Adapter, base_model_name: &str) -> Result<(), ModelError> {
    let (weights_path, config_path) = (dir.join(WEIGHTS), dir.join(CONFIG_FILE));
    let mut text = serde_json::to_vec_pretty(&config_json(config, base_model_name))
        .map_err(|error| ModelError::invalid(&config_path, error.to_string()))?;
    text.push(b'\n');
    let weights = to_safetensors(adapter).map_err(|error| ModelError::invalid(&weights_path, error.to_string()))?;
    replace(&weights_path, &weights).map_err(ModelError::io(&weights_path))?;
    replace(&config_path, &text).map_err(ModelError::io(&config_path))
}

/// Whether [`save`] has finished in `dir`: the file that it writes last is there.
pub fn is_saved(dir: &Path) -> bool {
    dir.join(CONFIG_FILE).exists()
}

/// Reads the adapter in the directory `dir`, which must fit a model of `model`.
///
/// # Errors
///
/// [`ModelError`] names the file, the key or tensor, what was found and what is allowed.
pub fn load(dir: &Path, model: &ModelConfig) -> Result<(LoraConfig, Adapter), ModelError> {
    let path = dir.join(CONFIG_FILE);
    let text = fs::read(&path).map_err(ModelError::io(&path))?;
    let json: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| ModelError::invalid(&path, error.to_string()))?;
    let config = parse_config(&json).map_err(|problem| ModelError::invalid(&path, problem))?;
    let path = dir.join(WEIGHTS);
    let bytes = fs::read(&path).map_err(ModelError::io(&path))?;
    let adapter = from_safetensors(&bytes, &config, model).map_err(|problem| ModelError::invalid(&path, problem))?;
    Ok((config, adapter))
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
    let json: Value = serde_json::from_slice(&fs::read(dir.join(CONFIG_FILE)).ok()?).ok()?;
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

fn from_safetensors(bytes: &[u8], config: &LoraConfig, model: &ModelConfig) -> Result<Adapter, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("not a whole safetensors file: {error}"))?;
    let layout = config.layout(model);
    // Grows with what the file has, not with the rank that the configuration claims.
    let mut values = Vec::new();
    for tensor in layout.tensors() {
        let view = file
            .tensor(&tensor.name)
            .map_err(|_| format!("tensor {} of shape {:?} is missing", tensor.name, tensor.shape))?;
        if view.shape() != tensor.shape {
            return Err(format!("tensor {}: found shape {:?}, expected {:?}", tensor.name, view.shape(), tensor.shape));
        }
        extend_widened(&mut values, &view).map_err(|problem| format!("tensor {}: {problem}", tensor.name))?;
    }
    let expected: BTreeSet<_> = layout.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    if let Some(name) = file.names().into_iter().filter(|name| !expected.contains(name)).min() {
        let targets: Vec<_> = config.targets.iter().map(|target| target.name()).collect();
        return Err(format!(
            "tensor {name} does not belong to a LoRA of {} in {} layers",
            targets.join(", "),
            model.num_hidden_layers
        ));
    }
    let adapter = Adapter::new(layout, values).map_err(|error| error.to_string())?;
    adapter.check_finite().map_err(|error| error.to_string())?;
    Ok(adapter)
}

fn extend_widened(values: &mut Vec<f32>, view: &TensorView<'_>) -> Result<(), String> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => values.extend(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        Dtype::F16 => values.extend(data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
        Dtype::BF16 => values.extend(data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
        other => return Err(format!("found type {other:?}, allowed: F32, F16, BF16")),
    }
    Ok(())
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

fn parse_config(json: &Map<String, Value>) -> Result<LoraConfig, String> {
    expect(json, "peft_type", &[json!("LORA")])?;
    if json.get("bias").is_some() {
        expect(json, "bias", &[json!("none")])?;
    }
    // The others (PiSSA, LoftQ, …) start by changing the base model, which is then no longer the one that we have.
    if json.get("init_lora_weights").is_some() {
        let allowed = [json!(true), json!(false), json!("gaussian"), json!("orthogonal"), json!("eva")];
        expect(json, "init_lora_weights", &allowed)?;
    }
    for (key, value) in json {
        // The group size of a variant that has a switch of its own.
        let known = KNOWN_KEYS.contains(&key.as_str()) || key == "qalora_group_size";
        // Only with EVA's initialisation, which the adapter's values already reflect.
        let known = known || key == "eva_config";
        if !known && !is_off(value) {
            return Err(format!("{key}: found {value}, which is not supported; it must be off"));
        }
    }
    let number = |key: &str| match json.get(key) {
        Some(Value::Number(number)) => Ok(number.as_f64().unwrap_or(f64::NAN)),
        Some(other) => Err(format!("{key}: found {other}, expected a number")),
        None => Err(format!("{key} is missing")),
    };
    let rank = number("r")?;
    if !(1.0..=65_536.0).contains(&rank) || rank.fract() != 0.0 {
        return Err(format!("r: found {rank}, allowed are whole numbers from 1 to 65536"));
    }
    let alpha = number("lora_alpha")?;
    if !alpha.is_finite() {
        return Err(format!("lora_alpha: found {alpha}, expected a finite number"));
    }
    let dropout = if json.contains_key("lora_dropout") { number("lora_dropout")? } else { 0.0 };
    if !(0.0..1.0).contains(&dropout) {
        return Err(format!("lora_dropout: found {dropout}, allowed are numbers from 0 to below 1"));
    }
    let use_rslora = match json.get("use_rslora") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(other) => return Err(format!("use_rslora: found {other}, expected true or false")),
    };
    Ok(LoraConfig { rank: rank as usize, alpha, dropout, targets: targets(json.get("target_modules"))?, use_rslora })
}

/// `target_modules` by the layers' names, whole (`model.layers.0.self_attn.q_proj`, as `all-linear` is saved) or last
/// part; that every layer of the model is there, and nothing else, is checked with the tensors.
fn targets(value: Option<&Value>) -> Result<BTreeSet<Target>, String> {
    match value {
        Some(Value::String(all)) if all == "all-linear" => Ok(Target::ALL.into()),
        Some(Value::String(pattern)) => Err(format!(
            "target_modules: found the pattern {pattern:?}; patterns are not supported, list the layers' names instead"
        )),
        Some(Value::Array(names)) if !names.is_empty() => names
            .iter()
            .map(|name| {
                let name = name.as_str().ok_or_else(|| format!("target_modules: found {name}, expected a name"))?;
                let last = name.rsplit('.').next().unwrap_or(name);
                last.parse().map_err(|problem| format!("target_modules: {problem}"))
            })
            .collect(),
        Some(other) => Err(format!("target_modules: found {other}, expected a list of names")),
        None => Err("target_modules is missing".to_owned()),
    }
}

fn expect(json: &Map<String, Value>, key: &str, allowed: &[Value]) -> Result<(), String> {
    match json.get(key) {
        Some(found) if allowed.contains(found) => Ok(()),
        found => {
            let allowed: Vec<_> = allowed.iter().map(Value::to_string).collect();
            let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
            Err(format!("{key}: found {found}, allowed: {}", allowed.join(", ")))
        }
    }
}

/// Whether a setting says that its feature is not used.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_base_model_is_told_from_the_same_by_another_path() {
        let dir = tempfile::tempdir().unwrap();
        let other = |named: Value, name: &str| {
            let config = json!({"base_model_name_or_path": named}).to_string();
            fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
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
