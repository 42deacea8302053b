//! Prompts that are answered, and the answers looked at for refusals by every list.

use fedward_actors::ports::PortResult;
use serde_json::{Map, json};

use super::{BenchName, Finding, RefusalMatcher, Subject, bench::Values, bootstrap::RateInterval};
use crate::model::{Decoding, Reply};

/// A prompt whose answer may be a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalPrompt {
    /// Its number or category in its data set.
    pub item: String,
    /// What is asked.
    pub text: String,
}

/// Prompts with the subject's answers.
pub(super) struct Answered<'a> {
    pub(super) prompts: Vec<&'a RefusalPrompt>,
    pub(super) replies: Vec<Reply>,
}

impl<'a> Answered<'a> {
    pub(super) fn by(
        subject: &Subject<'_>,
        bench: BenchName,
        prompts: Vec<&'a RefusalPrompt>,
        decoding: Decoding,
    ) -> PortResult<Self> {
        let texts: Vec<_> = prompts.iter().enumerate().map(|(index, prompt)| (index, prompt.text.as_str())).collect();
        let replies = subject.reply(bench, &texts, decoding)?;
        Ok(Self { prompts, replies })
    }

    /// Share of the answers chosen by `counts` that a list calls refusals.
    pub(super) fn refusal_rate(&self, matcher: RefusalMatcher, counts: impl Fn(usize) -> bool) -> Option<RateInterval> {
        let chosen = self.replies.iter().enumerate().filter(|(index, _)| counts(*index));
        RateInterval::of(chosen.map(|(_, reply)| matcher.is_refusal(&reply.text)))
    }

    /// `name`, by the list that the run goes by, and `name_<list>` by every list.
    pub(super) fn rates(
        &self,
        values: &mut Values,
        name: &str,
        matcher: RefusalMatcher,
        counts: impl Fn(usize) -> bool,
    ) {
        values.rate(name, self.refusal_rate(matcher, &counts));
        for list in RefusalMatcher::ALL {
            values.rate(&format!("{name}_{list}"), self.refusal_rate(list, &counts));
        }
    }

    /// What there is to say of each answer.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let finding = |(prompt, reply): (&&RefusalPrompt, &Reply)| {
            let mut verdicts = Map::new();
            verdicts.insert("response_tokens".into(), json!(reply.tokens));
            for list in RefusalMatcher::ALL {
                verdicts.insert(format!("refusal_{list}"), json!(list.is_refusal(&reply.text)));
            }
            let (item, prompt, response) = (prompt.item.clone(), prompt.text.clone(), Some(reply.text.clone()));
            Finding { item, prompt, response, verdicts }
        };
        self.prompts.iter().zip(&self.replies).map(finding).collect()
    }
}
