//! `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja`.

mod inspection;

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::read_optional_json;
use crate::{
    model::{
        ModelError,
        tokenizer::{ChatTokenizer, TokenizerParts},
    },
    panics,
    store::{read_regular, read_regular_text},
};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(super) const TEMPLATE: &str = "chat_template.jinja";

/// Tokens that have a part in the protocol of `transformers`, in its order.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// With this key `tokenizer_config.json` is whole, and `special_tokens_map.json` is not read.
const ADDED_TOKENS: &str = "added_tokens_decoder";

type Json = Map<String, Value>;

#[derive(Deserialize)]
#[serde(untagged)]
enum TemplateJson {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// The tokenizer in `directory`; `stop_ids` come from the model's configuration.
pub(super) fn read(directory: &Path, mut stop_ids: Vec<u32>, vocab_size: i64) -> Result<ChatTokenizer, ModelError> {
    let path = directory.join(TOKENIZER);
    let bytes = read_regular(&path).map_err(ModelError::io(&path))?;
    let tokenizer = build(bytes).map_err(|problem| ModelError::invalid(&path, problem))?;
    let config_path = directory.join(TOKENIZER_CONFIG);
    let mut config: Json = read_optional_json(&config_path)?.unwrap_or_default();
    let in_config = config.remove("chat_template").filter(|template| !template.is_null());
    let mut variables = named_tokens(&config).map_err(|problem| ModelError::invalid(&config_path, problem))?;
    let mut extra = extra_tokens(&config);
    let mut eos_path = config_path.clone();
    if !config.contains_key(ADDED_TOKENS) {
        let map_path = directory.join(SPECIAL_TOKENS_MAP);
        let map: Json = read_optional_json(&map_path)?.unwrap_or_default();
        if map.contains_key("eos_token") {
            eos_path.clone_from(&map_path);
        }
        extra.extend(extra_tokens(&map));
        variables.retain(|(name, _)| !map.contains_key(name));
        variables.extend(named_tokens(&map).map_err(|problem| ModelError::invalid(&map_path, problem))?);
    }
    if let Some((_, eos)) = variables.iter().find(|(name, _)| name == "eos_token") {
        let id = tokenizer.token_to_id(eos);
        let missing = || ModelError::invalid(&eos_path, format!("eos_token: {eos:?} is not in {TOKENIZER}"));
        stop_ids.push(id.ok_or_else(missing)?);
    }
    let template = template(directory, &config_path, in_config)?;
    ChatTokenizer::new(TokenizerParts { tokenizer, template, variables, extra, stop_ids }, &path, vocab_size)
}

/// Whether `special_tokens_map.json` has a say in `directory`: older versions of `transformers` kept names of tokens there alone.
pub(super) fn reads_special_tokens_map(directory: &Path) -> Result<bool, ModelError> {
    let config: Json = read_optional_json(&directory.join(TOKENIZER_CONFIG))?.unwrap_or_default();
    Ok(!config.contains_key(ADDED_TOKENS))
}

/// The tokens that templates know by name: those of [`NAMED_TOKENS`], and what a model adds to them.
fn named_tokens(json: &Json) -> Result<Vec<(String, String)>, String> {
    let mut named = Vec::new();
    for (key, value) in json {
        if NAMED_TOKENS.contains(&key.as_str()) {
            let found = || format!("{key}: found {value}, expected a token as a text or with its content");
            if !value.is_null() {
                named.push((key.clone(), token_text(value).ok_or_else(found)?));
            }
        } else if key.ends_with("_token") {
            named.extend(token_text(value).map(|text| (key.clone(), text)));
        }
    }
    // A list there has no names.
    if let Some(Value::Object(extra)) = json.get("extra_special_tokens") {
        named.extend(extra.iter().filter_map(|(name, value)| Some((name.clone(), token_text(value)?))));
    }
    Ok(named)
}

/// Special tokens that a list has, without names.
fn extra_tokens(json: &Json) -> Vec<String> {
    let lists =
        ["extra_special_tokens", "additional_special_tokens"].iter().filter_map(|key| json.get(*key)?.as_array());
    lists.flatten().filter_map(token_text).collect()
}

/// The text of a token that stands as its text, or with the details that `tokenizer.json` repeats.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Builds the tokenizer that a `tokenizer.json` describes.
fn build(json: Vec<u8>) -> Result<Tokenizer, String> {
    inspection::check(&json)?;
    match panics::catch_all(|| Tokenizer::from_bytes(json)) {
        Ok(built) => built.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("the file's parts do not fit together: the tokenizer library panics ({panic})")),
    }
}

/// A template in a file of its own wins, as in `transformers`.
fn template(directory: &Path, config_path: &Path, in_config: Option<Value>) -> Result<Option<String>, ModelError> {
    let path = directory.join(TEMPLATE);
    if path.exists() {
        return read_regular_text(&path).map(Some).map_err(ModelError::io(&path));
    }
    let Some(in_config) = in_config else { return Ok(None) };
    let parsed = TemplateJson::deserialize(in_config)
        .map_err(|_| "chat_template: expected a text, or a list of objects with name and template".to_owned());
    match parsed.map_err(|problem| ModelError::invalid(config_path, problem))? {
        TemplateJson::One(template) => Ok(Some(template)),
        TemplateJson::Several(templates) => {
            let names: Vec<_> = templates.iter().map(|template| template.name.clone()).collect();
            let default = templates.into_iter().find(|template| template.name == "default");
            let problem = || format!("chat_template: found {}, expected one named default", names.join(", "));
            let default = default.ok_or_else(|| ModelError::invalid(config_path, problem()))?;
            Ok(Some(default.template))
        }
    }
}
