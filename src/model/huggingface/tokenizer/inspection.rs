//! What `tokenizer.json` asks for, checked before the tokenizer library is handed it.
//!
//! The library believes its file: a length in it is allocated, a number of repetitions is carried out, and what does not fit
//! together panics or, where memory or the stack runs out, ends the process. Panics are caught where the library is called;
//! this module refuses the rest.

mod steps;
mod vocabulary;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use self::vocabulary::Vocabulary;

/// Most characters of a word that `WordPiece` cuts; its time grows with the square.
const MAX_WORD_CHARACTERS: u64 = 1000;

/// The parts of `tokenizer.json` that can do harm. What cannot is left to the library.
#[derive(Deserialize)]
struct Outline {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelOutline,
}

#[derive(Deserialize)]
struct ModelOutline {
    dropout: Option<Value>,
    max_input_chars_per_word: Option<Value>,
    continuing_subword_prefix: Option<Value>,
    #[serde(default)]
    vocab: Vocabulary,
}

/// Only read where a prefix is cut from the second tokens of merges.
#[derive(Deserialize)]
struct Merges {
    model: MergesOfModel,
}

#[derive(Deserialize)]
struct MergesOfModel {
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(IgnoredAny, String),
    /// With a space between.
    Text(String),
    Other(IgnoredAny),
}

impl Merge {
    fn second(&self) -> Option<&str> {
        match self {
            Self::Pair(_, second) => Some(second),
            Self::Text(text) => text.split_once(' ').map(|(_, second)| second),
            Self::Other(_) => None,
        }
    }
}

/// Checks the text of a `tokenizer.json`.
///
/// # Errors
///
/// Names the key, what was found and what is expected.
pub(super) fn check(json: &[u8]) -> Result<(), String> {
    let outline: Outline = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let parts = [
        ("normalizer", outline.normalizer),
        ("pre_tokenizer", outline.pre_tokenizer),
        ("post_processor", outline.post_processor),
        ("decoder", outline.decoder),
    ];
    for (key, part) in parts {
        steps::check(key, &part.unwrap_or_default())?;
    }
    let model = outline.model;
    model.vocab.check()?;
    // Merges would be left out at random, also where the model is only measured.
    match &model.dropout {
        None | Some(Value::Null) => {}
        Some(Value::Number(number)) if number.as_f64() == Some(0.0) => {}
        Some(found) => {
            return Err(format!("model.dropout: found {found}, expected null: tokens would be drawn at random"));
        }
    }
    if let Some(found) =
        model.max_input_chars_per_word.filter(|found| found.as_u64().is_none_or(|n| n > MAX_WORD_CHARACTERS))
    {
        return Err(format!("model.max_input_chars_per_word: found {found}, expected 0 to {MAX_WORD_CHARACTERS}"));
    }
    match model.continuing_subword_prefix {
        Some(Value::String(prefix)) if !prefix.is_empty() => check_merges(json, &prefix),
        _ => Ok(()),
    }
}

/// The library cuts as many bytes as `prefix` has from the second token of each merge, whatever they are.
fn check_merges(json: &[u8], prefix: &str) -> Result<(), String> {
    let merges: Merges = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    match merges.model.merges.iter().filter_map(Merge::second).find(|second| !second.is_char_boundary(prefix.len())) {
        None => Ok(()),
        Some(second) => Err(format!(
            "model.merges: found {second:?} as a second token, expected one that begins with continuing_subword_prefix \
             {prefix:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(change: impl FnOnce(&mut Value)) -> String {
        let mut tokenizer = json!({
            "normalizer": {"type": "NFC"}, "pre_tokenizer": null, "decoder": null,
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]},
        });
        change(&mut tokenizer);
        check(tokenizer.to_string().as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn what_would_end_the_process_or_change_by_chance_is_refused_by_name() {
        assert_eq!(error(|_| ()), "");
        let cases: [(&str, Value, &str); 9] = [
            ("/model/dropout", json!(0.1), "model.dropout: found 0.1, expected null"),
            ("/model/dropout", json!(0.0), ""),
            ("/model/max_input_chars_per_word", json!(100), ""),
            ("/model/max_input_chars_per_word", json!(1_000_000), "model.max_input_chars_per_word: found 1000000"),
            ("/model/continuing_subword_prefix", json!("##"), "model.merges: found \"b\" as a second token"),
            ("/model/continuing_subword_prefix", json!(""), ""),
            (
                "/model/vocab",
                json!([["a".repeat(5000), 0.0]]),
                "model.vocab: found a token of 5000 bytes, expected at most 4096",
            ),
            (
                "/model/vocab",
                json!({"a".repeat(70_000): 0}),
                "model.vocab: found a token of 70000 bytes, expected at most 65536",
            ),
            ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}), "precompiled_charsmap"),
        ];
        for (pointer, value, expected) in cases {
            let found = error(|tokenizer| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                tokenizer.pointer_mut(parent).unwrap()[key] = value;
            });
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{pointer}: {found}");
        }
    }

    #[test]
    fn a_prefix_is_cut_at_a_character_of_the_second_token() {
        let with = |prefix: &str, merges: Value| {
            error(|tokenizer| {
                tokenizer["model"]["continuing_subword_prefix"] = json!(prefix);
                tokenizer["model"]["merges"] = merges;
            })
        };
        assert_eq!(with("##", json!([["a", "##b"]])), "");
        assert_eq!(with("##", json!(["a ##b"])), "");
        assert!(with("##", json!(["a b"])).contains("found \"b\""));
        assert!(with("#", json!([["a", "éb"]])).contains("found \"éb\""));
    }
}
