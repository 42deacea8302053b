//! Dialogues in one text, as HH-RLHF writes them: `\n\nHuman: … \n\nAssistant: …`.

use fedward_actors::protocol::{ChatMessage, Role};
use serde_json::Value;

use super::rows::{Problem, Wanted, text};

/// Whether a text looks like a dialogue rather than like one turn.
pub(super) fn is_dialogue(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.trim_start().starts_with("Human:") && text.contains("\n\nAssistant:"))
}

/// Reads a dialogue. No messages if a response is wanted and the last turn is empty.
pub(super) fn dialogue(key: &str, value: &Value, wanted: Wanted) -> Result<Vec<ChatMessage>, Problem> {
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
