//! What a pair asks: a key beside its sides, or the turns that its sides have in common.

use fedward_actors::protocol::{ChatMessage, Role};
use serde_json::{Map, Value};

use crate::data::formats::{
    dialogue::{dialogue, is_dialogue},
    rows::{
        FROM_VALUE, Problem, ROLE_CONTENT, Wanted, asked, instructed, keys_of, led_by, repeats, required, system_turn,
    },
    turns::{role_named, turns},
};

/// Keys of what is asked, in TRL's sets, in Intel's and its like, and in LLaMA-Factory's two forms.
const PROMPTS: [&str; 4] = ["prompt", "question", "instruction", "conversations"];

/// The key of what is asked, if the record has one.
pub(super) fn prompt_key(fields: &Map<String, Value>) -> Option<&'static str> {
    PROMPTS.into_iter().find(|key| fields.get(*key).is_some_and(|prompt| !prompt.is_null()))
}

/// What is asked, as the record says beside the sides; `None` where the sides say it themselves.
pub(super) fn prompt_of(fields: &Map<String, Value>) -> Result<Option<Vec<ChatMessage>>, Problem> {
    match prompt_key(fields) {
        Some("prompt") => prompt(fields).map(Some),
        Some(_) => match whole_sides(fields) {
            Some(sides) => Ok(prompt(fields).ok().filter(|prompt| belongs_to(prompt, &sides))),
            None => prompt(fields).map(Some),
        },
        None if fields.contains_key("chosen") && fields.contains_key("rejected") => Ok(None),
        None => Err(format!(
            "no preference pair has these keys: {}; expected prompt, chosen and rejected, or chosen and rejected with \
             whole conversations",
            keys_of(fields)
        )),
    }
}

fn prompt(fields: &Map<String, Value>) -> Result<Vec<ChatMessage>, Problem> {
    let (key, value) = required(fields, &PROMPTS)?;
    let messages = if value.is_array() {
        turns(key, value, turn_keys(value), Wanted::Row)?.messages
    } else if key == "instruction" {
        instructed(fields)?
    } else {
        vec![ChatMessage::new(Role::User, asked(key, value)?)]
    };
    if messages.last().is_none_or(|last| last.role != Role::User) {
        return Err(format!("{key}: expected a turn of user at its end; correct or remove the pair"));
    }
    Ok(led_by(system_turn(fields)?, messages))
}

/// The keys that a turn, or an array of turns, has.
pub(super) fn turn_keys(value: &Value) -> [&'static str; 2] {
    let first = value.as_array().map_or(Some(value), |turns| turns.first());
    if first.is_some_and(|turn| turn.get("from").is_some()) { FROM_VALUE } else { ROLE_CONTENT }
}

/// The sides, a missing `rejected` aside, where each is a dialogue or has a turn of user.
fn whole_sides(fields: &Map<String, Value>) -> Option<Vec<Vec<ChatMessage>>> {
    let sides = ["chosen", "rejected"].into_iter().filter_map(|key| Some((key, fields.get(key)?)));
    let sides = sides.filter(|(_, value)| !value.is_null()).map(|(key, value)| {
        let is_of_user = |turn: &Value| {
            let role = turn.get("role").or_else(|| turn.get("from")).and_then(Value::as_str);
            role.and_then(role_named) == Some(Role::User)
        };
        if value.as_array().is_some_and(|turns| turns.iter().any(is_of_user)) {
            turns(key, value, turn_keys(value), Wanted::Row).ok().map(|read| read.messages)
        } else {
            is_dialogue(value).then(|| dialogue(key, value, Wanted::Row).ok()).flatten()
        }
    });
    sides.collect()
}

/// Whether whole sides begin with what a key beside them asks, or go on after it. Otherwise it may be any of their turns, or a note.
fn belongs_to(prompt: &[ChatMessage], sides: &[Vec<ChatMessage>]) -> bool {
    let says_last = |side: &[ChatMessage]| {
        side.iter().any(|said| prompt.last().is_some_and(|last| last.content.trim() == said.content.trim()))
    };
    let goes_on = |side: &[ChatMessage]| {
        let first = side.iter().find(|message| message.role != Role::System);
        first.is_some_and(|first| first.role == Role::Assistant) && !says_last(side)
    };
    sides.iter().all(|side| repeats(prompt, side) || goes_on(side))
}
