//! Pairs of a preferred and a rejected response to one prompt.

use std::path::Path;

use fedward_actors::protocol::{ChatMessage, ChatRow, Role};
use serde_json::{Map, Value};

use super::{
    dialogue::{dialogue, is_dialogue},
    records::{CsvComments, read_records},
    rows::{
        Problem, ROLE_CONTENT, Wanted, after_prompt, describe, keys_of, led_by, repeats, required, system_turn, text,
    },
    turns::turns,
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
/// repeat the prompt are the whole conversation, others go on after it); or `chosen` and `rejected` alone, each an array of
/// turns that begin alike (TRL's implicit prompt) or a dialogue as HH-RLHF writes it. `system`, or a system turn of the prompt,
/// leads both sides.
///
/// Both sides must ask the same: what the model says before its last response may differ, what user and system say may not.
/// HH-RLHF's pairs that ask different things are left out, as are those with an empty last turn: the data set has some. So are
/// records with a `prompt` whose `rejected` is null: they are no pairs, see [`load_revisions`].
///
/// # Errors
///
/// [`DataError`] names file, line or item, key, what was found and what is allowed.
pub fn load_pairs(path: &Path) -> Result<Vec<(Place, PreferencePair)>, DataError> {
    let (revisions, unpaired) = load(path)?;
    let records = revisions.len();
    let pair = |(place, revision)| match revision {
        Revision::Pair(pair) => Some((place, pair)),
        Revision::Answer(_) => None,
    };
    let pairs: Vec<_> = revisions.into_iter().filter_map(pair).collect();
    if pairs.is_empty() {
        let found = unpaired.describe();
        return Err(DataError::bad_file(path, format!("found no preference pairs, expected at least one{found}")));
    }
    Unpaired { open: unpaired.open + records - pairs.len(), ..unpaired }.warn(path);
    Ok(pairs)
}

/// Reads what [`load_pairs`] reads, and records with a `prompt` whose `rejected` is null as answers that need no revision; each with its
/// place.
///
/// # Errors
///
/// Those of [`load_pairs`], but a file may hold answers alone.
pub fn load_revisions(path: &Path) -> Result<Vec<(Place, Revision)>, DataError> {
    let (revisions, unpaired) = load(path)?;
    if revisions.is_empty() {
        let found = unpaired.describe();
        return Err(DataError::bad_file(
            path,
            format!("found neither preference pairs nor answers, expected at least one{found}"),
        ));
    }
    unpaired.warn(path);
    Ok(revisions)
}

/// Records that there is nothing to learn from.
#[derive(Clone, Copy, Debug, Default)]
struct Unpaired {
    /// Without a response.
    open: usize,
    /// Whose sides ask different things, and where the first of them stands.
    asking: usize,
    first_asking: Option<Place>,
    /// One of whose responses is not to be trained on.
    muted: usize,
}

impl Unpaired {
    fn notes(&self) -> impl Iterator<Item = (usize, String)> {
        let first = self.first_asking.map(|place| format!(" (the first on {place})")).unwrap_or_default();
        let notes = [
            (self.open, "pairs that lack a response are left out".to_owned()),
            (self.asking, format!("pairs whose sides ask different things are left out{first}")),
            (
                self.muted,
                "pairs are left out of which a response is not to be trained on (weight 0, train or loss false)"
                    .to_owned(),
            ),
        ];
        notes.into_iter().filter(|(pairs, _)| *pairs > 0)
    }

    fn describe(&self) -> String {
        let notes: Vec<_> = self.notes().map(|(pairs, note)| format!("; {pairs} {note}")).collect();
        notes.concat()
    }

    fn warn(&self, path: &Path) {
        for (pairs, note) in self.notes() {
            tracing::warn!(file = %path.display(), pairs, "{note}");
        }
    }
}

/// All that is said, and what is left out.
fn load(path: &Path) -> Result<(Vec<(Place, Revision)>, Unpaired), DataError> {
    let (mut revisions, mut unpaired) = (Vec::new(), Unpaired::default());
    for record in read_records(path, CsvComments::None)? {
        let place = record.place;
        match said(&record.fields).map_err(|problem| DataError::bad_record(path, place, problem))? {
            Said::Revision(revision) => revisions.push((place, revision)),
            Said::Open => unpaired.open += 1,
            Said::Muted => unpaired.muted += 1,
            Said::AsksDifferently => {
                unpaired.asking += 1;
                unpaired.first_asking.get_or_insert(place);
            }
        }
    }
    Ok((revisions, unpaired))
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Revision(Revision),
    /// A dialogue ends without a response.
    Open,
    /// A response is not to be trained on.
    Muted,
    /// Two dialogues ask different things.
    AsksDifferently,
}

/// One side of a pair.
struct Side {
    messages: Vec<ChatMessage>,
    is_muted: bool,
    /// Whether there is a system turn among its own turns; `None` for a text.
    has_system: Option<bool>,
}

fn said(fields: &Map<String, Value>) -> Result<Said, Problem> {
    let row = |side: Side| ChatRow { messages: side.messages, topic: None, label: None };
    let is_null = |key: &str| fields.get(key).is_some_and(Value::is_null);
    let prompt = if fields.get("prompt").is_some_and(|prompt| !prompt.is_null()) {
        Some(prompt(fields)?)
    } else if fields.contains_key("chosen") && fields.contains_key("rejected") {
        None
    } else {
        return Err(format!(
            "no preference pair has these keys: {}; expected prompt, chosen and rejected, or chosen and rejected with \
             whole conversations",
            keys_of(fields)
        ));
    };
    let side = |key: &'static str| side(fields, key, prompt.as_deref());
    let chosen = side("chosen")?;
    if is_null("rejected") && (prompt.is_some() || fields.get("chosen").is_some_and(Value::is_array)) {
        return Ok(if chosen.is_muted { Said::Muted } else { Said::Revision(Revision::Answer(row(chosen))) });
    }
    let sides = [chosen, side("rejected")?];
    if sides.iter().any(|side| side.messages.is_empty()) {
        return Ok(Said::Open);
    }
    if sides.iter().any(|side| side.is_muted) {
        return Ok(Said::Muted);
    }
    if let Some(differs) = asks_differently(&sides) {
        if prompt.is_none() && fields.get("chosen").is_some_and(Value::is_string) {
            return Ok(Said::AsksDifferently);
        }
        return Err(format!(
            "chosen and rejected: found {differs} that differ, expected the same on both sides; correct or remove the pair"
        ));
    }
    let [chosen, rejected] = sides.map(row);
    Ok(Said::Revision(Revision::Pair(PreferencePair { chosen, rejected })))
}

/// What the two sides are asked by, if it differs.
fn asks_differently(sides: &[Side; 2]) -> Option<&'static str> {
    let said_by = |side: &Side, role: Role| {
        let said = side.messages.iter().filter(move |message| message.role == role);
        said.map(|message| message.content.trim().to_owned()).collect::<Vec<_>>()
    };
    // What leads both sides may stand in the prompt alone, but not on one side.
    if let [Some(chosen), Some(rejected)] = [sides[0].has_system, sides[1].has_system]
        && chosen != rejected
    {
        return Some("system turns");
    }
    [(Role::System, "system turns"), (Role::User, "turns of user")]
        .into_iter()
        .find_map(|(role, name)| (said_by(&sides[0], role) != said_by(&sides[1], role)).then_some(name))
}

