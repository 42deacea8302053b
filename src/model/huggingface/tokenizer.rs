//! `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.

mod inspection;

use std::{fs, path::Path};

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::read_optional_json;
use crate::{
    model::{
        ModelError,
        tokenizer::{ChatTokenizer, TokenizerParts},
    },
    panics,
};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const TEMPLATE: &str = "chat_template.jinja";

/// The part of `tokenizer_config.json` that matters once there is a `tokenizer.json`.
#[derive(Default, Deserialize)]
struct TokenizerConfigJson {
    bos_token: Option<TokenJson>,
    eos_token: Option<TokenJson>,
    unk_token: Option<TokenJson>,
    pad_token: Option<TokenJson>,
    chat_template: Option<TemplateJson>,
}

/// A token as its text, or with the details that `tokenizer.json` repeats.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenJson {
    Text(String),
    Detailed { content: String },
}

impl TokenJson {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Detailed { content: text } => text,
        }
    }
}

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
    let bytes = fs::read(&path).map_err(ModelError::io(&path))?;
    let tokenizer = build(bytes).map_err(|problem| ModelError::invalid(&path, problem))?;
    let config_path = directory.join(TOKENIZER_CONFIG);
    let config: TokenizerConfigJson = read_optional_json(&config_path)?.unwrap_or_default();
    let named = [
        ("bos_token", config.bos_token),
        ("eos_token", config.eos_token),
        ("unk_token", config.unk_token),
        ("pad_token", config.pad_token),
    ];
    let variables: Vec<_> =
        named.into_iter().filter_map(|(name, token)| Some((name.to_owned(), token?.into_text()))).collect();
    if let Some((_, eos)) = variables.iter().find(|(name, _)| name == "eos_token") {
        let id = tokenizer.token_to_id(eos);
        let missing = || ModelError::invalid(&config_path, format!("eos_token: {eos:?} is not in {TOKENIZER}"));
        stop_ids.push(id.ok_or_else(missing)?);
    }
    let template = template(directory, &config_path, config.chat_template)?;
    ChatTokenizer::new(TokenizerParts { tokenizer, template, variables, stop_ids }, &path, vocab_size)
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
fn template(
    directory: &Path,
    config_path: &Path,
    in_config: Option<TemplateJson>,
) -> Result<Option<String>, ModelError> {
    let path = directory.join(TEMPLATE);
    if path.exists() {
        return fs::read_to_string(&path).map(Some).map_err(ModelError::io(&path));
    }
    match in_config {
        None => Ok(None),
        Some(TemplateJson::One(template)) => Ok(Some(template)),
        Some(TemplateJson::Several(templates)) => {
            let names: Vec<_> = templates.iter().map(|template| template.name.clone()).collect();
            let default = templates.into_iter().find(|template| template.name == "default");
            let problem = || format!("chat_template: found {}, expected one named default", names.join(", "));
            let default = default.ok_or_else(|| ModelError::invalid(config_path, problem()))?;
            Ok(Some(default.template))
        }
    }
}
