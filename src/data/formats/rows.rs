//! What a record means: one chat conversation, whichever family of formats it comes from.

use fedward_actors::protocol::{ChatMessage, ChatRow, Role, RowLabel};
use serde_json::{Map, Value};

use super::{
    RowFormat,
    dialogue::dialogue,
    key_sets::refuse_another,
    turns::{Turns, Unheeded, holds_something, turns},
};

pub(super) type Fields = Map<String, Value>;

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
const SYSTEM: &[&str] = &["system", "system_prompt"];
const TOOLS: [&str; 2] = ["tools", "functions"];
pub(super) const ROLE_CONTENT: [&str; 2] = ["role", "content"];
pub(super) const FROM_VALUE: [&str; 2] = ["from", "value"];

/// What a record gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// A row, and what of its record is not heeded.
    Row(ChatRow, Unheeded),
    /// The format knows that there is no response (see [`RowFormat::HhRlhf`]).
    NoResponse,
    /// A row whose response is not to be trained on, as the record says.
    NotTrained(ChatRow),
}

/// Reads a record as a chat row.
pub(super) fn chat_row(fields: &Fields, format: RowFormat, wanted: Wanted) -> Result<Reading, Problem> {
    let resolved = resolve(fields, format)?;
    refuse_tools(fields)?;
    let said = conversation_of(fields, resolved, wanted)?;
    if said.messages.is_empty() {
        return Ok(Reading::NoResponse);
    }
    if format == RowFormat::Auto {
        refuse_another(fields, resolved, &said.messages, wanted)?;
    }
    let (topic, label) = match wanted {
        Wanted::Row => (topic(fields)?, label(fields)?),
        Wanted::Prompt => (None, None),
    };
    let row = ChatRow { messages: said.messages, topic, label };
    if wanted == Wanted::Row && (said.last_is_muted || is_muted(fields)) {
        return Ok(Reading::NotTrained(row));
    }
    let weight = fields.get("weight").and_then(number);
    let is_weighted = weight.is_some_and(|weight| weight.abs() > 0.0 && (weight - 1.0).abs() > 0.0);
    Ok(Reading::Row(row, Unheeded { is_weighted, ..said.unheeded }))
}

/// The conversation of a record in a format that is known; no messages for one that has no response.
pub(super) fn conversation_of(fields: &Fields, format: RowFormat, wanted: Wanted) -> Result<Turns, Problem> {
    let (key, system) = match format {
        RowFormat::Auto | RowFormat::Messages => return conversation(fields, "messages", ROLE_CONTENT, wanted),
        RowFormat::ShareGpt => return conversation(fields, "conversations", FROM_VALUE, wanted),
        RowFormat::Alpaca => return alpaca(fields, wanted),
        RowFormat::PromptResponse => return prompt_response(fields, wanted),
        RowFormat::HhRlhf => ("chosen", system_turn(fields)?),
        RowFormat::HhRlhfRejected => ("rejected", system_turn(fields)?),
    };
    let (key, value) = required(fields, &[key])?;
    if value.is_array() {
        return conversation(fields, key, ROLE_CONTENT, wanted);
    }
    let messages = dialogue(key, value, wanted)?;
    let messages = if messages.is_empty() { messages } else { led_by(system, messages) };
    Ok(Turns { messages, ..Turns::default() })
}

/// Whether a record as a whole is not to be trained on: flags that turns have, too. Other values of these keys may be data of any kind.
pub(super) fn is_muted(fields: &Fields) -> bool {
    let says_no = |value: &Value| value.as_str().is_some_and(|text| text.trim().eq_ignore_ascii_case("false"));
    let is_off = |value: &Value| value == &Value::Bool(false) || number(value) == Some(0.0) || says_no(value);
    ["weight", "train"].iter().any(|flag| fields.get(*flag).is_some_and(is_off))
}

/// A number, also as the text that a table's cell has.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Functions that a template would have to describe.
pub(super) fn refuse_tools(fields: &Fields) -> Result<(), Problem> {
    // Tables have empty lists as texts.
    let is_empty_text = |value: &Value| value.as_str().is_some_and(|text| matches!(text.trim(), "[]" | "{}" | "null"));
    for key in TOOLS {
        if let Some(value) = fields.get(key).filter(|value| holds_something(value) && !is_empty_text(value)) {
            return Err(format!(
                "{key}: found {}, expected none: tools cannot be rendered; remove the key or the row",
                describe(value)
            ));
        }
    }
    Ok(())
}

