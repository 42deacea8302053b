//! Turns of a conversation as data sets write them: who speaks, what is said, and whether it is to be trained on.

use fedward_actors::protocol::{ChatMessage, Role};
use serde_json::Value;

use super::rows::{Fields, Problem, Wanted, describe, keys_of, text};

/// Roles by the names that data sets have for them, in any case.
const ROLES: &str = "system (or developer), user (or human), assistant (or gpt, chatgpt, model)";

/// Flags of a turn that say whether it is to be trained on: `OpenAI`'s and mistral-finetune's `weight`, axolotl's `train`,
/// ms-swift's `loss`.
const TRAIN_FLAGS: [&str; 3] = ["weight", "train", "loss"];

/// What a turn may carry that no template here renders.
const NOT_RENDERED: [(&str, &str); 6] = [
    ("tool_calls", "tool calls"),
    ("function_call", "tool calls"),
    ("reasoning_content", "reasoning"),
    ("reasoning", "reasoning"),
    ("thinking", "reasoning"),
    ("train_detail", "training on parts of a turn"),
];

/// What a record says that is not heeded, but for which it is no worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unheeded {
    /// A flag says that another turn than the response is to be trained on.
    pub(super) asks_for_others: bool,
    /// A turn names who speaks.
    pub(super) has_names: bool,
    /// The row has a weight that is neither 0 nor 1.
    pub(super) is_weighted: bool,
}

/// The turns of an array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) messages: Vec<ChatMessage>,
    /// Whether a flag says that the last turn is not to be trained on.
    pub(super) last_is_muted: bool,
    /// What of it is not heeded.
    pub(super) unheeded: Unheeded,
}

/// Reads an array of turns, each an object with the two keys. The last response is left out of prompts.
pub(super) fn turns(
    key: &str,
    value: &Value,
    [role_key, text_key]: [&str; 2],
    wanted: Wanted,
) -> Result<Turns, Problem> {
    let Value::Array(items) = value else {
        return Err(format!("{key}: found {}, expected an array of turns", describe(value)));
    };
    let mut read = Turns::default();
    for (index, item) in items.iter().enumerate() {
        let turn = item.as_object().ok_or_else(|| {
            format!("{key}[{index}]: found {}, expected an object with {role_key} and {text_key}", describe(item))
        })?;
        let part = |part: &str| {
            turn.get(part).ok_or_else(|| format!("{key}[{index}]: missing key {part}; found: {}", keys_of(turn)))
        };
        let role = role(&format!("{key}[{index}].{role_key}"), part(role_key)?)?;
        let is_last = index + 1 == items.len();
        let is_unread = wanted == Wanted::Prompt && role == Role::Assistant && is_last;
        if is_unread {
            // Only its place matters: callers take the response away.
            read.messages.push(ChatMessage::new(role, ""));
            continue;
        }
        refuse_unrendered(&format!("{key}[{index}]"), turn)?;
        let content = part(text_key)?;
        let is_empty = content.as_str().is_some_and(|text| text.trim().is_empty());
        if is_empty && role == Role::System {
            continue;
        }
        let is_trained = is_trained(&format!("{key}[{index}]"), turn)?;
        read.last_is_muted = is_last && is_trained == Some(false);
        read.unheeded.asks_for_others |= !is_last && is_trained == Some(true);
        read.unheeded.has_names |= turn.get("name").is_some_and(holds_something);
        read.messages.push(ChatMessage::new(role, said(&format!("{key}[{index}].{text_key}"), content)?));
    }
    Ok(read)
}

/// A text, or the texts of an array of parts one after another, as chat templates render them.
fn said(key: &str, value: &Value) -> Result<String, Problem> {
    let Value::Array(parts) = value else { return text(key, value) };
    let mut said = String::new();
    for (index, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
        match part.as_str().or_else(|| part.get("text")?.as_str()) {
            Some(text) if matches!(kind, "text" | "input_text" | "output_text") => said.push_str(text),
            _ => {
                let found = if part.is_object() && kind.len() <= 24 {
                    format!("a part of type {kind:?}")
                } else {
                    describe(part)
                };
                return Err(format!("{key}[{index}]: found {found}, expected a part of type \"text\" with text"));
            }
        }
    }
    text(key, &Value::String(said))
}

/// Whether a turn says that it is to be trained on, if it says so.
fn is_trained(key: &str, turn: &Fields) -> Result<Option<bool>, Problem> {
    let mut found = None;
    for flag in TRAIN_FLAGS {
        let is_on = match turn.get(flag) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(is_on)) => *is_on,
            Some(Value::Number(weight)) if weight.as_f64() == Some(0.0) => false,
            Some(Value::Number(weight)) if weight.as_f64() == Some(1.0) => true,
            Some(other) => {
                return Err(format!(
                    "{key}.{flag}: found {}, expected 0, 1, true or false: a turn is trained on or not",
                    describe(other)
                ));
            }
        };
        // One no is a no.
        found = Some(found.unwrap_or(true) && is_on);
    }
    Ok(found)
}

