//! Chat rows and what a guard says of them.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::adapter::hex;

/// Who speaks in a chat turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that frame the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A turn of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// What is known about a row beforehand. Simulated clients never see it; measurements of the guard do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowLabel {
    /// Known to be harmless.
    Safe,
    /// Known to be harmful.
    Unsafe,
}

/// One training conversation; its last turn is the assistant's response, which the loss is computed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChatRow {
    /// The turns, oldest first.
    pub messages: Vec<ChatMessage>,
    /// What the row is about, or the value of the column that rows are parted by; partitions go by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What the row is known to be, where its source says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<RowLabel>,
}

impl ChatRow {
    /// A single-turn conversation.
    pub fn single_turn(prompt: impl Into<String>, response: impl Into<String>) -> Self {
        let messages = vec![ChatMessage::new(Role::User, prompt), ChatMessage::new(Role::Assistant, response)];
        Self { messages, topic: None, label: None }
    }

    /// The turns before the response: all but a closing assistant turn.
    pub fn prompt(&self) -> &[ChatMessage] {
        match self.messages.split_last() {
            Some((last, prompt)) if last.role == Role::Assistant => prompt,
            _ => &self.messages,
        }
    }

    /// The closing assistant turn, if there is one.
    pub fn response(&self) -> Option<&str> {
        self.messages.last().filter(|last| last.role == Role::Assistant).map(|last| last.content.as_str())
    }

    /// SHA-256 of the conversation (topic and label left out), which names a row without showing it.
    pub fn digest(&self) -> RowDigest {
        let mut hash = Sha256::new();
        for message in &self.messages {
            hash.update(message.role.as_str().as_bytes());
            hash.update((message.content.len() as u64).to_le_bytes());
            hash.update(message.content.as_bytes());
        }
        RowDigest(hash.finalize().into())
    }
}

/// Rows to train on, and how much the loss of each counts.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainRows {
    rows: Arc<[ChatRow]>,
    /// One a row, from 0 to 1; `None` where every row counts once.
    weights: Option<Arc<[f64]>>,
}

impl TrainRows {
    /// Rows that count once each.
    pub const fn new(rows: Arc<[ChatRow]>) -> Self {
        Self { rows, weights: None }
    }

    /// Rows that count as `weight_of` their index says, from 0 to 1.
    pub fn weighted(rows: Arc<[ChatRow]>, weight_of: impl Fn(usize) -> f64) -> Self {
        let weights = (0..rows.len()).map(weight_of).collect();
        Self { rows, weights: Some(weights) }
    }

    /// The rows.
    pub fn rows(&self) -> &[ChatRow] {
        &self.rows
    }

    /// The rows with their weights.
    pub fn iter(&self) -> impl Iterator<Item = (&ChatRow, f64)> {
        let weight = |row: usize| self.weights.as_ref().map_or(1.0, |weights| weights[row]);
        self.rows.iter().enumerate().map(move |(index, row)| (row, weight(index)))
    }

    /// All weights added up: how many examples these rows count as.
    pub fn weight_sum(&self) -> f64 {
        self.iter().map(|(_, weight)| weight).sum()
    }
}

/// SHA-256 of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowDigest(pub [u8; 32]);

impl fmt::Debug for RowDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..8]))
    }
}

/// A hazard category of the MLCommons taxonomy as Llama Guard 3 numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hazard(pub u8);

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S{}", self.0)
    }
}

/// A guard's answer about one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Probability that the row is unsafe, from 0 to 1.
    pub unsafe_probability: f32,
    /// Probability that it is safe. The two add up to less than 1 where a guard may say something else, and it is this one
    /// that thresholds are held against: doubt counts against the row.
    pub safe_probability: f32,
    /// Whether the guard calls the row unsafe by its threshold: see [`Verdict::passes_at`].
    pub is_unsafe: bool,
    /// The categories that the guard names; empty where it names none.
    pub hazards: Vec<Hazard>,
    /// Whether the guard's answer had no form that it could be read in; the row is then unsafe for certain.
    #[serde(default)]
    pub is_malformed: bool,
    /// Whether the row was too long for the guard, which then read only a part of it.
    #[serde(default)]
    pub is_cut: bool,
}

impl Verdict {
    /// The verdict of a guard that says safe or unsafe and nothing else.
    pub fn of_probability(unsafe_probability: f64, threshold: f64) -> Self {
        let mut verdict = Self {
            unsafe_probability: unsafe_probability as f32,
            safe_probability: (1.0 - unsafe_probability) as f32,
            is_unsafe: true,
            hazards: Vec::new(),
            is_malformed: false,
            is_cut: false,
        };
        verdict.is_unsafe = !verdict.passes_at(threshold);
        verdict
    }

    /// Whether a guard with this threshold lets the row pass: `P(safe) > 1 − threshold`. A probability that is no number
    /// does not.
    pub fn passes_at(&self, threshold: f64) -> bool {
        f64::from(self.safe_probability) > 1.0 - threshold
    }
}
