//! The three turns of Constitutional AI.

use fedward_actors::{
    cancel::CancelFlag,
    ports::{PortError, PortResult},
    protocol::{ChatMessage, ClientId, Role, RoundId},
    streams::{Purpose, stream},
};

use super::{Constitution, Principle, Speaker};
use crate::model::Reply;

/// One red prompt with what was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialogue {
    /// The red prompt.
    pub prompt: Vec<ChatMessage>,
    /// The first answer.
    pub answer: Reply,
    /// What is found wrong with it.
    pub critique: Reply,
    /// The answer rewritten.
    pub revision: Reply,
}

/// Dialogues with what they cost.
#[derive(Clone, Debug, Default)]
pub struct Dialogues {
    /// One a red prompt, in their order.
    pub dialogues: Vec<Dialogue>,
    /// Tokens generated in all turns.
    pub generated_tokens: u64,
    /// Tokens read: each turn's conversation, and what was generated.
    pub read_tokens: u64,
}

/// Asks all prompts for answer, critique and revision; each gets a principle of its own.
///
/// # Errors
///
/// [`PortError`] if the constitution is empty or the speaker fails.
pub(super) fn converse(
    speaker: &dyn Speaker,
    prompts: &[Vec<ChatMessage>],
    constitution: &Constitution,
    (seed, round): (u64, RoundId),
    cancel: &CancelFlag,
) -> PortResult<Dialogues> {
    let mut draw = stream(seed, Purpose::RedPrompts, round, Some(ClientId(0)));
    let principles: Vec<&Principle> = prompts
        .iter()
        .map(|_| constitution.draw(&mut draw).ok_or_else(|| PortError::Failed("the constitution is empty".into())))
        .collect::<Result<_, _>>()?;
    let mut talks = prompts.to_vec();
    let take_turn = |talks: &mut [Vec<ChatMessage>], turn| -> PortResult<Vec<Reply>> {
        let replies = speaker.reply(talks, turn, round, cancel)?;
        for (talk, reply) in talks.iter_mut().zip(&replies) {
            talk.push(ChatMessage::new(Role::Assistant, reply.text.trim()));
        }
        Ok(replies)
    };
    let answers = take_turn(&mut talks, 0)?;
    let examples = constitution.example_turns();
    for talk in &mut talks {
        let opening = talk.iter().take_while(|message| message.role == Role::System).count();
        talk.splice(opening..opening, examples.iter().cloned());
    }
    ask(&mut talks, |index| &principles[index].critic);
    let critiques = take_turn(&mut talks, 1)?;
    ask(&mut talks, |index| &principles[index].revision);
    let revisions = take_turn(&mut talks, 2)?;

    let replies = || [&answers, &critiques, &revisions].into_iter().flatten();
    let generated_tokens = replies().map(|reply| reply.tokens as u64).sum();
    let read_tokens = generated_tokens + replies().map(|reply| reply.prompt_tokens as u64).sum::<u64>();
    let replies = answers.into_iter().zip(critiques).zip(revisions);
    let dialogues = prompts
        .iter()
        .zip(replies)
        .map(|(prompt, ((answer, critique), revision))| Dialogue { prompt: prompt.clone(), answer, critique, revision })
        .collect();
    Ok(Dialogues { dialogues, generated_tokens, read_tokens })
}

fn ask<'a>(talks: &mut [Vec<ChatMessage>], request: impl Fn(usize) -> &'a str) {
    for (index, talk) in talks.iter_mut().enumerate() {
        talk.push(ChatMessage::new(Role::User, request(index)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::model::FinishReason;

    /// Says which turn it is, and writes down what it was shown.
    struct Scripted(Mutex<Vec<Vec<Vec<ChatMessage>>>>);

    impl Speaker for Scripted {
        fn reply(
            &self,
            conversations: &[Vec<ChatMessage>],
            turn: u32,
            _: RoundId,
            _: &CancelFlag,
        ) -> PortResult<Vec<Reply>> {
            self.0.lock().unwrap().push(conversations.to_vec());
            let reply = |index| Reply {
                text: format!("turn {turn} of {index} "),
                finish_reason: FinishReason::Stop,
                tokens: 2,
                prompt_tokens: 10,
            };
            Ok((0..conversations.len()).map(reply).collect())
        }

        fn flops(&self, _: u64) -> f64 {
            0.0
        }
    }

    #[test]
    fn three_turns_on_one_conversation_with_examples_from_the_second() {
        let constitution = Constitution {
            principles: vec![Principle { critic: "why?".into(), revision: "again!".into() }],
            ..Constitution::default()
        };
        let user = |text: &str| ChatMessage::new(Role::User, text);
        let system = ChatMessage::new(Role::System, "be brief");
        let prompts = [vec![user("a")], vec![system.clone(), user("b")]];
        let speaker = Scripted(Mutex::default());
        let made = converse(&speaker, &prompts, &constitution, (1, RoundId(1)), &CancelFlag::new()).unwrap();
        let shown = speaker.0.into_inner().unwrap();
        assert_eq!(shown[0], prompts);
        let examples = constitution.example_turns();
        assert_eq!(examples.len(), 24);
        let said = |text: &str| ChatMessage::new(Role::Assistant, text);
        let talk = [user("b"), said("turn 0 of 1"), user("why?"), said("turn 1 of 1"), user("again!")];
        let expected: Vec<_> = [system].into_iter().chain(examples).chain(talk).collect();
        assert_eq!(shown[2][1], expected);
        assert_eq!(shown[1][1], expected[..expected.len() - 2]);
        assert_eq!(made.dialogues[1].revision.text, "turn 2 of 1 ");
        assert_eq!((made.generated_tokens, made.read_tokens), (12, 72));
    }
}
