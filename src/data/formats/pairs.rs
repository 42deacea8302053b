//! Pairs of a preferred and a rejected response to one prompt.

use std::path::Path;

use fedward_actors::protocol::{ChatMessage, ChatRow, Role};
use serde_json::{Map, Value};

use super::{
    records::{CsvComments, read_records},
    rows::{Problem, Wanted, describe, dialogue, keys_of, required, system_turn, text, turns},
};
use crate::data::DataError;

/// Two responses to one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferencePair {
    /// The prompt with the response to prefer.
    pub chosen: ChatRow,
    /// The prompt with the other response.
    pub rejected: ChatRow,
}

impl PreferencePair {
    /// A single prompt with its two responses.
    pub fn single_turn(prompt: &str, chosen: &str, rejected: &str) -> Self {
        Self { chosen: ChatRow::single_turn(prompt, chosen), rejected: ChatRow::single_turn(prompt, rejected) }
    }

    /// Whether the two sides say the same, white space around them aside.
    pub fn sides_are_equal(&self) -> bool {
        let trimmed = |row: &ChatRow| {
            let turns = row.messages.iter().map(|message| (message.role, message.content.trim().to_owned()));
            turns.collect::<Vec<_>>()
        };
        trimmed(&self.chosen) == trimmed(&self.rejected)
    }
}

/// Reads the preference pairs of a `.json`, `.jsonl` or `.csv` file, each also gzipped.
///
/// A record has `prompt` with `chosen` and `rejected`, each a text or an array of turns (as TRL writes them; turns that
/// begin with a user's are the whole conversation); or `chosen` and `rejected` alone, each a dialogue as HH-RLHF writes
/// it. HH-RLHF's pairs with an empty last turn are left out: the data set has some.
///
/// # Errors
///
/// [`DataError`] names file, line or item, key, what was found and what is allowed.
pub fn load_pairs(path: &Path) -> Result<Vec<PreferencePair>, DataError> {
    let records = read_records(path, CsvComments::None)?;
    let n_records = records.len();
    let mut pairs = Vec::with_capacity(n_records);
    for record in records {
        let pair = pair(&record.fields).map_err(|problem| DataError::bad_record(path, record.place, problem))?;
        pairs.extend(pair);
    }
    if pairs.is_empty() {
        return Err(DataError::bad_file(path, "found no preference pairs, expected at least one"));
    }
    if pairs.len() < n_records {
        tracing::warn!(file = %path.display(), left_out = n_records - pairs.len(), "pairs without a response were left out");
    }
    Ok(pairs)
}

/// A record as a pair, or `None` for a dialogue that ends without a response.
fn pair(fields: &Map<String, Value>) -> Result<Option<PreferencePair>, Problem> {
    let sides = if fields.get("prompt").is_some_and(|prompt| !prompt.is_null()) {
        let prompt = prompt(fields)?;
        [response(fields, "chosen", &prompt)?, response(fields, "rejected", &prompt)?]
    } else if fields.contains_key("chosen") && fields.contains_key("rejected") {
        [dialogue(fields, "chosen", Wanted::Row)?, dialogue(fields, "rejected", Wanted::Row)?]
    } else {
        return Err(format!(
            "no preference pair has these keys: {}; expected prompt, chosen and rejected, or chosen and rejected with \
             dialogues",
            keys_of(fields)
        ));
    };
    if sides.iter().any(Vec::is_empty) {
        return Ok(None);
    }
    let [chosen, rejected] = sides.map(|messages| ChatRow { messages, topic: None, label: None });
    Ok(Some(PreferencePair { chosen, rejected }))
}

fn prompt(fields: &Map<String, Value>) -> Result<Vec<ChatMessage>, Problem> {
    let mut messages = Vec::from_iter(system_turn(fields)?);
    let (key, value) = required(fields, &["prompt"])?;
    if value.is_array() {
        messages.extend(turns(key, value, ["role", "content"], Wanted::Row)?);
    } else {
        messages.push(ChatMessage::new(Role::User, text(key, value)?));
    }
    if messages.last().is_none_or(|last| last.role != Role::User) {
        return Err(format!("{key}: expected a turn of user at its end; correct or remove the pair"));
    }
    Ok(messages)
}

/// The prompt with the response under `key`.
fn response(
    fields: &Map<String, Value>,
    key: &'static str,
    prompt: &[ChatMessage],
) -> Result<Vec<ChatMessage>, Problem> {
    let (key, value) = required(fields, &[key])?;
    if !value.is_array() {
        let mut messages = prompt.to_vec();
        messages.push(ChatMessage::new(Role::Assistant, text(key, value)?));
        return Ok(messages);
    }
    let said = turns(key, value, ["role", "content"], Wanted::Row)?;
    if said.last().is_none_or(|last| last.role != Role::Assistant) {
        return Err(format!(
            "{key}: found {}, expected turns that end with assistant; correct or remove the pair",
            describe(value)
        ));
    }
    if said.iter().any(|message| message.role == Role::User) {
        return Ok(said);
    }
    Ok(prompt.iter().cloned().chain(said).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(record: &Value) -> Result<Option<PreferencePair>, Problem> {
        pair(record.as_object().unwrap())
    }

    #[test]
    fn every_form_says_the_same_pair() {
        let expected = PreferencePair::single_turn("Hi", "Hello!", "What?");
        let user = json!({"role": "user", "content": "Hi"});
        let say = |text: &str| json!({"role": "assistant", "content": text});
        for record in [
            json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}),
            json!({"prompt": [user], "chosen": [say("Hello!")], "rejected": [say("What?")]}),
            json!({"prompt": "Hi", "chosen": [user, say("Hello!")], "rejected": [user, say("What?")]}),
            json!({
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
                "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
            }),
        ] {
            assert_eq!(read(&record), Ok(Some(expected.clone())), "{record}");
        }
    }

    #[test]
    fn complaints_name_the_key() {
        for (record, expected) in [
            (json!({"prompt": "Hi", "chosen": "Hello!"}), "missing key rejected"),
            (json!({"prompt": "Hi", "chosen": "", "rejected": "x"}), "chosen: found an empty text"),
            (json!({"answer": "Hi"}), "expected prompt, chosen and rejected"),
            (json!({"prompt": "Hi", "chosen": 3, "rejected": "x"}), "chosen: found the number 3"),
            (json!({"prompt": [], "chosen": "x", "rejected": "y"}), "prompt: expected a turn of user"),
            (json!({"chosen": "Hello", "rejected": "x"}), "chosen: expected a dialogue"),
        ] {
            let problem = read(&record).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_dialogue_without_a_response_is_left_out() {
        let open = json!({"chosen": "\n\nHuman: Hi\n\nAssistant: ", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"});
        assert_eq!(read(&open), Ok(None));
    }

    #[test]
    fn sides_that_differ_by_white_space_are_equal() {
        assert!(PreferencePair::single_turn("Hi", "Hello! ", "Hello!").sides_are_equal());
        assert!(!PreferencePair::single_turn("Hi", "Hello!", "Hallo!").sides_are_equal());
    }
}
