//! The three turns of Constitutional AI, and which of the resulting revisions are worth training on.

use std::{collections::BTreeMap, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult},
    protocol::{ChatMessage, ChatRow, ClientId, Role, RoundId},
    streams::{Purpose, stream},
};

use super::Constitution;
use crate::{
    lora::LoraRef,
    model::{ChatModel, Decoding, FinishReason, Reply},
};

/// Why a revision is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discard {
    /// It says nothing.
    Empty,
    /// It was cut off before its first sentence ended.
    Unfinished,
    /// The guard calls it unsafe.
    Unsafe,
}

impl Discard {
    /// Its name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unfinished => "unfinished",
            Self::Unsafe => "unsafe",
        }
    }
}

/// One red prompt with what the model made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialogue {
    /// The red prompt.
    pub prompt: String,
    /// The first answer.
    pub answer: String,
    /// What the model finds wrong with it.
    pub critique: String,
    /// The answer rewritten.
    pub revision: String,
}

/// Revisions that are worth training on, and what became of the others.
#[derive(Clone, Debug, Default)]
pub struct Revisions {
    /// The dialogues kept.
    pub kept: Vec<Dialogue>,
    /// How many were discarded, by reason.
    pub discarded: BTreeMap<String, u64>,
    /// Tokens generated in all turns.
    pub generated_tokens: u64,
}

/// Who speaks, and how.
pub(super) struct Speaker<'a> {
    pub model: &'a ChatModel,
    pub adapter: LoraRef<'a>,
    pub decoding: Decoding,
    pub seed: u64,
    pub round: RoundId,
    pub cancel: &'a CancelFlag,
}

impl Speaker<'_> {
    /// Asks all prompts for answer, critique and revision, and keeps the revisions that are worth training on.
    pub(super) fn revise(
        &self,
        prompts: &[String],
        constitution: &Constitution,
        guard: Option<&Arc<dyn GuardModel>>,
    ) -> PortResult<Revisions> {
        let mut draw = stream(self.seed, Purpose::RedPrompts, self.round, Some(ClientId(0)));
        let principles: Vec<_> = prompts
            .iter()
            .map(|_| constitution.draw(&mut draw).ok_or_else(|| PortError::Failed("the constitution is empty".into())))
            .collect::<Result<_, _>>()?;
        let mut talks: Vec<Vec<ChatMessage>> =
            prompts.iter().map(|prompt| vec![ChatMessage::new(Role::User, prompt)]).collect();
        let answers = self.turn(&mut talks, 0)?;
        let examples = constitution.example_turns();
        for talk in &mut talks {
            talk.splice(..0, examples.iter().cloned());
        }
        ask(&mut talks, |index| principles[index].critic.clone());
        let critiques = self.turn(&mut talks, 1)?;
        ask(&mut talks, |index| principles[index].revision.clone());
        let last = self.turn(&mut talks, 2)?;

        let mut revisions = Revisions::default();
        let all = [&answers, &critiques, &last];
        revisions.generated_tokens = all.iter().flat_map(|turn| turn.iter()).map(|reply| reply.tokens as u64).sum();
        let mut finished = Vec::new();
        for (((prompt, answer), critique), revision) in prompts.iter().zip(answers).zip(critiques).zip(last) {
            match whole_sentences(&revision) {
                Ok(revision) => finished.push(Dialogue {
                    prompt: prompt.clone(),
                    answer: answer.text,
                    critique: critique.text,
                    revision,
                }),
                Err(reason) => *revisions.discarded.entry(reason.name().into()).or_insert(0) += 1,
            }
        }
        let unsafe_ones = match guard {
            Some(guard) => self.unsafe_revisions(&finished, guard)?,
            None => vec![false; finished.len()],
        };
        for (dialogue, is_unsafe) in finished.into_iter().zip(unsafe_ones) {
            if is_unsafe {
                *revisions.discarded.entry(Discard::Unsafe.name().into()).or_insert(0) += 1;
            } else {
                revisions.kept.push(dialogue);
            }
        }
        Ok(revisions)
    }

    /// Lets the model speak once in every conversation.
    fn turn(&self, talks: &mut [Vec<ChatMessage>], turn: u32) -> PortResult<Vec<Reply>> {
        // A stream a turn and prompt: the "client" of this purpose numbers prompts, three turns apart.
        let rng_of = |index: usize| {
            let id = ClientId(3 * index as u32 + turn);
            stream(self.seed, Purpose::Sampling, self.round, Some(id))
        };
        let replies = self.model.reply(Some(self.adapter), talks, self.decoding, &rng_of, self.cancel)?;
        for (talk, reply) in talks.iter_mut().zip(&replies) {
            talk.push(ChatMessage::new(Role::Assistant, reply.text.trim()));
        }
        Ok(replies)
    }

    fn unsafe_revisions(&self, dialogues: &[Dialogue], guard: &Arc<dyn GuardModel>) -> PortResult<Vec<bool>> {
        let rows: Vec<_> =
            dialogues.iter().map(|dialogue| ChatRow::single_turn(&dialogue.prompt, &dialogue.revision)).collect();
        let verdicts = guard.assess(&rows, self.cancel)?;
        Ok(verdicts.into_iter().map(|verdict| verdict.is_unsafe).collect())
    }
}

fn ask(talks: &mut [Vec<ChatMessage>], request: impl Fn(usize) -> String) {
    for (index, talk) in talks.iter_mut().enumerate() {
        talk.push(ChatMessage::new(Role::User, request(index)));
    }
}

/// The reply up to its last whole sentence: a model must not be taught to stop in the middle of one.
fn whole_sentences(reply: &Reply) -> Result<String, Discard> {
    let text = reply.text.trim();
    if text.is_empty() {
        return Err(Discard::Empty);
    }
    if reply.finish_reason == FinishReason::Stop {
        return Ok(text.to_owned());
    }
    let end = text.rfind(['.', '!', '?']).ok_or(Discard::Unfinished)?;
    Ok(text[..=end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str, finish_reason: FinishReason) -> Reply {
        Reply { text: text.into(), finish_reason, tokens: 1 }
    }

    #[test]
    fn a_cut_off_revision_keeps_its_whole_sentences() {
        let whole = |text, reason| whole_sentences(&reply(text, reason));
        assert_eq!(whole("I cannot. It would", FinishReason::Length), Ok("I cannot.".into()));
        assert_eq!(whole("I cannot help", FinishReason::Length), Err(Discard::Unfinished));
        assert_eq!(whole(" no ", FinishReason::Stop), Ok("no".into()));
        assert_eq!(whole("  ", FinishReason::Stop), Err(Discard::Empty));
    }
}