fn prompt(fields: &Map<String, Value>) -> Result<Vec<ChatMessage>, Problem> {
    let (key, value) = required(fields, &["prompt"])?;
    let messages = if value.is_array() {
        turns(key, value, ROLE_CONTENT, Wanted::Row)?.messages
    } else {
        vec![ChatMessage::new(Role::User, text(key, value)?)]
    };
    if messages.last().is_none_or(|last| last.role != Role::User) {
        return Err(format!("{key}: expected a turn of user at its end; correct or remove the pair"));
    }
    Ok(led_by(system_turn(fields)?, messages))
}

/// The conversation that ends with the response under `key`.
fn side(fields: &Map<String, Value>, key: &'static str, prompt: Option<&[ChatMessage]>) -> Result<Side, Problem> {
    let (key, value) = required(fields, &[key])?;
    let Some(prompt) = prompt else { return whole(fields, key, value) };
    let (said, is_muted) = if value.is_array() {
        let read = turns(key, value, ROLE_CONTENT, Wanted::Row)?;
        (read.messages, read.last_is_muted)
    } else if is_dialogue(value) {
        let said = dialogue(key, value, Wanted::Row)?;
        if said.is_empty() {
            return Ok(Side { messages: said, is_muted: false, has_system: None });
        }
        (said, false)
    } else {
        (vec![ChatMessage::new(Role::Assistant, text(key, value)?)], false)
    };
    if said.last().is_none_or(|last| last.role != Role::Assistant) {
        return Err(format!(
            "{key}: found {}, expected turns that end with assistant; correct or remove the pair",
            describe(value)
        ));
    }
    let first = said.iter().find(|message| message.role != Role::System);
    if first.is_some_and(|first| first.role == Role::User) && !repeats(prompt, &said) {
        return Err(format!(
            "{key}: found a conversation that begins otherwise than prompt, expected the prompt's turns or the response \
             alone; correct or remove the pair, or remove prompt"
        ));
    }
    refuse_another_system(key, prompt, &said)?;
    let has_system = value.is_array().then(|| has_system(&said));
    Ok(Side { messages: after_prompt(prompt, said), is_muted, has_system })
}

