//! What is asked over the wire: the part of `OpenAI`'s chat completions that servers agree on.

use fedward_actors::protocol::{ChatMessage, hex};
use serde_json::{Map, json};
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
    /// Why it ends, in the server's words: `stop`, `length`, …. Not for people: they may be any.
    pub finish_reason: Option<String>,
    /// Length of the prompt, if the server counts.
    pub prompt_tokens: Option<u64>,
    /// Length of the answer, if the server counts.
    pub completion_tokens: Option<u64>,
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
}
