//! Another model behind an endpoint, which speaks instead of the one that is realigned.

use fedward_actors::{
    cancel::CancelFlag,
    ports::PortResult,
    protocol::{ChatMessage, RoundId},
};

use super::Speaker;
use crate::{
    endpoint::{ChatCompletion, ChatEndpoint, ChatRequest},
    model::{Decoding, FinishReason, Reply},
    progress::Progress,
};

/// A model behind an OpenAI-compatible endpoint. What it says is not ours to repeat: a run with a teacher is as
/// reproducible as the teacher is.
pub struct Teacher {
    /// Where it is.
    pub endpoint: ChatEndpoint,
    /// How it speaks.
    pub decoding: Decoding,
}

impl Speaker for Teacher {
    fn reply(
        &self,
        conversations: &[Vec<ChatMessage>],
        turn: u32,
        _: RoundId,
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> PortResult<Vec<Option<Reply>>> {
        let Decoding { max_new_tokens: max_tokens, temperature, .. } = self.decoding;
        let request = |messages: &Vec<_>| ChatRequest { messages: messages.clone(), temperature, max_tokens };
        let requests: Vec<_> = conversations.iter().map(request).collect();
        let answers = self.endpoint.chat_all(&requests, cancel, progress)?;
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            tracing::warn!(turn, failed, asked = answers.len(), "{error}");
        }
        Ok(answers.into_iter().map(|answer| answer.ok().map(to_reply)).collect())
    }

    fn flops(&self, _: u64) -> f64 {
        0.0
    }
}

/// Servers that do not count tokens count as none.
fn to_reply(answer: ChatCompletion) -> Reply {
    let count = |tokens: Option<u64>| tokens.unwrap_or_default() as usize;
    Reply {
        // A filter cuts in mid-sentence, as a limit does.
        finish_reason: match answer.finish_reason.as_deref() {
            Some("length" | "content_filter") => FinishReason::Length,
            _ => FinishReason::Stop,
        },
        tokens: count(answer.completion_tokens),
        prompt_tokens: count(answer.prompt_tokens),
        text: answer.text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        endpoint::{
            EndpointSettings,
            testing::{Scripted, ScriptedServer},
        },
        progress::Silent,
        safety::cai::{
            Constitution, Examples,
            revisions::{Guidance, converse},
        },
    };

    fn teacher(server: &ScriptedServer) -> Teacher {
        let settings = EndpointSettings { max_retries: 0, ..EndpointSettings::new(server.base_url(), "teacher") };
        let decoding = Decoding::new(9, 0.5);
        Teacher { endpoint: ChatEndpoint::new(settings).unwrap(), decoding }
    }

    fn prompts() -> Vec<Vec<ChatMessage>> {
        ["one", "two", "three"].map(|text| vec![ChatMessage::new(fedward_actors::protocol::Role::User, text)]).to_vec()
    }

    #[test]
    fn a_prompt_that_gets_no_answer_leaves_the_others_alone() {
        let server = ScriptedServer::start(|_, request| match request.last_message() {
            "two" => Scripted::status(400, "{}"),
            text => Scripted::says(&format!("on {}", text.len())),
        });
        let made = converse(
            &teacher(&server),
            &prompts(),
            Guidance { constitution: &Constitution::default(), examples: Examples::default() },
            None,
            (1, RoundId(1)),
            &CancelFlag::new(),
            &Silent,
        );
        let made = made.unwrap();
        let asked: Vec<_> = made.dialogues.iter().map(|dialogue| dialogue.prompt[0].content.clone()).collect();
        assert_eq!(asked, ["one", "three"]);
        assert_eq!((made.dialogues[1].answer.text.as_str(), made.unanswered), ("on 5", 1));
        // Two prompts of three turns, each counted by the server as 7 tokens read and 3 said.
        assert_eq!((made.generated_tokens, made.read_tokens), (18, 60));
        let received = server.received();
        assert_eq!(received.len(), 7);
        assert!(received.iter().all(|request| request.body["max_tokens"] == 9 && request.body["temperature"] == 0.5));
    }

    #[test]
    fn a_teacher_that_refuses_everything_is_an_error() {
        let server = ScriptedServer::start(|_, _| Scripted::status(401, "{}"));
        let made = converse(
            &teacher(&server),
            &prompts(),
            Guidance { constitution: &Constitution::default(), examples: Examples::default() },
            None,
            (1, RoundId(1)),
            &CancelFlag::new(),
            &Silent,
        );
        assert!(made.unwrap_err().to_string().contains("401"));
    }
}
