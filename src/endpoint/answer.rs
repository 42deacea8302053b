//! Reads what endpoints answer, and says of it only what cannot give a prompt or a key away.

use std::fmt;

use serde_json::Value;

use super::ChatCompletion;

/// Longest text of an answer, in bytes: some hundred thousand tokens, far beyond what is ever asked for.
const MOST_TEXT_BYTES: usize = 1 << 20;

/// The start of a body in which words are looked for.
const SEARCHED_BYTES: usize = 64 << 10;

/// Why an answer of status 200 holds no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is no chat completion; what is wrong with it, in words that repeat none of it.
    Malformed(String),
    /// It is an error in the place of a completion.
    Error,
    /// It is a completion without text; why it ends, if that is a reason of `OpenAI`'s protocol.
    NoText(Option<&'static str>),
}

/// Kinds and codes of errors that servers are known to send: `OpenAI`'s and Anthropic's protocol, vLLM, llama.cpp.
const KNOWN_ERRORS: [&str; 27] = [
    "api_error",
    "authentication_error",
    "BadRequestError",
    "billing_error",
    "content_policy_violation",
    "context_length_exceeded",
    "exceed_context_size_error",
    "insufficient_quota",
    "InternalServerError",
    "invalid_api_key",
    "invalid_request_error",
    "model_not_found",
    "not_found_error",
    "not_supported_error",
    "NotFoundError",
    "overloaded_error",
    "permission_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "request_too_large",
    "requests",
    "server_error",
    "timeout_error",
    "tokens",
    "unavailable_error",
    "unsupported_parameter",
    "unsupported_value",
];

/// Those of them that tell of a key, an account or a model.
const ACCESS_ERRORS: [&str; 6] = [
    "authentication_error",
    "billing_error",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
    "permission_error",
];

/// Media types that are called by their names.
const KNOWN_TYPES: [&str; 6] = [
    "application/json",
    "application/problem+json",
    "text/event-stream",
    "text/html",
    "text/plain",
    "application/octet-stream",
];

/// Phrases of error messages, and what is said in their place.
const TOPICS: [(&[&str], &str); 3] = [
    (
        &[
            "context length",
            "context size",
            "context window",
            "maximum context",
            "too many tokens",
            "prompt is too long",
        ],
        "about the length of the prompt",
    ),
    (&["model not found", "model_not_found", "does not exist", "no such model", "unknown model"], "about the model"),
    (&["max_tokens", "max_completion_tokens"], "about max_tokens"),
];

/// What may be said of an answer: its kind and size, and words of fedward's own. Nothing of its text, which may repeat the
/// prompt or the key in any disguise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    words: Box<str>,
    concerns_all_requests: bool,
}

impl Outline {
    /// Of a body with its `Content-Type`.
    pub(super) fn of(content_type: Option<&str>, body: &str) -> Self {
        let media_type = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
        let known_type =
            |media_type: &str| KNOWN_TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(media_type));
        let value: Option<Value> = serde_json::from_str(without_mark(body)).ok();
        let at = |pointer: &str| value.as_ref()?.pointer(pointer)?.as_str();
        let known_error = |pointers: [&str; 2]| {
            let found = pointers.into_iter().find_map(at)?;
            KNOWN_ERRORS.into_iter().find(|known| *known == found)
        };
        let kind = known_error(["/error/type", "/type"]);
        let code = known_error(["/error/code", "/code"]).filter(|code| Some(*code) != kind);
        let topic = value.is_some().then(|| topic(body)).flatten();
        let media_type =
            media_type.map_or("no content type", |text| known_type(text).unwrap_or("another content type"));
        let size = format!("{} bytes", body.len());
        let words: Vec<&str> =
            [media_type, &size].into_iter().chain([kind, code, topic].into_iter().flatten()).collect();
        Self {
            words: words.join(", ").into(),
            concerns_all_requests: [kind, code].into_iter().flatten().any(|error| ACCESS_ERRORS.contains(&error)),
        }
    }

    /// Whether it tells of a key, an account or a model, so that every other request would meet the same.
    pub(super) fn concerns_all_requests(&self) -> bool {
        self.concerns_all_requests
    }
}

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

fn topic(body: &str) -> Option<&'static str> {
    let start = body.floor_char_boundary(SEARCHED_BYTES);
    let text = body[..start].to_ascii_lowercase();
    let is_in = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    TOPICS.into_iter().find(|(phrases, _)| is_in(phrases)).map(|(_, topic)| topic)
}

/// Some servers begin with a byte order mark.
fn without_mark(body: &str) -> &str {
    body.strip_prefix('\u{feff}').unwrap_or(body)
}

