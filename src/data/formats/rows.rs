//! What a record means: one chat conversation, whichever family of formats it comes from.

use fedward_actors::protocol::{ChatMessage, ChatRow, Role, RowLabel};
use serde_json::{Map, Value};

use super::RowFormat;

type Fields = Map<String, Value>;

/// Key, found, allowed and what to do, in one line.
pub(super) type Problem = String;

/// What a caller makes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A conversation that ends with a response.
    Row,
    /// The turns before the response; whether there is one is of no interest.
    Prompt,
}

const INSTRUCTION: &[&str] = &["instruction"];
const INSTRUCTION_INPUT: &[&str] = &["input", "context"];
const INSTRUCTION_OUTPUT: &[&str] = &["output", "response"];
const PROMPT: &[&str] = &["prompt", "question", "query", "goal", "forbidden_prompt"];
const RESPONSE: &[&str] = &["response", "completion", "answer", "output", "target"];
const ROLES: &str = "system, user (or human), assistant (or gpt)";

/// A record as a chat row, or `None` for a record that the format knows to hold no response (see
/// [`RowFormat::HhRlhf`]).
pub(super) fn chat_row(fields: &Fields, format: RowFormat, wanted: Wanted) -> Result<Option<ChatRow>, Problem> {
    let messages = match resolve(fields, format)? {
        RowFormat::Auto | RowFormat::Messages => conversation(fields, "messages", ["role", "content"], wanted)?,
        RowFormat::ShareGpt => conversation(fields, "conversations", ["from", "value"], wanted)?,
        RowFormat::Alpaca => alpaca(fields, wanted)?,
        RowFormat::PromptResponse => prompt_response(fields, wanted)?,
        RowFormat::HhRlhf => dialogue(fields, "chosen", wanted)?,
        RowFormat::HhRlhfRejected => dialogue(fields, "rejected", wanted)?,
    };
    if messages.is_empty() {
        return Ok(None);
    }
    let (topic, label) = match wanted {
        Wanted::Row => (topic(fields)?, label(fields)?),
        Wanted::Prompt => (None, None),
    };
    Ok(Some(ChatRow { messages, topic, label }))
}

/// Whether a record has a key for the response to a prompt.
pub(super) fn names_response(fields: &Fields) -> bool {
    optional(fields, RESPONSE).is_some() || optional(fields, INSTRUCTION_OUTPUT).is_some()
}

/// A value in words that do not show it.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.trim().is_empty() => "an empty text".to_owned(),
        Value::String(text) => format!("a text of {} characters", text.chars().count()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The format that a record's keys speak of, if none is prescribed.
fn resolve(fields: &Fields, format: RowFormat) -> Result<RowFormat, Problem> {
    let has = |keys: &[&str]| keys.iter().any(|key| fields.contains_key(*key));
    Ok(match format {
        RowFormat::Auto if has(&["messages"]) => RowFormat::Messages,
        RowFormat::Auto if has(&["conversations"]) => RowFormat::ShareGpt,
        RowFormat::Auto if has(INSTRUCTION) => RowFormat::Alpaca,
        RowFormat::Auto if has(PROMPT) => RowFormat::PromptResponse,
        RowFormat::Auto if has(&["chosen"]) => RowFormat::HhRlhf,
        RowFormat::Auto => {
            return Err(format!(
                "no known format has these keys: {}; expected messages, conversations, instruction and output, prompt \
                 and response, or chosen and rejected",
                keys_of(fields)
            ));
        }
        named => named,
    })
}

pub(super) fn keys_of(fields: &Fields) -> String {
    if fields.is_empty() { "none".to_owned() } else { fields.keys().cloned().collect::<Vec<_>>().join(", ") }
}

/// The first of `keys` that the record has.
fn optional<'a>(fields: &'a Fields, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    keys.iter().find_map(|&key| fields.get(key).filter(|value| !value.is_null()).map(|value| (key, value)))
}

pub(super) fn required<'a>(fields: &'a Fields, keys: &[&'static str]) -> Result<(&'static str, &'a Value), Problem> {
    optional(fields, keys).ok_or_else(|| {
        let (first, others) = (keys[0], &keys[1..]);
        let or = if others.is_empty() { String::new() } else { format!(" (or {})", others.join(", ")) };
        format!("missing key {first}{or}; found: {}; add it or name another format", keys_of(fields))
    })
}

/// A text that is not empty.
pub(super) fn text(key: &str, value: &Value) -> Result<String, Problem> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        other => Err(format!("{key}: found {}, expected a text; correct or remove the row", describe(other))),
    }
}

