//! Records that say a conversation twice, under the keys of two formats.

use fedward_actors::protocol::{ChatMessage, Role};
use serde_json::Value;

use super::{
    RowFormat,
    dialogue::{dialogue, is_dialogue},
    rows::{FROM_VALUE, Fields, Problem, ROLE_CONTENT, Wanted},
    turns::{holds_something, turns},
};

/// From how many bytes on a text that stands inside another one says that the two are the same: shorter ones stand in many.
const LONG: usize = 16;

/// Keys that no format shares with another, and whose text is not metadata in data sets.
const CONVERSATIONS: [&str; 3] = ["messages", "conversations", "chosen"];
const ASKED: [&str; 2] = ["instruction", "prompt"];
const ANSWERED: [&str; 2] = ["response", "completion"];

/// Refuses a record with the keys of another format beside those that are read, unless they say the same: which of the two
/// is meant, nobody can know.
pub(super) fn refuse_another(
    fields: &Fields,
    read: RowFormat,
    messages: &[ChatMessage],
    wanted: Wanted,
) -> Result<(), Problem> {
    let own: &[&str] = match read {
        RowFormat::Auto | RowFormat::Messages => &["messages"],
        RowFormat::ShareGpt => &["conversations"],
        RowFormat::Alpaca => &["instruction", "response"],
        RowFormat::PromptResponse => &["prompt", "response", "completion"],
        RowFormat::HhRlhf | RowFormat::HhRlhfRejected => &["chosen", "rejected"],
    };
    let others = |keys: &'static [&'static str]| {
        let others = keys.iter().filter(|key| !own.contains(key));
        others.filter_map(|key| Some((*key, fields.get(*key).filter(|value| holds_something(value))?)))
    };
    let texts_of = |role: Role| {
        let texts = messages.iter().filter(move |message| message.role == role);
        texts.map(|message| message.content.trim()).collect::<Vec<_>>()
    };
    let asked = others(&ASKED).find(|(_, value)| !says(value, Role::User, &texts_of(Role::User)));
    let is_row = wanted == Wanted::Row;
    let responses = if is_row { texts_of(Role::Assistant).pop() } else { None };
    let answered = others(&ANSWERED).find(|(_, value)| is_row && !says(value, Role::Assistant, responses.as_slice()));
    let conversation = others(&CONVERSATIONS).find(|(key, value)| is_row && !is_conversation(key, value, messages));
    let Some((other, _)) = asked.or(answered).or(conversation) else { return Ok(()) };
    Err(format!(
        "found {} and {other}, which say different things, expected one conversation; remove one, or name the format",
        own.iter().find(|key| fields.contains_key(**key)).unwrap_or(&own[0])
    ))
}

/// Whether all that a value has `role` say repeats the texts: a long text may have words around it as a rendering has, or be a part
/// of what is said.
fn says(value: &Value, role: Role, texts: &[&str]) -> bool {
    let holds = |text: &str, part: &str| part.len() >= LONG && text.contains(part);
    let repeats = |part: &str| texts.iter().any(|text| part == *text || holds(text, part) || holds(part, text));
    match value {
        Value::String(text) => repeats(text.trim()),
        Value::Array(_) => turns("", value, ROLE_CONTENT, Wanted::Row).is_ok_and(|read| {
            let mut said = read.messages.iter().filter(|message| message.role == role);
            said.all(|message| repeats(message.content.trim()))
        }),
        // Numbers, flags and objects are metadata.
        _ => true,
    }
}

/// Whether a value is the same conversation, system turns aside.
fn is_conversation(key: &str, value: &Value, messages: &[ChatMessage]) -> bool {
    let turn_keys = if key == "conversations" { FROM_VALUE } else { ROLE_CONTENT };
    let read = match value {
        Value::Array(_) => turns(key, value, turn_keys, Wanted::Row).map(|read| read.messages),
        dialogued if is_dialogue(dialogued) => dialogue(key, value, Wanted::Row),
        // One side of a pair, which says nothing of the prompt.
        other => {
            let responses = messages.iter().filter(|message| message.role == Role::Assistant);
            return says(other, Role::Assistant, &responses.map(|message| message.content.trim()).collect::<Vec<_>>());
        }
    };
    let spoken = |messages: &[ChatMessage]| {
        let turns = messages.iter().filter(|message| message.role != Role::System);
        turns.map(|message| (message.role, message.content.trim().to_owned())).collect::<Vec<_>>()
    };
    read.is_ok_and(|read| spoken(&read) == spoken(messages))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::formats::rows::chat_row;

    fn problem(record: &Value, format: RowFormat, wanted: Wanted) -> Option<Problem> {
        chat_row(record.as_object().unwrap(), format, wanted).err()
    }

    #[test]
    fn a_second_conversation_is_refused_unless_it_is_the_same() {
        let messages = json!([{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]);
        let turns = json!([{"from": "human", "value": "How?"}, {"from": "gpt", "value": "So."}]);
        let other = json!([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]);
        let same = [
            json!({"messages": messages, "prompt": " How?", "prompt_id": 3, "category": "x"}),
            json!({"messages": messages, "conversations": turns, "response": "So."}),
            json!({"messages": messages, "chosen": messages, "rejected": other}),
            json!({"messages": messages, "prompt": null, "response": ""}),
            json!({
                "instruction": "How do tides come about?", "output": "So.",
                "prompt": "### Instruction: How do tides come about? ### Response: So."
            }),
            json!({"messages": messages, "prompt": [{"role": "system", "content": "Be brief."}, messages[0]]}),
            json!({"prompt": "How?", "completion": "So.", "chosen": "So.", "rejected": "No."}),
            json!({"conversations": turns, "messages": null, "target": "4", "answer": "4"}),
        ];
        for record in same {
            assert_eq!(problem(&record, RowFormat::Auto, Wanted::Row), None, "{record}");
        }
        let expected = |own: &str, other: &str| {
            Some(format!(
                "found {own} and {other}, which say different things, expected one conversation; remove one, or name the \
                 format"
            ))
        };
        for (record, keys) in [
            (json!({"messages": messages, "prompt": "Why?"}), ["messages", "prompt"]),
            (json!({"messages": messages, "response": "No."}), ["messages", "response"]),
            // A short text stands in many others.
            (json!({"messages": messages, "response": "So. Or otherwise, as I would say."}), ["messages", "response"]),
            (json!({"messages": messages, "prompt": "How? And why, and since when?"}), ["messages", "prompt"]),
            (
                json!({"messages": messages, "prompt": [messages[0], messages[1], {"role": "user", "content": "And then?"}]}),
                ["messages", "prompt"],
            ),
            (json!({"messages": messages, "chosen": other}), ["messages", "chosen"]),
            (json!({"messages": other, "conversations": turns}), ["messages", "conversations"]),
            (json!({"instruction": "How?", "output": "So.", "prompt": "Why?"}), ["instruction", "prompt"]),
        ] {
            assert_eq!(problem(&record, RowFormat::Auto, Wanted::Row), expected(keys[0], keys[1]), "{record}");
        }
        // Who names the format has chosen; and to a prompt, responses say nothing.
        let record = json!({"messages": messages, "response": "No."});
        assert_eq!(problem(&record, RowFormat::Messages, Wanted::Row), None);
        assert_eq!(problem(&record, RowFormat::Auto, Wanted::Prompt), None);
        let record = json!({"messages": messages, "prompt": "Why?"});
        assert_eq!(problem(&record, RowFormat::Auto, Wanted::Prompt), expected("messages", "prompt"));
    }
}