/// Reads a completion: as an object or, from servers that stream whatever they are asked for, as server-sent events.
pub(super) fn read(body: &str) -> Result<ChatCompletion, Unread> {
    let body = without_mark(body).trim_start();
    let answer = if ["data:", "event:", "id:", "retry:", ":"].iter().any(|field| body.starts_with(field)) {
        of_events(body)?
    } else {
        let value = serde_json::from_str(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Unread::Malformed(format!("found no JSON (line {line}, column {column})"))
        })?;
        of_object(&value)?
    };
    match answer.text.len() {
        0 => Err(Unread::NoText(known_ending(answer.finish_reason.as_deref()))),
        1..=MOST_TEXT_BYTES => Ok(answer),
        found => Err(Unread::Malformed(format!("found {found} bytes of text, expected {MOST_TEXT_BYTES} at most"))),
    }
}

fn known_ending(reason: Option<&str>) -> Option<&'static str> {
    ["stop", "length", "content_filter", "tool_calls"].into_iter().find(|known| Some(*known) == reason)
}

fn of_object(value: &Value) -> Result<ChatCompletion, Unread> {
    let choice = first_choice(value)?.ok_or_else(|| Unread::Malformed("choices is empty".into()))?;
    let message = choice.get("message").ok_or_else(|| expected("choices[0].message", None, "an object"))?;
    Ok(ChatCompletion {
        text: text_of(message.get("content"), "choices[0].message.content")?,
        finish_reason: ending(choice),
        prompt_tokens: count(value, "/usage/prompt_tokens"),
        completion_tokens: count(value, "/usage/completion_tokens"),
    })
}

/// Puts the pieces of a stream together.
fn of_events(body: &str) -> Result<ChatCompletion, Unread> {
    let mut answer =
        ChatCompletion { text: String::new(), finish_reason: None, prompt_tokens: None, completion_tokens: None };
    let (mut is_whole, mut pieces) = (false, 0_usize);
    for data in events(body) {
        if data.trim() == "[DONE]" {
            is_whole = true;
            break;
        }
        pieces += 1;
        let value: Value = serde_json::from_str(&data)
            .map_err(|_| Unread::Malformed(format!("event {pieces} of its stream holds no JSON")))?;
        answer.prompt_tokens = count(&value, "/usage/prompt_tokens").or(answer.prompt_tokens);
        answer.completion_tokens = count(&value, "/usage/completion_tokens").or(answer.completion_tokens);
        // The last event may hold the usage alone.
        let Some(choice) = first_choice(&value)? else { continue };
        let piece = choice.get("delta").or_else(|| choice.get("message"));
        answer.text += &text_of(piece.and_then(|piece| piece.get("content")), "choices[0].delta.content")?;
        answer.finish_reason = ending(choice).or(answer.finish_reason);
    }
    if is_whole || answer.finish_reason.is_some() {
        Ok(answer)
    } else {
        Err(Unread::Malformed(format!("its stream ends after {pieces} events, before the answer does")))
    }
}

/// The data of each server-sent event (WHATWG HTML, 9.2.6).
fn events(body: &str) -> Vec<String> {
    let mut events = Vec::new();
    let mut data: Option<String> = None;
    // A line ends in CR LF, LF or CR; the blank line between CR and LF ends an event early, which then is empty.
    for line in body.split(['\n', '\r']).chain([""]) {
        if line.is_empty() {
            events.extend(data.take().filter(|data| !data.trim().is_empty()));
        } else if let Some(more) = line.strip_prefix("data:") {
            let more = more.strip_prefix(' ').unwrap_or(more);
            match &mut data {
                None => data = Some(more.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(more);
                }
            }
        }
    }
    events
}

/// The first choice, if there is any.
fn first_choice(value: &Value) -> Result<Option<&Value>, Unread> {
    let Value::Object(object) = value else {
        return Err(expected("the answer", Some(value), "an object with choices"));
    };
    match (object.get("choices"), object.get("error")) {
        (Some(Value::Array(choices)), _) => Ok(choices.first()),
        (_, Some(error)) if !error.is_null() => Err(Unread::Error),
        (found, _) => Err(expected("choices", found, "a list")),
    }
}

/// The text of a message: a string, or the parts of it that are text.
fn text_of(content: Option<&Value>, place: &str) -> Result<String, Unread> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| match part {
                Value::String(text) => Some(text.clone()),
                // Thoughts and pictures are no part of the answer.
                Value::Object(part) => part.get("text")?.as_str().map(str::to_owned),
                _ => None,
            };
            let is_text = |part: &&Value| part.get("type").is_none_or(|kind| kind == "text" || kind == "output_text");
            Ok(parts.iter().filter(is_text).filter_map(text).collect())
        }
        found @ Some(_) => Err(expected(place, found, "text or a list of parts")),
    }
}

fn ending(choice: &Value) -> Option<String> {
    choice.get("finish_reason")?.as_str().map(str::to_owned)
}

fn count(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer)?.as_u64()
}

fn expected(place: &str, found: Option<&Value>, expected: &str) -> Unread {
    let found = match found {
        None => "nothing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a string",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    };
    Unread::Malformed(format!("{place}: expected {expected}, found {found}"))
}
