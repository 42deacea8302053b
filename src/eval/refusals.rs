//! Prompts that are answered, and the answers looked at for refusals by every list.

use fedward_actors::ports::{ItemScores, PortResult};
use serde_json::{Map, json};

use super::{
    BenchId, Finding, RefusalMatcher, RefusalRule, Subject,
    bench::{Values, item_scores},
    bootstrap::RateInterval,
};
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
        bench: &BenchId,
        prompts: Vec<&'a RefusalPrompt>,
        decoding: Decoding,
    ) -> PortResult<Self> {
        let texts: Vec<_> = prompts.iter().enumerate().map(|(index, prompt)| (index, prompt.text.as_str())).collect();
        let replies = subject.reply(bench, &texts, decoding)?;
        Ok(Self { prompts, replies })
    }

    /// Returns whether each answer is a refusal: by a list's strings that do not stand in the prompt.
    pub(super) fn refused(&self, rule: &RefusalRule) -> Vec<bool> {
        self.pairs().map(|(prompt, response)| rule.refuses(prompt, response)).collect()
    }

    /// Adds the values of the answers chosen by `counts`, each rate with bounds.
    ///
    /// `name` is the run's own rate, by the strings of its list that do not stand in the prompt; `name_<list>` is how the source
    /// of each list counts, whatever stands in the prompt; `name_prompts_with_string` is how many prompts hold a string of the
    /// run's list, and `name_echoed` how many answers hold none but their prompt's.
    pub(super) fn rates(&self, values: &mut Values, name: &str, rule: &RefusalRule, counts: impl Fn(usize) -> bool) {
        let chosen: Vec<_> =
            self.pairs().enumerate().filter(|(index, _)| counts(*index)).map(|(_, pair)| pair).collect();
        let rate = |refuses: &dyn Fn(&str, &str) -> bool| {
            RateInterval::of(chosen.iter().map(|(prompt, response)| refuses(prompt, response)))
        };
        values.rate(name, rate(&|prompt, response| rule.refuses(prompt, response)));
        for list in RefusalMatcher::ALL {
            values.rate(&format!("{name}_{list}"), rate(&|_, response| list.is_refusal(response)));
        }
        let count = |holds: &dyn Fn(&str, &str) -> bool| {
            chosen.iter().filter(|(prompt, response)| holds(prompt, response)).count() as f64
        };
        values.number(format!("{name}_prompts_with_string"), count(&|prompt, _| rule.is_refusal(prompt)));
        let echoes = |prompt: &str, response: &str| rule.is_refusal(response) && !rule.refuses(prompt, response);
        values.number(format!("{name}_echoed"), count(&echoes));
    }

    /// Each prompt with its answer.
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.prompts.iter().zip(&self.replies).map(|(prompt, reply)| (prompt.text.as_str(), reply.text.as_str()))
    }

    /// What was found on each prompt.
    pub(super) fn items(&self, scores: impl IntoIterator<Item = (&'static str, Vec<f64>)>) -> ItemScores {
        item_scores(self.prompts.iter().map(|prompt| prompt.text.as_str()), scores)
    }

    /// What there is to say of each answer.
    pub(super) fn findings(&self, rule: &RefusalRule) -> Vec<Finding> {
        let finding = |(prompt, reply): (&&RefusalPrompt, &Reply)| {
            let mut verdicts = Map::new();
            verdicts.insert("response_tokens".into(), json!(reply.tokens));
            for list in RefusalMatcher::ALL {
                verdicts.insert(format!("refusal_{list}"), json!(list.is_refusal(&reply.text)));
            }
            verdicts.insert("refused".into(), json!(rule.refuses(&prompt.text, &reply.text)));
            let (item, prompt, response) = (prompt.item.clone(), prompt.text.clone(), Some(reply.text.clone()));
            Finding { item, prompt, response, verdicts }
        };
        self.prompts.iter().zip(&self.replies).map(finding).collect()
    }
}
