//! The tokenizer, from GGUF metadata.

use std::{collections::HashSet, path::Path};

use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::header::{Header, Value};
use crate::{
    model::{
        ModelError,
        tokenizer::{ChatTokenizer, TokenizerParts},
    },
    panics,
};

/// GGUF's kinds of tokens that matter here.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// How Llama 3 splits text before merging.
const LLAMA_3_PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// The tokenizer and chat template that `header` describes.
pub(super) fn chat_tokenizer(header: &Header, path: &Path, vocab_size: i64) -> Result<ChatTokenizer, ModelError> {
    let built = panics::catch_all(|| parts(header)).unwrap_or_else(|panic| {
        Err(format!("the tokenizer's metadata does not fit together: the tokenizer library panics ({panic})"))
    });
    let parts = built.map_err(|problem| ModelError::invalid(path, problem))?;
    ChatTokenizer::new(parts, path, vocab_size)
}

fn parts(header: &Header) -> Result<TokenizerParts, String> {
    let model = header.text("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(format!(
            "tokenizer.ggml.model: found {model:?}, allowed is \"gpt2\" (byte-level BPE); use the model's Hugging Face \
             directory instead"
        ));
    }
    let tokens = texts(header, "tokenizer.ggml.tokens")?;
    let special_id = |key: &str| -> Result<Option<u32>, String> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = header.optional_integer(&key)? else { return Ok(None) };
        match u32::try_from(id) {
            Ok(id) if (id as usize) < tokens.len() => Ok(Some(id)),
            _ => Err(format!("{key}: found {id}, allowed are 0 to {}", tokens.len() - 1)),
        }
    };
    let mut stop_ids = Vec::new();
    for key in ["eos", "eot", "eom"] {
        stop_ids.extend(special_id(key)?);
    }
    let mut special_ids: HashSet<u32> = stop_ids.iter().copied().collect();
    let mut variables = Vec::new();
    for (variable, key) in
        [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        if let Some(id) = special_id(key)? {
            special_ids.insert(id);
            variables.push((variable.to_owned(), tokens[id as usize].to_owned()));
        }
    }
    let template = header.optional_text("tokenizer.chat_template")?.map(str::to_owned);
    let mut tokenizer = tokenizer(header, &tokens)?;
    special_ids.extend(written_whole(&tokenizer, &tokens, template.as_deref().unwrap_or_default())?);
    tokenizer
        .add_tokens(added_tokens(header, &tokens, &special_ids)?)
        .map_err(|error| format!("tokenizer.ggml.tokens: {error}"))?;
    Ok(TokenizerParts { tokenizer, template, variables, extra: Vec::new(), stop_ids })
}

fn tokenizer(header: &Header, tokens: &[&str]) -> Result<Tokenizer, String> {
    let (pre_tokenizer, ignore_merges) = pre_tokenizer(header)?;
    let mut vocab = Vocab::default();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = vocab.insert((*token).to_owned(), id as u32) {
            return Err(format!("tokenizer.ggml.tokens: {token:?} is both token {other} and token {id}"));
        }
    }
    let merges = texts(header, "tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(format!("tokenizer.ggml.merges: {merge:?} is not two tokens with a space between")),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|error| format!("tokenizer.ggml.merges: {error}"))?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok(tokenizer)
}

/// How text is split before merging, and whether whole words of the vocabulary are taken without merging.
fn pre_tokenizer(header: &Header) -> Result<(PreTokenizerWrapper, bool), String> {
    let name = header.text("tokenizer.ggml.pre")?;
    let byte_level = |use_regex| ByteLevel::new(false, true, use_regex);
    Ok(match name {
        "gpt-2" => (byte_level(true).into(), false),
        "smollm" => (Sequence::new(vec![Digits::new(true).into(), byte_level(true).into()]).into(), false),
        "llama-bpe" | "llama3" | "llama-v3" => {
            let pattern = SplitPattern::Regex(LLAMA_3_PATTERN.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| format!("tokenizer.ggml.pre: {error}"))?;
            (Sequence::new(vec![split.into(), byte_level(false).into()]).into(), true)
        }
        _ => {
            return Err(format!(
                "tokenizer.ggml.pre: found {name:?}, allowed: gpt-2, llama-bpe, smollm; use the model's Hugging Face \
                 directory instead"
            ));
        }
    })
}

/// Tokens in brackets that the template writes and that no text is split into: they can only be meant as control tokens, whatever
/// their type. Converters of fine-tunes wrote them as normal ones.
fn written_whole(tokenizer: &Tokenizer, tokens: &[&str], template: &str) -> Result<Vec<u32>, String> {
    let in_brackets = |token: &str| {
        let inside = token.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        inside.or_else(|| token.strip_prefix('[')?.strip_suffix(']')).is_some_and(|inside| !inside.is_empty())
    };
    let mut written = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if !in_brackets(token) || !template.contains(token) {
            continue;
        }
        let pieces =
            tokenizer.encode(*token, false).map_err(|error| format!("tokenizer.ggml.tokens: {token:?}: {error}"))?;
        if pieces.get_ids() != [id as u32] {
            written.push(id as u32);
        }
    }
    Ok(written)
}

/// Tokens that are matched before any splitting; those of `control` are special whatever their type.
fn added_tokens(header: &Header, tokens: &[&str], control: &HashSet<u32>) -> Result<Vec<AddedToken>, String> {
    let kinds = header.array("tokenizer.ggml.token_type")?;
    if kinds.len() != tokens.len() {
        return Err(format!("tokenizer.ggml.token_type: found {} of them for {} tokens", kinds.len(), tokens.len()));
    }
    let added = kinds.iter().zip(tokens).zip(0..).filter_map(|((kind, token), id)| match kind {
        Value::Integer(CONTROL) => Some(AddedToken::from(*token, true)),
        Value::Integer(USER_DEFINED) => Some(AddedToken::from(*token, false)),
        _ if control.contains(&id) => Some(AddedToken::from(*token, true)),
        _ => None,
    });
    Ok(added.collect())
}

fn texts<'a>(header: &'a Header, key: &str) -> Result<Vec<&'a str>, String> {
    let values = header.array(key)?.iter().map(|value| match value {
        Value::Text(text) => Ok(text.as_str()),
        _ => Err(format!("{key}: found another array, expected one of strings")),
    });
    values.collect()
}
