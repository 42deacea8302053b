use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime},
};

use fedward_actors::{
    cancel::CancelFlag,
    protocol::{ChatMessage, Role, RoundId},
    streams::{Purpose, stream},
};

use super::{
    pace,
    testing::{Scripted, ScriptedServer},
    *,
};
use crate::progress::{Heard, Silent};

fn settings(base_url: &str) -> EndpointSettings {
    EndpointSettings {
        timeout: Duration::from_secs(5),
        max_retries: 3,
        first_delay: Duration::from_millis(2),
        max_delay: Duration::from_millis(500),
        ..EndpointSettings::new(base_url, "scripted")
    }
}

fn request(text: &str) -> ChatRequest {
    ChatRequest { messages: vec![ChatMessage::new(Role::User, text)], temperature: 0.0, max_tokens: 8 }
}

fn ask(settings: EndpointSettings) -> Result<ChatCompletion, EndpointError> {
    ChatEndpoint::new(settings).unwrap().chat(&request("What is a plum?"), &CancelFlag::new())
}

#[test]
fn a_question_is_answered() {
    let server = ScriptedServer::start(|_, _| Scripted::says("A fruit."));
    let answer = ask(settings(&server.base_url())).unwrap();
    assert_eq!(answer.text, "A fruit.");
    assert_eq!((answer.prompt_tokens, answer.completion_tokens), (Some(7), Some(3)));
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    let received = server.received();
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].path.as_str(), &received[0].authorization), ("/v1/chat/completions", &None));
    let expected = serde_json::json!({
        "model": "scripted", "messages": [{"role": "user", "content": "What is a plum?"}],
        "temperature": 0.0, "max_tokens": 8, "stream": false,
    });
    assert_eq!(received[0].body, expected);
}

