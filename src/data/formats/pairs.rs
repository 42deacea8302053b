//! Pairs of a preferred and a rejected response to one prompt.

use std::path::Path;

use fedward_actors::protocol::{ChatMessage, ChatRow, Role};
use serde_json::{Map, Value};

use super::{
    records::{CsvComments, read_records},
    rows::{Problem, Wanted, describe, dialogue, keys_of, required, system_turn, text, turns},
};
use crate::data::{DataError, Place};

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

    /// Both conversations, the preferred one first.
    pub const fn sides(&self) -> [&ChatRow; 2] {
        [&self.chosen, &self.rejected]
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

/// What is to be learnt from a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// Which of two responses to prefer.
    Pair(PreferencePair),
    /// A response that is good as it is.
    Answer(ChatRow),
}

impl Revision {
    /// What is said in it: once, or once a side.
    pub fn conversations(&self) -> impl Iterator<Item = &ChatRow> {
        let (first, second) = match self {
            Self::Pair(pair) => (&pair.chosen, Some(&pair.rejected)),
            Self::Answer(answer) => (answer, None),
        };
        std::iter::once(first).chain(second)
    }
}

/// What Constitutional AI learns from: revisions preferred over answers, and answers that need no revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// With the revision as what is chosen.
    pub pairs: Vec<PreferencePair>,
    /// Prompts with their answers.
    pub good_answers: Vec<ChatRow>,
}

impl FromIterator<(Place, Revision)> for Revisions {
    fn from_iter<I: IntoIterator<Item = (Place, Revision)>>(all: I) -> Self {
        let mut revisions = Self::default();
        for (_, revision) in all {
            match revision {
                Revision::Pair(pair) => revisions.pairs.push(pair),
                Revision::Answer(answer) => revisions.good_answers.push(answer),
            }
        }
        revisions
    }
}

/// Reads the preference pairs of a `.json`, `.jsonl` or `.csv` file, each also gzipped, with their places.
///
/// A record has `prompt` with `chosen` and `rejected`, each a text or an array of turns (as TRL writes them; turns that
/// begin with a user's are the whole conversation); or `chosen` and `rejected` alone, each a dialogue as HH-RLHF writes
/// it. HH-RLHF's pairs with an empty last turn are left out: the data set has some. So are records with a
/// `prompt` whose `rejected` is null: they are no pairs, see [`load_revisions`].
///
/// # Errors
///
/// [`DataError`] names file, line or item, key, what was found and what is allowed.
pub fn load_pairs(path: &Path) -> Result<Vec<(Place, PreferencePair)>, DataError> {
    let (revisions, open) = load(path)?;
    let records = revisions.len();
    let pair = |(place, revision)| match revision {
        Revision::Pair(pair) => Some((place, pair)),
        Revision::Answer(_) => None,
    };
    let pairs: Vec<_> = revisions.into_iter().filter_map(pair).collect();
    if pairs.is_empty() {
        return Err(DataError::bad_file(path, "found no preference pairs, expected at least one"));
    }
    let left_out = open + records - pairs.len();
    if left_out > 0 {
        tracing::warn!(file = %path.display(), left_out, "pairs that lack a response were left out");
    }
    Ok(pairs)
}

/// Reads what [`load_pairs`] reads, and records with a `prompt` whose `rejected` is null as answers that need no revision; each with its
/// place.
///
/// # Errors
///
/// Those of [`load_pairs`], but a file may hold answers alone.
pub fn load_revisions(path: &Path) -> Result<Vec<(Place, Revision)>, DataError> {
    let (revisions, open) = load(path)?;
    if revisions.is_empty() {
        return Err(DataError::bad_file(path, "found neither preference pairs nor answers, expected at least one"));
    }
    if open > 0 {
        tracing::warn!(file = %path.display(), left_out = open, "dialogues without a response were left out");
    }
    Ok(revisions)
}

/// All that is said, and how many dialogues end without a response.
fn load(path: &Path) -> Result<(Vec<(Place, Revision)>, usize), DataError> {
    let (mut revisions, mut open) = (Vec::new(), 0);
    for record in read_records(path, CsvComments::None)? {
        match said(&record.fields).map_err(|problem| DataError::bad_record(path, record.place, problem))? {
            Some(revision) => revisions.push((record.place, revision)),
            None => open += 1,
        }
    }
    Ok((revisions, open))
}

/// `None` for a dialogue that ends without a response.
fn said(fields: &Map<String, Value>) -> Result<Option<Revision>, Problem> {
    let row = |messages| ChatRow { messages, topic: None, label: None };
    let sides = if fields.get("prompt").is_some_and(|prompt| !prompt.is_null()) {
        let prompt = prompt(fields)?;
        let chosen = response(fields, "chosen", &prompt)?;
        if fields.get("rejected").is_some_and(Value::is_null) {
            return Ok(Some(Revision::Answer(row(chosen))));
        }
        [chosen, response(fields, "rejected", &prompt)?]
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
    let [chosen, rejected] = sides.map(row);
    Ok(Some(Revision::Pair(PreferencePair { chosen, rejected })))
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

    fn read(record: &Value) -> Result<Option<Revision>, Problem> {
        said(record.as_object().unwrap())
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
            assert_eq!(read(&record), Ok(Some(Revision::Pair(expected.clone()))), "{record}");
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
    fn an_answer_that_nothing_is_preferred_to_says_so() {
        let record = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": null});
        assert_eq!(read(&record), Ok(Some(Revision::Answer(ChatRow::single_turn("Hi", "Hello!")))));
    }

    #[test]
    fn answers_are_no_pairs_but_revisions_hold_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let answer = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": null}).to_string();
        std::fs::write(&path, &answer).unwrap();
        let problem = load_pairs(&path).unwrap_err().to_string();
        assert!(problem.contains("no preference pairs"), "{problem}");
        let pair = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}).to_string();
        std::fs::write(&path, format!("{answer}\n{pair}\n")).unwrap();
        let pairs = vec![PreferencePair::single_turn("Hi", "Hello!", "What?")];
        let read: Vec<_> = load_pairs(&path).unwrap().into_iter().map(|(_, pair)| pair).collect();
        assert_eq!(read, pairs);
        let good_answers = vec![ChatRow::single_turn("Hi", "Hello!")];
        let revisions: Revisions = load_revisions(&path).unwrap().into_iter().collect();
        assert_eq!(revisions, Revisions { pairs, good_answers });
    }

    #[test]
    fn sides_that_differ_by_white_space_are_equal() {
        assert!(PreferencePair::single_turn("Hi", "Hello! ", "Hello!").sides_are_equal());
        assert!(!PreferencePair::single_turn("Hi", "Hello!", "Hallo!").sides_are_equal());
    }
}