/// A text that may be missing or empty.
fn text_or_empty(fields: &Fields, keys: &[&'static str]) -> Result<Option<String>, Problem> {
    match optional(fields, keys) {
        None => Ok(None),
        Some((_, Value::String(text))) if text.trim().is_empty() => Ok(None),
        Some((key, value)) => text(key, value).map(Some),
    }
}

/// A list of turns under `list_key`, each an object with the two `turn_keys`.
fn conversation(
    fields: &Fields,
    list_key: &'static str,
    turn_keys: [&'static str; 2],
    wanted: Wanted,
) -> Result<Vec<ChatMessage>, Problem> {
    let (key, value) = required(fields, &[list_key])?;
    let mut messages = Vec::from_iter(system_turn(fields)?);
    messages.extend(turns(key, value, turn_keys, wanted)?);
    match (wanted, messages.last().map(|last| last.role)) {
        (Wanted::Row, Some(Role::Assistant)) => {}
        (Wanted::Row, found) => {
            let found = found.map_or("no turns", Role::as_str);
            return Err(format!(
                "{key}: found {found} at the end, expected assistant; remove turns after the response"
            ));
        }
        (Wanted::Prompt, _) => {
            messages.pop_if(|last| last.role == Role::Assistant);
        }
    }
    if messages.iter().all(|message| message.role != Role::User) {
        return Err(format!(
            "{key}: found no turn of user, expected one before the response; correct or remove the row"
        ));
    }
    Ok(messages)
}

pub(super) fn turns(
    key: &str,
    value: &Value,
    [role_key, text_key]: [&str; 2],
    wanted: Wanted,
) -> Result<Vec<ChatMessage>, Problem> {
    let Value::Array(items) = value else {
        return Err(format!("{key}: found {}, expected an array of turns", describe(value)));
    };
    let mut messages = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let turn = item.as_object().ok_or_else(|| {
            format!("{key}[{index}]: found {}, expected an object with {role_key} and {text_key}", describe(item))
        })?;
        let part = |part: &str| {
            turn.get(part).ok_or_else(|| format!("{key}[{index}]: missing key {part}; found: {}", keys_of(turn)))
        };
        let role = role(&format!("{key}[{index}].{role_key}"), part(role_key)?)?;
        let content = part(text_key)?;
        let empty = content.as_str().is_some_and(|text| text.trim().is_empty());
        let unread_response = wanted == Wanted::Prompt && role == Role::Assistant && index + 1 == items.len();
        if empty && (role == Role::System || unread_response) {
            continue;
        }
        messages.push(ChatMessage::new(role, text(&format!("{key}[{index}].{text_key}"), content)?));
    }
    Ok(messages)
}

fn role(key: &str, value: &Value) -> Result<Role, Problem> {
    match value.as_str() {
        Some("system") => Ok(Role::System),
        Some("user" | "human") => Ok(Role::User),
        Some("assistant" | "gpt") => Ok(Role::Assistant),
        Some(other) if other.len() <= 24 => {
            Err(format!("{key}: found {other:?}, allowed: {ROLES}; rename or remove the turn"))
        }
        _ => Err(format!("{key}: found {}, allowed: {ROLES}; rename or remove the turn", describe(value))),
    }
}

pub(super) fn system_turn(fields: &Fields) -> Result<Option<ChatMessage>, Problem> {
    Ok(text_or_empty(fields, &["system"])?.map(|text| ChatMessage::new(Role::System, text)))
}

/// `instruction`, maybe `input`, `output`; earlier turns in `history` as pairs, as LLaMA-Factory writes them.
fn alpaca(fields: &Fields, wanted: Wanted) -> Result<Vec<ChatMessage>, Problem> {
    let mut messages = Vec::from_iter(system_turn(fields)?);
    if let Some((key, value)) = optional(fields, &["history"]) {
        messages.extend(history(key, value)?);
    }
    let (key, instruction) = required(fields, INSTRUCTION)?;
    let mut prompt = text(key, instruction)?;
    if let Some(input) = text_or_empty(fields, INSTRUCTION_INPUT)? {
        prompt.push('\n');
        prompt.push_str(&input);
    }
    messages.push(ChatMessage::new(Role::User, prompt));
    if wanted == Wanted::Row {
        let (key, response) = required(fields, INSTRUCTION_OUTPUT)?;
        messages.push(ChatMessage::new(Role::Assistant, text(key, response)?));
    }
    Ok(messages)
}

fn history(key: &str, value: &Value) -> Result<Vec<ChatMessage>, Problem> {
    let problem = |found: &Value| format!("{key}: found {}, expected an array of [question, answer]", describe(found));
    let mut messages = Vec::new();
    for pair in value.as_array().ok_or_else(|| problem(value))? {
        let [question, answer] = pair.as_array().map(Vec::as_slice).ok_or_else(|| problem(pair))? else {
            return Err(problem(pair));
        };
        messages.push(ChatMessage::new(Role::User, text(key, question)?));
        messages.push(ChatMessage::new(Role::Assistant, text(key, answer)?));
    }
    Ok(messages)
}

/// `prompt` and `response`, each a text or (as TRL writes them) an array of turns.
fn prompt_response(fields: &Fields, wanted: Wanted) -> Result<Vec<ChatMessage>, Problem> {
    let turn_keys = ["role", "content"];
    let mut messages = Vec::from_iter(system_turn(fields)?);
    let (key, prompt) = required(fields, PROMPT)?;
    if prompt.is_array() {
        messages.extend(turns(key, prompt, turn_keys, Wanted::Row)?);
        if messages.iter().all(|message| message.role != Role::User) {
            return Err(format!("{key}: found no turn of user, expected one; correct or remove the row"));
        }
    } else {
        messages.push(ChatMessage::new(Role::User, text(key, prompt)?));
    }
    if wanted == Wanted::Prompt {
        return Ok(messages);
    }
    let (key, response) = required(fields, RESPONSE)?;
    if !response.is_array() {
        messages.push(ChatMessage::new(Role::Assistant, text(key, response)?));
        return Ok(messages);
    }
    messages.extend(turns(key, response, turn_keys, Wanted::Row)?);
    if messages.last().is_some_and(|last| last.role == Role::Assistant) {
        Ok(messages)
    } else {
        Err(format!("{key}: found no assistant turn at the end, expected the response; correct or remove the row"))
    }
}

/// A dialogue in one text: `\n\nHuman: … \n\nAssistant: …`. No messages if a response is wanted and the last turn is
/// empty.
pub(super) fn dialogue(fields: &Fields, key: &'static str, wanted: Wanted) -> Result<Vec<ChatMessage>, Problem> {
    let (key, value) = required(fields, &[key])?;
    let text = format!("\n\n{}", text(key, value)?.trim_start());
    let turns = split_dialogue(&text);
    match turns.as_slice() {
        [(Role::User, _), .., (Role::Assistant, response)] => {
            let answered = !response.is_empty();
            let mut messages = join_turns(turns);
            match wanted {
                Wanted::Row if answered => {}
                Wanted::Row => messages.clear(),
                Wanted::Prompt => {
                    messages.pop_if(|last| answered && last.role == Role::Assistant);
                }
            }
            Ok(messages)
        }
        _ => Err(format!(
            "{key}: expected a dialogue \"\\n\\nHuman: … \\n\\nAssistant: …\" that Human opens and Assistant closes; \
             correct or remove the row"
        )),
    }
}

/// The turns of a dialogue as they stand; empty if it does not begin with a speaker.
fn split_dialogue(text: &str) -> Vec<(Role, &str)> {
    const SPEAKERS: [(&str, Role); 2] = [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];
    let next = |from: usize| {
        let found = SPEAKERS.iter().filter_map(|&(marker, role)| {
            let at = from + text[from..].find(marker)?;
            Some((at, at + marker.len(), role))
        });
        found.min_by_key(|&(at, ..)| at)
    };
    let mut turns = Vec::new();
    let mut turn = next(0).filter(|&(at, ..)| at == 0);
    while let Some((_, start, role)) = turn {
        turn = next(start);
        let end = turn.map_or(text.len(), |(at, ..)| at);
        turns.push((role, text[start..end].trim()));
    }
    turns
}

/// Turns as messages: what one speaker says in several turns on end is one message, empty turns are left out.
fn join_turns(turns: Vec<(Role, &str)>) -> Vec<ChatMessage> {
    let mut messages: Vec<ChatMessage> = Vec::new();
    for (role, content) in turns.into_iter().filter(|(_, content)| !content.is_empty()) {
        match messages.last_mut() {
            Some(last) if last.role == role => last.content = format!("{}\n\n{content}", last.content),
            _ => messages.push(ChatMessage::new(role, content)),
        }
    }
    messages
}

/// `topic`, or `category` where it is a text, as Dolly writes it.
fn topic(fields: &Fields) -> Result<Option<String>, Problem> {
    match fields.get("topic") {
        None | Some(Value::Null) => Ok(fields.get("category").and_then(Value::as_str).map(str::to_owned)),
        Some(Value::String(topic)) => Ok(Some(topic.clone())),
        Some(other) => Err(format!("topic: found {}, expected a text", describe(other))),
    }
}

pub(super) fn label(fields: &Fields) -> Result<Option<RowLabel>, Problem> {
    match fields.get("label") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(label)) if label == "safe" => Ok(Some(RowLabel::Safe)),
        Some(Value::String(label)) if label == "unsafe" => Ok(Some(RowLabel::Unsafe)),
        Some(Value::String(label)) if label.is_empty() => Ok(None),
        Some(Value::String(label)) if label.len() <= 24 => Err(format!(
            "label: found {label:?}, allowed: \"safe\", \"unsafe\"; rename the key if it means something else"
        )),
        Some(other) => Err(format!(
            "label: found {}, allowed: \"safe\", \"unsafe\"; rename the key if it means something else",
            describe(other)
        )),
    }
}
