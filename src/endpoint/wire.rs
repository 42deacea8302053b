//! What goes over the wire: the part of `OpenAI`'s chat completions that servers agree on.

use fedward_actors::protocol::{ChatMessage, hex};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::ExtraBody;

/// What an endpoint's model is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The conversation; the model gives its next turn.
    pub messages: Vec<ChatMessage>,
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatCompletion {
    /// The text.
    pub text: String,
    /// Why it ends, in the server's words: `stop`, `length`, ….
    pub finish_reason: Option<String>,
    /// Length of the prompt, if the server counts.
    pub prompt_tokens: Option<u64>,
    /// Length of the answer, if the server counts.
    pub completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

#[derive(Default, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

impl ChatRequest {
    /// The request's JSON.
    pub(super) fn body(&self, model: &str, extra: &ExtraBody) -> Result<Vec<u8>, serde_json::Error> {
        let fields = [
            ("model", json!(model)),
            ("messages", serde_json::to_value(&self.messages)?),
            ("temperature", json!(self.temperature)),
            ("max_tokens", json!(self.max_tokens)),
            ("stream", json!(false)),
        ];
        let mut body = Map::from_iter(fields.map(|(name, value)| (name.to_owned(), value)));
        extra.add_to(&mut body);
        serde_json::to_vec(&body)
    }

    /// A number that depends on the request alone, so that its waits are the same wherever it stands in a list.
    pub(super) fn fingerprint(&self) -> u32 {
        let mut hash = Sha256::new();
        for message in &self.messages {
            hash.update(message.role.as_str());
            hash.update(&message.content);
        }
        u32::from_str_radix(&hex(&hash.finalize())[..8], 16).unwrap_or_default()
    }

    /// Whether a text quotes one of the messages: 16 characters in a row.
    fn is_quoted_in(&self, text: &str) -> bool {
        const QUOTE: usize = 16;
        let starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
        let ends = starts.iter().skip(QUOTE).copied().chain([text.len()]);
        let quotes = || starts.iter().zip(ends.clone()).map(|(&start, end)| &text[start..end]);
        starts.len() >= QUOTE
            && self.messages.iter().any(|message| quotes().any(|quote| message.content.contains(quote)))
    }

    /// A server's complaint in one line; `None` if it has none or quotes the request, which may be harmful text.
    pub(super) fn complaint(&self, body: &str) -> Option<String> {
        let value: Value = serde_json::from_str(body).ok()?;
        let texts = ["/error/message", "/error", "/message", "/detail"];
        let message = texts.iter().find_map(|pointer| value.pointer(pointer)?.as_str())?;
        if message.trim().is_empty() || self.is_quoted_in(message) {
            return None;
        }
        let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        Some(line.trim().to_owned())
    }
}

/// Reads an answer.
///
/// # Errors
///
/// What is wrong with it, in words that repeat none of it.
pub(super) fn parse(body: &str) -> Result<ChatCompletion, String> {
    let value: Value = serde_json::from_str(body)
        .map_err(|error| format!("no JSON (line {}, column {})", error.line(), error.column()))?;
    let found: Completion = serde_path_to_error::deserialize(value)
        .map_err(|error| format!("{} is missing or of another type", error.path()))?;
    let choice = found.choices.into_iter().next().ok_or("choices is empty")?;
    let usage = found.usage.unwrap_or_default();
    Ok(ChatCompletion {
        text: choice.message.content,
        finish_reason: choice.finish_reason,
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
    })
}
