//! `adapter_config.json`, as far as it says what an adapter computes.

use serde_json::{Map, Value};

use super::modules::{Module, Pattern, Selection};
use crate::model::ModelConfig;

/// Keys that are read, or that change nothing about what the adapter computes. Every other key must be off, so that a variant
/// of LoRA that is not known here is refused rather than misread.
const KNOWN_KEYS: [&str; 24] = [
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "use_rslora",
    "bias",
    "init_lora_weights",
    // For layers of GPT-2's make, which no model here has; `peft` ignores it elsewhere.
    "fan_in_fan_out",
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "megatron_core",
    // The group size of a variant that has a switch of its own.
    "qalora_group_size",
    // Only with EVA's initialisation, which the adapter's values already reflect.
    "eva_config",
    // Only with LoftQ's initialisation, which is refused.
    "loftq_config",
];

/// Initialisations that leave the base model as it is.
const INITIALISATIONS: [&str; 4] = ["gaussian", "orthogonal", "eva", "mica"];

/// Ranks, scalings and modules of an adapter.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) dropout: f64,
    pub(super) use_rslora: bool,
    selection: Selection,
    rank_pattern: Vec<(Pattern, usize)>,
    alpha_pattern: Vec<(Pattern, f64)>,
}

impl Settings {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// Names the key, what was found and what is allowed.
    pub(super) fn parse(json: &Map<String, Value>) -> Result<Self, String> {
        refuse_other_kinds(json)?;
        let dropout = if json.contains_key("lora_dropout") { number(json, "lora_dropout")? } else { 0.0 };
        if !(0.0..1.0).contains(&dropout) {
            return Err(format!("lora_dropout: found {dropout}, allowed are numbers from 0 to below 1"));
        }
        let use_rslora = match json.get("use_rslora") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(other) => return Err(format!("use_rslora: found {other}, expected true or false")),
        };
        Ok(Self {
            rank: rank("r", json.get("r"))?,
            alpha: alpha("lora_alpha", json.get("lora_alpha"))?,
            dropout,
            use_rslora,
            selection: Selection::parse(json)?,
            rank_pattern: pattern(json, "rank_pattern", rank)?,
            alpha_pattern: pattern(json, "alpha_pattern", alpha)?,
        })
    }

    /// The modules of `model` that are adapted, in the order of the forward pass.
    ///
    /// # Errors
    ///
    /// Says if there are none, or which pattern cannot be matched.
    pub(super) fn modules(&self, model: &ModelConfig) -> Result<Vec<Module>, String> {
        let mut modules = Vec::new();
        for mut module in Module::all(model) {
            if self.selection.includes(&module.name)? {
                module.rank = first_match(&self.rank_pattern, &module.name)?.unwrap_or(self.rank);
                let alpha = first_match(&self.alpha_pattern, &module.name)?.unwrap_or(self.alpha);
                let rank = module.rank as f64;
                module.scaling = alpha / if self.use_rslora { rank.sqrt() } else { rank };
                modules.push(module);
            }
        }
        if modules.is_empty() { Err(self.selection.nothing_found()) } else { Ok(modules) }
    }
}

/// `peft` takes the first pattern that matches.
fn first_match<T: Copy>(patterns: &[(Pattern, T)], module: &str) -> Result<Option<T>, String> {
    for (pattern, value) in patterns {
        if pattern.matches(module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn refuse_other_kinds(json: &Map<String, Value>) -> Result<(), String> {
    expect(json, "peft_type", "LORA")?;
    if json.get("bias").is_some() {
        expect(json, "bias", "none")?;
    }
    match json.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(found)) if INITIALISATIONS.contains(&found.as_str()) => {}
        // PiSSA, OLoRA, LoftQ, …: the base model is then no longer the one that we have.
        Some(found) => {
            return Err(format!(
                "init_lora_weights: found {found}, which starts by changing the base model; expected true, false, \"{}\"; \
                 have peft save a plain LoRA: model.save_pretrained(\"plain\", \
                 path_initial_model_for_weight_conversion=\"initial\"), \"initial\" being the adapter saved before training",
                INITIALISATIONS.join("\", \"")
            ));
        }
    }
    match json.iter().find(|(key, value)| !KNOWN_KEYS.contains(&key.as_str()) && !is_off(value)) {
        None => Ok(()),
        Some((key, value)) => Err(format!("{key}: found {value}, which is not supported; it must be off")),
    }
}

fn expect(json: &Map<String, Value>, key: &str, allowed: &str) -> Result<(), String> {
    match json.get(key) {
        Some(found) if found == allowed => Ok(()),
        found => {
            let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
            Err(format!("{key}: found {found}, allowed: {allowed:?}"))
        }
    }
}

fn number(json: &Map<String, Value>, key: &str) -> Result<f64, String> {
    number_of(key, json.get(key))
}

fn number_of(key: &str, value: Option<&Value>) -> Result<f64, String> {
    match value {
        Some(Value::Number(number)) => Ok(number.as_f64().unwrap_or(f64::NAN)),
        Some(other) => Err(format!("{key}: found {other}, expected a number")),
        None => Err(format!("{key} is missing")),
    }
}

fn rank(key: &str, value: Option<&Value>) -> Result<usize, String> {
    let rank = number_of(key, value)?;
    if !(1.0..=65_536.0).contains(&rank) || rank.fract() != 0.0 {
        return Err(format!("{key}: found {rank}, allowed are whole numbers from 1 to 65536"));
    }
    Ok(rank as usize)
}

fn alpha(key: &str, value: Option<&Value>) -> Result<f64, String> {
    let alpha = number_of(key, value)?;
    if !alpha.is_finite() {
        return Err(format!("{key}: found {alpha}, expected a finite number"));
    }
    Ok(alpha)
}

/// `rank_pattern` or `alpha_pattern`: regular expressions for the ends of modules' names, each with a value.
fn pattern<T>(
    json: &Map<String, Value>,
    key: &str,
    parse: fn(&str, Option<&Value>) -> Result<T, String>,
) -> Result<Vec<(Pattern, T)>, String> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(patterns)) => patterns
            .iter()
            .map(|(name, value)| Ok((Pattern::end(key, name)?, parse(&format!("{key}.{name}"), Some(value))?)))
            .collect(),
        Some(other) => Err(format!("{key}: found {other}, expected an object")),
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