/// Turns after a system turn, unless they begin with the same one.
pub(super) fn led_by(system: Option<ChatMessage>, messages: Vec<ChatMessage>) -> Vec<ChatMessage> {
    let is_same = |system: &ChatMessage| {
        messages
            .first()
            .is_some_and(|first| first.role == Role::System && first.content.trim() == system.content.trim())
    };
    let system = system.filter(|system| !is_same(system));
    system.into_iter().chain(messages).collect()
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
    let has = |keys: &[&'static str]| optional(fields, keys).is_some();
    Ok(match format {
        RowFormat::Auto if has(&["messages"]) => RowFormat::Messages,
        RowFormat::Auto if has(&["conversations"]) => RowFormat::ShareGpt,
        RowFormat::Auto if has(INSTRUCTION) || is_alpaca_without_instruction(fields) => RowFormat::Alpaca,
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

/// What a prompt asks. Turns that were written into one text, as tables of cells have them, are not taken for what somebody says.
pub(super) fn asked(key: &str, value: &Value) -> Result<String, Problem> {
    let asked = text(key, value)?;
    if is_text_of_turns(asked.trim()) {
        return Err(format!(
            "{key}: found turns inside of a text, expected an array of turns; save the rows as .jsonl with the arrays themselves"
        ));
    }
    Ok(asked)
}

/// Whether a text is a list whose first object has both keys of a turn, in JSON or as Python or `NumPy` print it.
fn is_text_of_turns(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).map(str::trim);
    let Some(inside) = inside.and_then(|text| text.strip_prefix('{')) else { return false };
    // A brace within what is said is followed by other things.
    let closes = |&(at, _): &(usize, &str)| {
        let rest = inside[at + 1..].trim_start();
        rest.is_empty() || rest.starts_with(',') || rest.starts_with('{')
    };
    let end = inside.match_indices('}').find(closes).map_or(inside.len(), |(at, _)| at);
    let names = |name: &str| {
        ['\'', '"'].iter().any(|quote| {
            let name = format!("{quote}{name}{quote}");
            inside[..end].match_indices(&name).any(|(at, _)| inside[at + name.len()..].trim_start().starts_with(':'))
        })
    };
    [ROLE_CONTENT, FROM_VALUE].iter().any(|keys| keys.iter().all(|name| names(name)))
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
) -> Result<Turns, Problem> {
    let (key, value) = required(fields, &[list_key])?;
    let mut read = turns(key, value, turn_keys, wanted)?;
    let mut messages = led_by(system_turn(fields)?, read.messages);
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
    read.messages = messages;
    Ok(read)
}

pub(super) fn system_turn(fields: &Fields) -> Result<Option<ChatMessage>, Problem> {
    Ok(text_or_empty(fields, SYSTEM)?.map(|text| ChatMessage::new(Role::System, text)))
}

/// Whether a record has Alpaca's keys, though its instruction is null: what is asked is in `input` then.
fn is_alpaca_without_instruction(fields: &Fields) -> bool {
    INSTRUCTION.iter().any(|key| fields.contains_key(*key)) && optional(fields, INSTRUCTION_INPUT).is_some()
}

/// What `instruction` and maybe `input` ask.
fn instruction(fields: &Fields) -> Result<String, Problem> {
    let input = text_or_empty(fields, INSTRUCTION_INPUT)?;
    match (text_or_empty(fields, INSTRUCTION)?, input) {
        (Some(instruction), Some(input)) => Ok(format!("{instruction}\n{input}")),
        (Some(text), None) | (None, Some(text)) => Ok(text),
        (None, None) => {
            let (key, instruction) = required(fields, INSTRUCTION)?;
            text(key, instruction)
        }
    }
}

/// `instruction`, maybe `input`, `output`; earlier turns in `history` as pairs, as LLaMA-Factory writes them. What is asked may be in
/// `input` alone.
fn alpaca(fields: &Fields, wanted: Wanted) -> Result<Turns, Problem> {
    let mut messages = Vec::from_iter(system_turn(fields)?);
    messages.extend(instructed(fields)?);
    if wanted == Wanted::Row {
        let (key, response) = required(fields, INSTRUCTION_OUTPUT)?;
        messages.push(ChatMessage::new(Role::Assistant, text(key, response)?));
    }
    Ok(Turns { messages, ..Turns::default() })
}

/// Earlier turns, and what is asked after them.
pub(super) fn instructed(fields: &Fields) -> Result<Vec<ChatMessage>, Problem> {
    let earlier = optional(fields, &["history"]).map(|(key, value)| history(key, value)).transpose()?;
    let mut messages = earlier.unwrap_or_default();
    messages.push(ChatMessage::new(Role::User, instruction(fields)?));
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
fn prompt_response(fields: &Fields, wanted: Wanted) -> Result<Turns, Problem> {
    let (key, prompt) = required(fields, PROMPT)?;
    let prompt = if prompt.is_array() {
        turns(key, prompt, ROLE_CONTENT, Wanted::Row)?.messages
    } else {
        vec![ChatMessage::new(Role::User, asked(key, prompt)?)]
    };
    if prompt.iter().all(|message| message.role != Role::User) {
        return Err(format!("{key}: found no turn of user, expected one; correct or remove the row"));
    }
    let prompt = led_by(system_turn(fields)?, prompt);
    if wanted == Wanted::Prompt {
        return Ok(Turns { messages: prompt, ..Turns::default() });
    }
    let (key, response) = required(fields, RESPONSE)?;
    if !response.is_array() {
        let response = ChatMessage::new(Role::Assistant, text(key, response)?);
        return Ok(Turns { messages: prompt.into_iter().chain([response]).collect(), ..Turns::default() });
    }
    let mut read = turns(key, response, ROLE_CONTENT, Wanted::Row)?;
    if read.messages.last().is_none_or(|last| last.role != Role::Assistant) {
        return Err(format!(
            "{key}: found no assistant turn at the end, expected the response; correct or remove the row"
        ));
    }
    read.messages = after_prompt(&prompt, read.messages);
    Ok(read)
}

/// What is said after a prompt: turns that repeat it are the whole conversation, and keep its system turns if they have none.
pub(super) fn after_prompt(prompt: &[ChatMessage], said: Vec<ChatMessage>) -> Vec<ChatMessage> {
    if !repeats(prompt, &said) {
        return prompt.iter().cloned().chain(said).collect();
    }
    let is_system = |message: &&ChatMessage| message.role == Role::System;
    let has_system = said.iter().any(|message| is_system(&message));
    let system = prompt.iter().filter(is_system).filter(|_| !has_system).cloned();
    system.chain(said).collect()
}

/// Whether turns begin with those of a prompt, system turns aside.
pub(super) fn repeats(prompt: &[ChatMessage], said: &[ChatMessage]) -> bool {
    let spoken = |message: &&ChatMessage| message.role != Role::System;
    let mut said = said.iter().filter(spoken);
    prompt.iter().filter(spoken).all(|asked| {
        said.next().is_some_and(|said| said.role == asked.role && said.content.trim() == asked.content.trim())
    })
}

/// `topic`, or `category` where it is a text, as Dolly writes it.
fn topic(fields: &Fields) -> Result<Option<String>, Problem> {
    match fields.get("topic") {
        None | Some(Value::Null) => Ok(fields.get("category").and_then(Value::as_str).map(str::to_owned)),
        Some(Value::String(topic)) => Ok(Some(topic.clone())),
        Some(other) => Err(format!("topic: found {}, expected a text", describe(other))),
    }
}

/// What a column says, as a text; `exact` is the text of a number that would be written in another way.
pub(super) fn column_value(fields: &Fields, column: &str, exact: Option<&str>) -> Result<String, Problem> {
    match fields.get(column) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => {
            Ok(exact.map_or_else(|| value.to_string(), |exact| exact.trim().to_owned()))
        }
        Some(other) => Err(format!(
            "{column}: found {}, expected a text, a number, true or false to part rows by; correct or remove the row",
            describe(other)
        )),
        None => Err(format!(
            "missing key {column}, which rows are to be parted by; found: {}; add it or name another column",
            keys_of(fields)
        )),
    }
}

/// The label of a record, in any case.
pub(super) fn label(fields: &Fields) -> Result<Option<RowLabel>, Problem> {
    let found = match fields.get("label") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(label)) => match label.trim().to_lowercase().as_str() {
            "" => return Ok(None),
            "safe" => return Ok(Some(RowLabel::Safe)),
            "unsafe" => return Ok(Some(RowLabel::Unsafe)),
            short if short.len() <= 24 => format!("{label:?}"),
            _ => describe(&Value::from(label.as_str())),
        },
        Some(other) => describe(other),
    };
    Err(format!("label: found {found}, expected \"safe\" or \"unsafe\"; rename the key if it means something else"))
}