fn refuse_unrendered(key: &str, turn: &Fields) -> Result<(), Problem> {
    for (name, what) in NOT_RENDERED {
        if let Some(value) = turn.get(name).filter(|value| holds_something(value)) {
            return Err(format!(
                "{key}.{name}: found {}, expected none: {what} cannot be rendered; remove the key or the row",
                describe(value)
            ));
        }
    }
    Ok(())
}

/// Whether there is anything in a value.
pub(super) fn holds_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Who speaks, by one of the names that data sets have for it.
pub(super) fn role_named(name: &str) -> Option<Role> {
    match name.to_lowercase().as_str() {
        "system" | "developer" => Some(Role::System),
        "user" | "human" => Some(Role::User),
        "assistant" | "gpt" | "chatgpt" | "model" => Some(Role::Assistant),
        _ => None,
    }
}

fn role(key: &str, value: &Value) -> Result<Role, Problem> {
    value.as_str().and_then(role_named).ok_or_else(|| {
        let found = match value.as_str() {
            Some(other) if other.len() <= 24 => format!("{other:?}"),
            _ => describe(value),
        };
        format!("{key}: found {found}, expected {ROLES}; rename or remove the turn")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Turns, Problem> {
        turns("messages", value, ["role", "content"], Wanted::Row)
    }

    #[test]
    fn flags_of_the_last_turn_and_of_others_are_told_apart() {
        let conversation = |first: &Value, last: &Value| {
            let turn = |role: &str, flags: &Value| {
                let mut turn = json!({"role": role, "content": "a"});
                turn.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
                turn
            };
            read(&json!([
                turn("user", &json!({})),
                turn("assistant", first),
                turn("user", &json!({"weight": null})),
                turn("assistant", last)
            ]))
        };
        let none = json!({});
        for (first, last, muted, others) in [
            (&none, json!({}), false, false),
            (&none, json!({"weight": 0}), true, false),
            (&none, json!({"weight": 0.0}), true, false),
            (&none, json!({"train": false}), true, false),
            (&none, json!({"loss": false, "train": true}), true, false),
            (&none, json!({"weight": 1, "train": null}), false, false),
            (&json!({"weight": 0}), json!({}), false, false),
            (&json!({"train": true}), json!({"train": false}), true, true),
            (&json!({"weight": 1}), json!({"weight": 1}), false, true),
        ] {
            let found = conversation(first, &last).unwrap();
            assert_eq!((found.last_is_muted, found.unheeded.asks_for_others), (muted, others), "{first} {last}");
        }
        let problem = conversation(&none, &json!({"weight": 0.5})).unwrap_err();
        assert_eq!(
            problem,
            "messages[3].weight: found the number 0.5, expected 0, 1, true or false: a turn is trained on or not"
        );
    }

    #[test]
    fn roles_have_many_names_and_contents_may_come_in_parts() {
        let parts = json!([{"type": "text", "text": "a "}, {"text": "b"}, "c"]);
        let turn = |role: &str| json!({"role": role, "content": parts});
        let found = read(&json!(["developer", "User", "Model", "HUMAN", "chatgpt"].map(turn))).unwrap();
        let roles: Vec<_> = found.messages.iter().map(|turn| turn.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
        assert!(found.messages.iter().all(|turn| turn.content == "a bc"));
        for (content, problem) in [
            (json!([{"type": "image_url", "image_url": {}}]), "[0]: found a part of type \"image_url\", expected"),
            (json!([{"type": "text", "text": 3}]), "[0]: found a part of type \"text\", expected"),
            (json!([7]), "[0]: found the number 7, expected"),
            (json!([]), ": found an empty text, expected a text"),
        ] {
            let found = read(&json!([{"role": "user", "content": content}])).unwrap_err();
            assert!(found.starts_with(&format!("messages[0].content{problem}")), "{found}");
        }
    }

    #[test]
    fn what_cannot_be_rendered_is_refused_where_it_is_not_empty() {
        for name in ["tool_calls", "function_call", "reasoning_content", "thinking"] {
            let turn = |value: Value| json!([{"role": "user", "content": "a", name: value}]);
            assert!(
                read(&turn(json!(null))).is_ok() && read(&turn(json!([]))).is_ok() && read(&turn(json!(" "))).is_ok()
            );
            let problem = read(&turn(json!(["x"]))).unwrap_err();
            assert!(
                problem.starts_with(&format!("messages[0].{name}: found an array of 1, expected none")),
                "{problem}"
            );
        }
    }
}
