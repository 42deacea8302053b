//! Pairs of a preferred and a rejected response to one prompt.

mod prompts;

use std::path::Path;

use fedward_actors::protocol::{ChatMessage, ChatRow, Role};
use serde_json::{Map, Value};

use self::prompts::{prompt_key, prompt_of, turn_keys};
use super::{
    dialogue::{dialogue, is_dialogue},
    records::{CsvComments, read_records},
    rows::{
        Problem, Wanted, after_prompt, describe, is_muted, led_by, refuse_tools, repeats, required, system_turn, text,
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
/// A record has `prompt` (or `question`, or LLaMA-Factory's `instruction` and `conversations`) with `chosen` and `rejected`, each a text, a
/// turn or an array of turns (as TRL writes them; turns that
/// repeat the prompt are the whole conversation, others go on after it); or `chosen` and `rejected` alone, each an array of
/// turns that begin alike (TRL's implicit prompt) or a dialogue as HH-RLHF writes it. `system`, or a system turn of the prompt,
/// leads both sides. Where both sides are whole conversations, keys other than `prompt` are heeded only if the sides begin with what they
/// ask.
///
/// Both sides must ask the same, and what `prompt` asks: what the model says before its last response may differ, what user and
/// system say may not. In whichever form, pairs whose sides ask different things are left out and counted, with the place of the
/// first: public data sets, HH-RLHF among them, have some. So are pairs with an empty last turn, and records with a `prompt`
/// whose `rejected` is null: they are no pairs, see [`load_revisions`].
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
    /// Not to be trained on, the whole or one of the responses.
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
                "pairs are left out: they, or one of their responses, are not to be trained on (weight 0, train or loss false)"
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
    /// It, or a response, is not to be trained on.
    Muted,
    /// The sides ask different things, or another thing than the prompt.
    AsksDifferently,
}

/// Why a side is none.
enum Unfit {
    /// Nobody can read it.
    Problem(Problem),
    /// It asks another thing than the prompt.
    AsksDifferently,
}

impl From<Problem> for Unfit {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
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
    refuse_tools(fields)?;
    let prompt = prompt_of(fields)?;
    let side = |key: &'static str| match side(fields, key, prompt.as_deref()) {
        Ok(side) => Ok(Some(side)),
        Err(Unfit::AsksDifferently) => Ok(None),
        Err(Unfit::Problem(problem)) => Err(problem),
    };
    let chosen = side("chosen")?;
    let names_prompt = prompt_key(fields).is_some() || fields.get("chosen").is_some_and(Value::is_array);
    if names_prompt && fields.get("rejected").is_some_and(Value::is_null) {
        return Ok(match chosen {
            None => Said::AsksDifferently,
            Some(chosen) if chosen.messages.is_empty() => Said::Open,
            Some(chosen) if chosen.is_muted || is_muted(fields) => Said::Muted,
            Some(chosen) => Said::Revision(Revision::Answer(row(chosen))),
        });
    }
    let (Some(chosen), Some(rejected)) = (chosen, side("rejected")?) else { return Ok(Said::AsksDifferently) };
    let sides = [chosen, rejected];
    if sides.iter().any(|side| side.messages.is_empty()) {
        return Ok(Said::Open);
    }
    if is_muted(fields) || sides.iter().any(|side| side.is_muted) {
        return Ok(Said::Muted);
    }
    if asks_differently(&sides) {
        return Ok(Said::AsksDifferently);
    }
    let [chosen, rejected] = sides.map(row);
    Ok(Said::Revision(Revision::Pair(PreferencePair { chosen, rejected })))
}

/// Whether user or system say other things on one side than on the other.
fn asks_differently(sides: &[Side; 2]) -> bool {
    let said_by = |side: &Side, role: Role| {
        let said = side.messages.iter().filter(move |message| message.role == role);
        said.map(|message| message.content.trim().to_owned()).collect::<Vec<_>>()
    };
    // What leads both sides may stand in the prompt alone, but not on one side.
    if let [Some(chosen), Some(rejected)] = [sides[0].has_system, sides[1].has_system]
        && chosen != rejected
    {
        return true;
    }
    [Role::System, Role::User].into_iter().any(|role| said_by(&sides[0], role) != said_by(&sides[1], role))
}

/// The conversation that ends with the response under `key`.
fn side(fields: &Map<String, Value>, key: &'static str, prompt: Option<&[ChatMessage]>) -> Result<Side, Unfit> {
    let (key, value) = required(fields, &[key])?;
    let Some(prompt) = prompt else { return Ok(whole(fields, key, value)?) };
    // LLaMA-Factory writes the one turn without an array.
    let value = &if value.is_object() { Value::Array(vec![value.clone()]) } else { value.clone() };
    let (said, is_muted) = if value.is_array() {
        let read = turns(key, value, turn_keys(value), Wanted::Row)?;
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
        )
        .into());
    }
    let first = said.iter().find(|message| message.role != Role::System);
    let begins_otherwise = first.is_some_and(|first| first.role == Role::User) && !repeats(prompt, &said);
    if begins_otherwise || has_another_system(prompt, &said) {
        return Err(Unfit::AsksDifferently);
    }
    let has_system = value.is_array().then(|| has_system(&said));
    Ok(Side { messages: after_prompt(prompt, said), is_muted, has_system })
}

/// A side that says all of its conversation.
fn whole(fields: &Map<String, Value>, key: &'static str, value: &Value) -> Result<Side, Problem> {
    let (messages, is_muted) = if value.is_array() {
        let read = turns(key, value, turn_keys(value), Wanted::Row)?;
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

/// Whether a side has another system turn than its prompt.
fn has_another_system(prompt: &[ChatMessage], said: &[ChatMessage]) -> bool {
    let system = |messages: &[ChatMessage]| {
        let turns = messages.iter().filter(|message| message.role == Role::System);
        turns.map(|message| message.content.trim().to_owned()).collect::<Vec<_>>()
    };
    let (asked, said) = (system(prompt), system(said));
    !said.is_empty() && !asked.is_empty() && asked != said
}

#[cfg(test)]
mod tests;