#[test]
fn fields_of_a_server_s_own_go_out_as_they_are() {
    let body_with = |extra: &str| {
        let server = ScriptedServer::start(|_, _| Scripted::says("A fruit."));
        ask(EndpointSettings { extra_body: ExtraBody::parse(extra).unwrap(), ..settings(&server.base_url()) }).unwrap();
        server.received()[0].body.clone()
    };
    let body = body_with(r#"{"grammar": "root ::= [a-z]+", "temperature": 1}"#);
    assert_eq!((&body["grammar"], &body["temperature"]), (&"root ::= [a-z]+".into(), &1.into()));
    assert_eq!((&body["model"], &body["max_tokens"]), (&"scripted".into(), &8.into()));
    let body = body_with(r#"{"max_completion_tokens": 500}"#);
    assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&500.into(), None));
    let complaint = ExtraBody::parse(r#"{"stream": true}"#).unwrap_err();
    assert_eq!(complaint, "found stream, which cannot be set here; allowed: all but model, messages and stream");
    assert!(ExtraBody::parse("[1]").unwrap_err().starts_with("no object of JSON"));
}

#[test]
fn what_passes_is_asked_again() {
    let server = ScriptedServer::start(|index, _| match index {
        0 => Scripted::status(429, "{}").header("Retry-After: 0.2"),
        1 => Scripted::status(500, "oops"),
        2 => Scripted::status(503, ""),
        _ => Scripted::says("A fruit."),
    });
    assert_eq!(ask(settings(&server.base_url())).unwrap().text, "A fruit.");
    let received = server.received();
    assert_eq!(received.len(), 4);
    assert!(received[1].at - received[0].at >= Duration::from_millis(200), "Retry-After was not honoured");
}

#[test]
fn a_broken_server_is_given_up_in_the_end() {
    let server = ScriptedServer::start(|_, _| Scripted::status(502, r#"{"error": {"message": "no workers"}}"#));
    let error = ask(settings(&server.base_url())).unwrap_err();
    assert_eq!(server.received().len(), 4);
    let expected = format!(
        "endpoint {}, model \"scripted\": answered 502 4 times (application/json, 36 bytes); it is overloaded or broken: \
         lower the rate or try later",
        server.base_url()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_endpoint_that_asks_for_too_much_patience_is_given_up() {
    let server = ScriptedServer::start(|_, _| Scripted::status(429, "{}").header("Retry-After: 3600"));
    let error = ask(settings(&server.base_url())).unwrap_err();
    assert_eq!(server.received().len(), 1);
    assert!(error.to_string().contains("asks to wait 3600 s"), "{error}");
}

#[test]
fn what_does_not_pass_is_not_asked_again() {
    for (status, advice) in [(401, "check the key"), (404, "usually ends in /v1"), (301, "redirects to")] {
        let server = ScriptedServer::start(move |_, _| Scripted::status(status, "{}").header("Location: /elsewhere"));
        let error = ask(settings(&server.base_url())).unwrap_err().to_string();
        assert!(error.contains(&format!("with {status}")) && error.contains(advice), "{error}");
        assert_eq!(server.received().len(), 1);
    }
}

#[test]
fn malformed_answers_are_said_to_be_so() {
    for (body, problem) in [
        ("{\"choices\": [", "found no JSON (line 1, column 13)"),
        ("<html>", "found no JSON (line 1, column 1)"),
        ("{\"choices\": []}", "choices is empty"),
        ("{\"choices\": [{}]}", "choices[0].message: expected an object, found nothing"),
        (
            "{\"choices\": [{\"message\": {\"content\": 7}}]}",
            "choices[0].message.content: expected text or a list of parts, found a number",
        ),
        ("{\"object\": \"list\"}", "choices: expected a list, found nothing"),
        ("[1, 2]", "the answer: expected an object with choices, found a list"),
        (
            "data: {\"choices\": [{\"delta\": {\"content\": \"a\"}}]}\n\n",
            "its stream ends after 1 events, before the answer",
        ),
        ("data: {\"choices\": [\n\ndata: [DONE]\n\n", "event 1 of its stream holds no JSON"),
    ] {
        let server = ScriptedServer::start(move |_, _| Scripted::status(200, body));
        let error = ask(settings(&server.base_url())).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        assert_eq!(server.received().len(), 1);
    }
}

#[test]
fn a_slow_answer_is_not_waited_for() {
    let server = ScriptedServer::start(|_, _| Scripted::says("late").after(Duration::from_secs(3)));
    let slow = EndpointSettings { timeout: Duration::from_millis(100), max_retries: 1, ..settings(&server.base_url()) };
    let begun = Instant::now();
    let error = ask(slow).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(error.problem, EndpointProblem::TimedOut { attempts: 2, timeout: Duration::from_millis(100) },);
}

#[test]
fn a_refused_connection_names_the_endpoint() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base_url = format!("http://127.0.0.1:{port}/v1");
    let error = ask(settings(&base_url)).unwrap_err();
    assert!(matches!(error.problem, EndpointProblem::Unreachable { attempts: 4, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&base_url) && text.contains("is the server running"), "{text}");
    // One request finds out; the others are not tried four times each.
    let endpoint = ChatEndpoint::new(settings(&base_url)).unwrap();
    let requests: Vec<_> = (0..100).map(|i| request(&i.to_string())).collect();
    assert!(endpoint.chat_all(&requests, &CancelFlag::new(), &Silent).is_err());
}

#[test]
fn many_are_answered_in_order_with_a_bound_on_how_many_at_a_time() {
    let (now, most) = (std::sync::Arc::new(AtomicUsize::new(0)), std::sync::Arc::new(AtomicUsize::new(0)));
    let server = ScriptedServer::start({
        let (now, most) = (now.clone(), most.clone());
        move |_, received| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            now.fetch_sub(1, Ordering::SeqCst);
            match received.last_message() {
                "3" => Scripted::status(400, r#"{"error": {"message": "too long"}}"#),
                text => Scripted::says(&format!("<{text}>")),
            }
        }
    });
    let bounded = EndpointSettings { parallel: NonZeroUsize::new(3).unwrap(), ..settings(&server.base_url()) };
    let requests: Vec<_> = (0..9).map(|i| request(&i.to_string())).collect();
    let heard = Heard::default();
    let answers = ChatEndpoint::new(bounded).unwrap().chat_all(&requests, &CancelFlag::new(), &heard).unwrap();
    assert_eq!(heard.parts()[0].1, (1..=9).map(|done| (done, 9)).collect::<Vec<_>>(), "failures have ended, too");
    for (index, answer) in answers.iter().enumerate() {
        match answer {
            Ok(answer) => assert_eq!(answer.text, format!("<{index}>")),
            Err(error) => assert!(index == 3 && error.to_string().contains("400 (application/json"), "{error}"),
        }
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[test]
fn what_was_answered_before_the_endpoint_is_given_up_stays() {
    let server = ScriptedServer::start(|index, received| match index {
        0..3 => Scripted::says(received.last_message()),
        _ => Scripted::status(429, "{}").header("Retry-After: 3600"),
    });
    let one_by_one = EndpointSettings { parallel: NonZeroUsize::MIN, ..settings(&server.base_url()) };
    let requests: Vec<_> = (0..20).map(|i| request(&i.to_string())).collect();
    let answers = ChatEndpoint::new(one_by_one).unwrap().chat_all(&requests, &CancelFlag::new(), &Silent).unwrap();
    assert_eq!(answers.len(), 20);
    for (index, answer) in answers.iter().enumerate() {
        match answer {
            Ok(answer) => assert!(index < 3 && answer.text == index.to_string()),
            Err(error) => assert!(index >= 3 && error.to_string().contains("asks to wait 3600 s"), "{error}"),
        }
    }
    assert_eq!(server.received().len(), 4, "no request follows in vain");
}

#[test]
fn requests_keep_to_the_rate() {
    let server = ScriptedServer::start(|_, _| Scripted::says("yes"));
    let limited = EndpointSettings { requests_per_minute: NonZeroU32::new(600), ..settings(&server.base_url()) };
    let requests: Vec<_> = (0..4).map(|i| request(&i.to_string())).collect();
    let endpoint = ChatEndpoint::new(limited).unwrap();
    let begun = Instant::now();
    endpoint.chat_all(&requests, &CancelFlag::new(), &Silent).unwrap();
    // Four requests, a tenth of a second apart; a busy machine takes longer.
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(300), "{taken:?}");
    assert_eq!(server.received().len(), 4);
}

#[test]
fn cancelling_ends_a_request_in_flight() {
    let server = ScriptedServer::start(|_, _| Scripted::says("late").after(Duration::from_secs(4)));
    let endpoint = ChatEndpoint::new(settings(&server.base_url())).unwrap();
    let cancel = CancelFlag::new();
    std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            std::thread::sleep(Duration::from_millis(100));
            cancel.cancel();
        }
    });
    let begun = Instant::now();
    let error = endpoint.chat_all(&[request("a"), request("b")], &cancel, &Silent).unwrap_err();
    assert_eq!(error.problem, EndpointProblem::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn keys_come_from_the_environment_and_show_nowhere() {
    // A variable that every process has stands in for one with a key.
    let key = std::env::var("PATH").unwrap();
    let server = ScriptedServer::start(|_, _| Scripted::status(401, "{}"));
    let with_key = EndpointSettings { api_key_env: Some("PATH".into()), ..settings(&server.base_url()) };
    assert!(!serde_json::to_string(&with_key).unwrap().contains(&key));
    let error = ask(with_key).unwrap_err().to_string();
    assert_eq!(server.received()[0].authorization, Some(format!("Bearer {}", key.trim())));
    assert!(error.contains("check the key"), "{error}");
    let without =
        EndpointSettings { api_key_env: Some("FEDWARD_NO_SUCH_KEY".into()), ..settings("http://127.0.0.1/v1") };
    let error = ChatEndpoint::new(without).err().unwrap().to_string();
    assert!(error.contains("variable FEDWARD_NO_SUCH_KEY is not set"), "{error}");
}

/// A secret as servers may disguise it: with line breaks, in other case, encoded, in pieces, and where a cut would leave a part.
fn disguises(secret: &str) -> Vec<String> {
    let every = |count: usize, between: &str| {
        secret
            .as_bytes()
            .chunks(count)
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect::<Vec<_>>()
            .join(between)
    };
    let encoded = |form: fn(u8) -> String| secret.bytes().map(form).collect::<String>();
    vec![
        secret.to_owned(),
        every(7, "\n"),
        every(14, " ... "),
        every(1, "-"),
        secret.to_uppercase(),
        secret.to_lowercase(),
        secret.chars().rev().collect(),
        encoded(|byte| format!("{byte:02x}")),
        encoded(|byte| format!("%{byte:02X}")),
        encoded(|byte| format!("&#{byte};")),
        format!("{}{secret}", "x".repeat(180)),
    ]
}

/// All that is said is fedward's own, so two servers that differ in their words alone are told of in the same words.
#[test]
fn nothing_that_a_server_says_is_repeated() {
    let secret = "sk-proj-Plum7Jam8Quince9Medlar0Damson1Sloe2Greengage3";
    let said_of = |status: u16, text: &str| {
        let error = serde_json::json!({"message": text, "type": text, "code": text, "param": text});
        let bodies = [
            serde_json::json!({"error": error}).to_string(),
            serde_json::json!({"error": text}).to_string(),
            serde_json::json!({"detail": text, "message": text, "type": text, "code": text}).to_string(),
            serde_json::json!({"choices": [{"message": {"content": {"text": text}}, "finish_reason": text}]})
                .to_string(),
            serde_json::json!({"choices": [{"message": {"content": null}, "finish_reason": text}]}).to_string(),
            serde_json::json!({"choices": text}).to_string(),
            serde_json::json!({"choices": {text: text}}).to_string(),
            format!("data: {{\"error\": \"{}\"}}\n\n", text.escape_default()),
            format!("<html>{text}</html>"),
        ];
        bodies.map(|body| {
            let server = ScriptedServer::start(move |_, _| Scripted::status(status, &body));
            let once = EndpointSettings { max_retries: 0, ..settings(&server.base_url()) };
            let error = ask(once).unwrap_err().to_string();
            error.replace(&server.base_url(), "URL")
        })
    };
    for status in [200, 302, 400, 401, 429, 500] {
        for disguise in disguises(secret) {
            let other: String = disguise.chars().map(|c| if c.is_ascii_alphanumeric() { 'o' } else { c }).collect();
            assert_eq!(said_of(status, &disguise), said_of(status, &other), "status {status}");
        }
    }
}

/// Headers, too.
#[test]
fn neither_are_headers_repeated() {
    let secret = "sk-proj-Plum7Jam8Quince9Medlar0";
    for status in [200, 302, 401, 429, 500] {
        let server = ScriptedServer::start(move |_, _| {
            let named = ["Location", "WWW-Authenticate", "Content-Type", "X-Request-Id", "Retry-After", "Server"];
            named
                .iter()
                .fold(Scripted::status(status, "{}"), |scripted, name| scripted.header(&format!("{name}: {secret}")))
        });
        let once = EndpointSettings { max_retries: 0, ..settings(&server.base_url()) };
        let error = ask(once).unwrap_err().to_string().to_lowercase();
        let parts = secret.as_bytes().windows(5).map(|part| String::from_utf8_lossy(part).to_lowercase());
        assert!(parts.into_iter().all(|part| !error.contains(&part)), "{error}");
    }
}

#[test]
fn what_is_known_of_an_error_is_said_in_words_of_our_own() {
    let outline = |content_type: Option<&str>, body: &str| Outline::of(content_type, body).to_string();
    let error = r#"{"error": {"type": "invalid_request_error", "code": "context_length_exceeded", "message": "This model's maximum context length is 8 tokens"}}"#;
    let expected = format!(
        "application/json, {} bytes, invalid_request_error, context_length_exceeded, about the length of the prompt",
        error.len()
    );
    assert_eq!(outline(Some("application/json; charset=utf-8"), error), expected);
    assert_eq!(outline(None, ""), "no content type, 0 bytes");
    assert_eq!(outline(Some("text/HTML"), "<p>model not found"), "text/html, 18 bytes");
    assert_eq!(outline(Some("plum/jam"), r#"{"error": "model 'plum' not found"}"#), "another content type, 35 bytes");
    assert_eq!(outline(None, r#"{"error": "model not found"}"#), "no content type, 28 bytes, about the model");
    // The end of a search may lie within a character.
    assert_eq!(outline(None, &format!("\"{}\"", "é".repeat(40_000))), "no content type, 80002 bytes");
}

#[test]
fn an_error_with_status_200_is_one_and_a_greeting_does_not_take_it_for_an_answer() {
    let body = r#"{"error": {"message": "no", "code": "invalid_api_key"}}"#;
    for body in [body.to_owned(), format!("data: {body}\n\n"), format!("\u{feff}{body}")] {
        let length = body.len();
        let server = ScriptedServer::start(move |_, _| Scripted::status(200, &body));
        let endpoint = ChatEndpoint::new(settings(&server.base_url())).unwrap();
        let error = endpoint.greet(&CancelFlag::new()).unwrap_err();
        let text = error.to_string();
        let expected = "answered 200 with an error in place of choices (application/json, ";
        assert!(text.contains(expected) && text.contains(&format!("{length} bytes")), "{text}");
        assert!(error.problem.concerns_all_requests() == text.contains("invalid_api_key"), "{text}");
    }
    let silent = r#"{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}"#;
    let server = ScriptedServer::start(move |_, _| Scripted::status(200, silent));
    ChatEndpoint::new(settings(&server.base_url())).unwrap().greet(&CancelFlag::new()).unwrap();
    let error = ask(settings(&server.base_url())).unwrap_err().to_string();
    assert!(error.contains("answered without text (it ended with \"length\")"), "{error}");
}

#[test]
fn answers_are_read_in_the_forms_that_servers_give_them() {
    let part =
        |content: &str| format!(r#"{{"choices": [{{"message": {{"content": {content}}}, "finish_reason": "stop"}}]}}"#);
    let piece = |content: &str| format!(r#"data: {{"choices": [{{"delta": {{"content": {content}}}}}]}}"#);
    let usage = r#"data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}"#;
    let stream = [": ping", &piece("null"), &piece("\"A \""), &piece("\"fruit.\""), usage, "data: [DONE]"];
    for body in [
        part("\"A fruit.\""),
        format!("\u{feff}\r\n{}", part("\"A fruit.\"")),
        part(r#"[{"type": "thinking", "thinking": "hm", "text": "no"}, {"type": "text", "text": "A "}, "fruit."]"#),
        stream.join("\n\n") + "\n\n",
        stream.join("\r\n\r\n"),
        format!("\u{feff}event: message\n{}\n\n", part("\"A fruit.\"").replacen('{', "data: {", 1)),
        // One event in several lines.
        "data: {\"choices\": [{\"message\": {\"content\":\ndata: \"A fruit.\"}, \"finish_reason\": \"stop\"}]}\n\n"
            .to_owned(),
    ] {
        let server = ScriptedServer::start({
            let body = body.clone();
            move |_, _| Scripted::status(200, &body)
        });
        assert_eq!(ask(settings(&server.base_url())).unwrap().text, "A fruit.", "{body}");
    }
}

#[test]
fn an_answer_of_megabytes_is_refused() {
    let server = ScriptedServer::start(|_, _| Scripted::says(&"[[".repeat(3 << 20)));
    let error = ask(settings(&server.base_url())).unwrap_err().to_string();
    assert!(error.contains("found 6291456 bytes of text, expected 1048576 at most"), "{error}");
    let server = ScriptedServer::start(|_, _| Scripted::status(500, &"x".repeat(9 << 20)));
    let error = ask(settings(&server.base_url())).unwrap_err().to_string();
    assert!(error.contains("found more than 8388608 bytes"), "{error}");
}

#[test]
fn base_urls_that_cannot_be_used_are_refused() {
    for url in ["127.0.0.1:8000/v1", "ftp://example.org/v1", "http:///v1", "", "http://a b/"] {
        let error = ChatEndpoint::new(settings(url)).err().unwrap().to_string();
        assert!(error.contains("allowed: http:// or https:// with a host"), "{url}: {error}");
    }
    for url in
        ["https://user:hunter2@example.org/v1", "https://example.org/v1?key=hunter2", "https://example.org/v1#hunter2"]
    {
        let error = ChatEndpoint::new(settings(url)).err().unwrap().to_string();
        assert!(error.contains("variable that holds the key") && !error.contains("hunter2"), "{error}");
    }
    assert!(ChatEndpoint::new(settings("https://example.org/v1/")).is_ok());
}

#[test]
fn waits_double_within_their_bounds_and_come_from_the_seed() {
    let settings = EndpointSettings {
        first_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(10),
        ..EndpointSettings::new("http://127.0.0.1/v1", "m")
    };
    let waits = |seed| {
        let mut rng = stream(seed, Purpose::Retries, RoundId::START, None);
        (0..40).map(|retry| pace::backoff(&settings, retry, &mut rng)).collect::<Vec<_>>()
    };
    assert_eq!(waits(1), waits(1));
    assert_ne!(waits(1), waits(2));
    for (retry, wait) in waits(1).into_iter().enumerate() {
        let longest = Duration::from_secs(1_u64.checked_shl(retry as u32).unwrap_or(u64::MAX).min(10));
        assert!(wait <= longest && wait >= longest / 2, "retry {retry}: {wait:?}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!(pace::retry_after(" 17 ", now), Some(Duration::from_secs(17)));
    assert_eq!(pace::retry_after("Sun, 06 Nov 1994 08:49:50 GMT", now), Some(Duration::from_secs(13)));
    assert_eq!(pace::retry_after("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(Duration::ZERO));
    assert_eq!(pace::retry_after("-3", now), None);
    assert_eq!(pace::retry_after("soon", now), None);
}
