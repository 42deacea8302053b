//! A guard behind an OpenAI-compatible endpoint that answers in Llama Guard's form.

use fedward_actors::{cancel::CancelFlag, ports::PortResult, protocol::ChatMessage};

use super::{Answer, Reading, Respondent};
use crate::{
    endpoint::{ChatEndpoint, ChatRequest},
    progress::Silent,
};

/// Tokens of the longest answer: `unsafe` and all hazards.
const LONGEST_ANSWER: usize = 64;

/// A Llama Guard that somebody serves: its server puts the conversation into the model's own chat template. Rows are sent there and
/// nowhere else. What it gives is a word, not a probability, so scores are 0 and 1.
pub struct EndpointRespondent {
    endpoint: ChatEndpoint,
}

impl EndpointRespondent {
    /// A guard at an endpoint.
    pub const fn new(endpoint: ChatEndpoint) -> Self {
        Self { endpoint }
    }
}

impl Respondent for EndpointRespondent {
    fn identity(&self) -> String {
        let settings = self.endpoint.settings();
        format!("{}/{}", settings.base_url, settings.model)
    }

    /// A conversation without an answer is an error for all: nothing is known of its row.
    fn answers(&self, conversations: &[Vec<ChatMessage>], cancel: &CancelFlag) -> PortResult<Vec<Answer>> {
        let request = |messages: &Vec<_>| ChatRequest {
            messages: messages.clone(),
            temperature: 0.0,
            max_tokens: LONGEST_ANSWER,
        };
        let requests: Vec<_> = conversations.iter().map(request).collect();
        let answered = self.endpoint.chat_all(&requests, cancel, &Silent)?;
        let texts = answered.into_iter().map(|answer| Ok(answer?.text)).collect::<PortResult<Vec<_>>>()?;
        Ok(texts.into_iter().map(answer).collect())
    }
}

fn answer(text: String) -> Answer {
    let (safe_probability, unsafe_probability) = match Reading::of(&text) {
        Reading::Safe => (1.0, 0.0),
        Reading::Unsafe(_) | Reading::Malformed => (0.0, 1.0),
    };
    Answer { safe_probability, unsafe_probability, text, is_cut: false }
}

#[cfg(test)]
mod tests {
    use fedward_actors::{ports::GuardModel, protocol::ChatRow};

    use super::*;
    use crate::{
        endpoint::{
            EndpointSettings,
            testing::{Scripted, ScriptedServer},
        },
        safety::guard::{ProtocolGuard, SafetyGuard},
    };

    fn guard(server: &ScriptedServer) -> ProtocolGuard<EndpointRespondent> {
        let settings = EndpointSettings { max_retries: 0, ..EndpointSettings::new(server.base_url(), "guard") };
        ProtocolGuard::new(EndpointRespondent::new(ChatEndpoint::new(settings).unwrap()), 0.5)
    }

    #[test]
    fn a_served_guard_s_words_are_verdicts() {
        let server = ScriptedServer::start(|_, request| match request.last_message() {
            "good" => Scripted::says("\n\nsafe"),
            "bad" => Scripted::says("unsafe\nS1,S9"),
            _ => Scripted::says("I would rather not say"),
        });
        let guard = guard(&server);
        let rows = ["good", "bad", "odd"].map(|answer| ChatRow::single_turn("Well?", answer));
        let verdicts = guard.assess(&rows, &CancelFlag::new()).unwrap();
        let found: Vec<_> =
            verdicts.iter().map(|verdict| (verdict.is_unsafe, verdict.is_malformed, verdict.hazards.len())).collect();
        assert_eq!(found, [(false, false, 0), (true, false, 2), (true, true, 0)]);
        assert_eq!(guard.tally().unwrap().malformed, 1);
        let received = server.received();
        assert_eq!(received.len(), 3);
        for request in received {
            assert_eq!((&request.body["temperature"], &request.body["max_tokens"]), (&0.0.into(), &64.into()));
            assert_eq!(request.body["messages"].as_array().unwrap().len(), 2);
        }
    }

    #[test]
    fn a_row_without_an_answer_fails_all_of_them() {
        let server = ScriptedServer::start(|_, request| match request.last_message() {
            "good" => Scripted::says("safe"),
            _ => Scripted::status(400, "{}"),
        });
        let rows = ["good", "secret"].map(|answer| ChatRow::single_turn("Well?", answer));
        let error = guard(&server).assess(&rows, &CancelFlag::new()).unwrap_err().to_string();
        assert!(error.contains("400") && !error.contains("secret"), "{error}");
    }
}