/// A side that says all of its conversation.
fn whole(fields: &Map<String, Value>, key: &'static str, value: &Value) -> Result<Side, Problem> {
    let (messages, is_muted) = if value.is_array() {
        let read = turns(key, value, ROLE_CONTENT, Wanted::Row)?;
        let ends = read.messages.last().is_some_and(|last| last.role == Role::Assistant);
        if !ends || read.messages.iter().all(|message| message.role != Role::User) {
            return Err(format!(
                "{key}: found {}, expected turns of user and assistant that end with assistant; correct or remove the pair",
                describe(value)
            ));
        }
        (read.messages, read.last_is_muted)
    } else {
        (dialogue(key, value, Wanted::Row)?, false)
    };
    let has_system = value.is_array().then(|| has_system(&messages));
    let messages = if messages.is_empty() { messages } else { led_by(system_turn(fields)?, messages) };
    Ok(Side { messages, is_muted, has_system })
}

fn has_system(messages: &[ChatMessage]) -> bool {
    messages.iter().any(|message| message.role == Role::System)
}

/// Refuses a side with another system turn than its prompt's.
fn refuse_another_system(key: &str, prompt: &[ChatMessage], said: &[ChatMessage]) -> Result<(), Problem> {
    let system = |messages: &[ChatMessage]| {
        let turns = messages.iter().filter(|message| message.role == Role::System);
        turns.map(|message| message.content.trim().to_owned()).collect::<Vec<_>>()
    };
    let (asked, said) = (system(prompt), system(said));
    if said.is_empty() || asked.is_empty() || asked == said {
        return Ok(());
    }
    Err(format!("{key}: found another system turn than in prompt, expected the same; correct or remove the pair"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(record: &Value) -> Result<Said, Problem> {
        said(record.as_object().unwrap())
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn say(text: &str) -> Value {
        json!({"role": "assistant", "content": text})
    }

    fn system(text: &str) -> Value {
        json!({"role": "system", "content": text})
    }

    /// Both sides, each turn as its role and its text.
    fn sides(record: &Value) -> [Vec<(&'static str, String)>; 2] {
        match read(record) {
            Ok(Said::Revision(Revision::Pair(pair))) => pair
                .sides()
                .map(|row| row.messages.iter().map(|turn| (turn.role.as_str(), turn.content.clone())).collect()),
            other => panic!("{record}: {other:?}"),
        }
    }

    #[test]
    fn every_form_says_the_same_pair() {
        let expected = PreferencePair::single_turn("Hi", "Hello!", "What?");
        let hi = user("Hi");
        for record in [
            json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}),
            json!({"prompt": [hi], "chosen": [say("Hello!")], "rejected": [say("What?")]}),
            json!({"prompt": "Hi", "chosen": [hi, say("Hello!")], "rejected": [hi, say("What?")]}),
            json!({"prompt": [hi], "chosen": [hi, say("Hello!")], "rejected": "What?"}),
            // The implicit prompt of TRL.
            json!({"chosen": [hi, say("Hello!")], "rejected": [hi, say("What?")]}),
            json!({
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
                "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
            }),
            json!({
                "prompt": "Hi",
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
                "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
            }),
        ] {
            assert_eq!(read(&record), Ok(Said::Revision(Revision::Pair(expected.clone()))), "{record}");
        }
    }

    /// What the model says before its last response may differ; the prompt stays in front of turns that go on after it.
    #[test]
    fn sides_of_several_turns_keep_their_prompt() {
        let (first, second) = (user("Hi"), user("And?"));
        let [chosen, rejected] =
            [("Hello!", "Fine."), ("No.", "Late.")].map(|(one, two)| [say(one), second.clone(), say(two)]);
        let whole = |side: &[Value; 3]| [&[first.clone()][..], side].concat();
        let expected = ["Hello!", "No."].map(str::to_owned);
        let full = json!({"chosen": whole(&chosen), "rejected": whole(&rejected)});
        for record in [
            &full,
            &json!({"prompt": [first], "chosen": chosen, "rejected": rejected}),
            &json!({"prompt": "Hi", "chosen": chosen, "rejected": whole(&rejected)}),
            &json!({"prompt": [first], "chosen": whole(&chosen), "rejected": whole(&rejected)}),
        ] {
            let found = sides(record);
            assert_eq!(found, sides(&full), "{record}");
            assert_eq!(found.each_ref().map(|side| side[1].1.clone()), expected);
            assert!(found.iter().all(|side| side.len() == 4 && side[0] == ("user", "Hi".to_owned())), "{record}");
        }
    }

    #[test]
    fn a_system_turn_leads_both_sides_wherever_it_stands() {
        let (kind, hi) = (system("Be kind"), user("Hi"));
        let [chosen, rejected] = [say("Hello!"), say("What?")];
        let prompt = json!([kind, hi]);
        let right = json!({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]});
        assert!(sides(&right).iter().all(|side| side[0] == ("system", "Be kind".to_owned()) && side.len() == 3));
        let dialogue = |text: &str| format!("\n\nHuman: Hi\n\nAssistant: {text}");
        for record in [
            json!({"system": "Be kind", "prompt": "Hi", "chosen": [hi, chosen], "rejected": [hi, rejected]}),
            json!({"system": "Be kind", "chosen": [hi, chosen], "rejected": [hi, rejected]}),
            json!({"system_prompt": "Be kind", "chosen": dialogue("Hello!"), "rejected": dialogue("What?")}),
            json!({"prompt": prompt, "chosen": [hi, chosen], "rejected": [hi, rejected]}),
            json!({"prompt": prompt, "chosen": [kind, hi, chosen], "rejected": [kind, hi, rejected]}),
            json!({"system": "Be kind", "prompt": prompt, "chosen": "Hello!", "rejected": [hi, rejected]}),
        ] {
            assert_eq!(sides(&record), sides(&right), "{record}");
        }
        let differ = "chosen and rejected: found system turns that differ";
        for (record, expected) in [
            (json!({"prompt": prompt, "chosen": [kind, hi, chosen], "rejected": [hi, rejected]}), differ),
            (json!({"chosen": [hi, chosen], "rejected": [kind, hi, rejected]}), differ),
            (
                json!({"prompt": prompt, "chosen": [system("Be rude"), hi, chosen], "rejected": [kind, hi, rejected]}),
                "chosen: found another system turn than in prompt",
            ),
        ] {
            let problem = read(&record).unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    #[test]
    fn sides_that_ask_different_things_are_refused_and_those_of_hh_left_out() {
        let [chosen, rejected] = [say("Hello!"), say("What?")];
        let other = "chosen: found a conversation that begins otherwise than prompt";
        for (record, expected) in [
            (json!({"prompt": "A", "chosen": [user("B"), chosen], "rejected": [user("C"), rejected]}), other),
            (
                json!({"chosen": [user("B"), chosen], "rejected": [user("C"), rejected]}),
                "chosen and rejected: found turns of user that differ",
            ),
            (
                json!({"prompt": "A", "chosen": [chosen, user("B"), chosen], "rejected": [rejected]}),
                "chosen and rejected: found turns of user that differ",
            ),
        ] {
            let problem = read(&record).unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
        }
        let diverging = json!({
            "chosen": "\n\nHuman: A\n\nAssistant: a\n\nHuman: B\n\nAssistant: b",
            "rejected": "\n\nHuman: A\n\nAssistant: c\n\nHuman: C\n\nAssistant: d",
        });
        assert_eq!(read(&diverging), Ok(Said::AsksDifferently));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hh.jsonl");
        std::fs::write(&path, diverging.to_string()).unwrap();
        let problem = load_pairs(&path).unwrap_err().to_string();
        assert!(
            problem.ends_with("1 pairs whose sides ask different things are left out (the first on line 1)"),
            "{problem}"
        );
    }

    #[test]
    fn a_response_that_is_not_to_be_trained_on_makes_no_pair() {
        let muted = json!({"role": "assistant", "content": "No.", "weight": 0});
        let record = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": [muted]});
        assert_eq!(read(&record), Ok(Said::Muted));
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
            (
                json!({"chosen": [say("Hello")], "rejected": [say("x")]}),
                "chosen: found an array of 1, expected turns of user",
            ),
        ] {
            let problem = read(&record).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_dialogue_without_a_response_is_left_out() {
        let open = json!({"chosen": "\n\nHuman: Hi\n\nAssistant: ", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"});
        assert_eq!(read(&open), Ok(Said::Open));
    }

    #[test]
    fn an_answer_that_nothing_is_preferred_to_says_so() {
        let expected = Ok(Said::Revision(Revision::Answer(ChatRow::single_turn("Hi", "Hello!"))));
        for record in [
            json!({"prompt": "Hi", "chosen": "Hello!", "rejected": null}),
            json!({"chosen": [user("Hi"), say("Hello!")], "rejected": null}),
        ] {
            assert_eq!(read(&record), expected, "{record}");
        }
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
