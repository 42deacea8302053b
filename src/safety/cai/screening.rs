//! Which revisions are worth training on.

use std::{collections::BTreeMap, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortResult},
    protocol::{ChatMessage, ChatRow, Role},
};

use super::Dialogues;
use crate::{
    data::PreferencePair,
    model::{FinishReason, Reply},
    progress::Progress,
    safety::guard::assess_counting,
};

/// Why a revision, or the pair of revision and answer, is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discard {
    /// One of the three turns got no reply.
    Unanswered,
    /// The revision says nothing.
    Empty,
    /// The revision was cut off before its first sentence ended.
    Unfinished,
    /// The guard calls the revision unsafe, or a prepared answer.
    Unsafe,
    /// Revision and answer are the same, or there is no answer: nothing to prefer.
    Same,
}

impl Discard {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unanswered, Self::Empty, Self::Unfinished, Self::Unsafe, Self::Same];

    /// Its name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Empty => "empty",
            Self::Unfinished => "unfinished",
            Self::Unsafe => "unsafe",
            Self::Same => "same",
        }
    }
}

/// What is worth training on, and what became of the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Screened {
    /// Revision preferred over answer. An answer may be empty or like its revision: preferences are not trained on it then.
    pub pairs: Vec<PreferencePair>,
    /// Answers that needed no revision, behind their red prompts.
    pub good_answers: Vec<ChatRow>,
    /// How many were discarded, by reason.
    pub discarded: BTreeMap<String, u64>,
}

/// How many of so many pairs are for training on preferences, where fine-tuning gets `sft_share`.
pub(super) fn for_preferences(pairs: usize, sft_share: f64) -> usize {
    pairs.saturating_sub((pairs as f64 * sft_share).round() as usize)
}

impl Screened {
    /// Divides what is worth training on: answers to fine-tune on, made of a share of the pairs, and the other pairs for
    /// training on preferences. Good answers make no pairs, so all of them are fine-tuned on, if anything is.
    pub(super) fn divide(mut self, sft_share: f64) -> (Vec<ChatRow>, Self) {
        let preferences = self.pairs.split_off(self.pairs.len() - for_preferences(self.pairs.len(), sft_share));
        let mut answers: Vec<_> = self.pairs.drain(..).map(|pair| pair.chosen).collect();
        if sft_share > 0.0 {
            answers.append(&mut self.good_answers);
        }
        (answers, Self { pairs: preferences, ..self })
    }

    /// Finished revisions of dialogues, and answers that needed none.
    pub(super) fn of_dialogues(made: &Dialogues) -> Self {
        let mut screened = Self { good_answers: made.good_answers.clone(), ..Self::default() };
        for _ in 0..made.unanswered {
            screened.count(Discard::Unanswered);
        }
        for dialogue in &made.dialogues {
            match whole_sentences(&dialogue.revision) {
                Ok(revision) => {
                    // An answer that ends in mid-sentence would be told from a revision by that alone.
                    let answer =
                        whole_sentences(&dialogue.answer).unwrap_or_else(|_| dialogue.answer.text.trim().to_owned());
                    let row = |response| reply_row(&dialogue.prompt, response);
                    screened.pairs.push(PreferencePair { chosen: row(revision), rejected: row(answer) });
                }
                Err(reason) => screened.count(reason),
            }
        }
        screened
    }

    fn count(&mut self, reason: Discard) {
        *self.discarded.entry(reason.name().into()).or_insert(0) += 1;
    }

    /// Keeps what the guard calls safe: pairs by their revisions, and answers.
    ///
    /// # Errors
    ///
    /// The guard's: without verdicts nothing is kept.
    pub(super) fn drop_unsafe(
        &mut self,
        guard: &Arc<dyn GuardModel>,
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> PortResult<()> {
        let revisions = self.pairs.iter().map(|pair| &pair.chosen);
        let rows: Vec<ChatRow> = revisions.chain(&self.good_answers).cloned().collect();
        let verdicts = assess_counting(guard.as_ref(), &rows, cancel, progress)?;
        let mut verdicts = verdicts.iter();
        // A missing verdict counts as unsafe.
        let mut is_safe = || verdicts.next().is_some_and(|verdict| !verdict.is_unsafe);
        self.keep(Discard::Unsafe, |_| is_safe());
        let before = self.good_answers.len();
        self.good_answers.retain(|_| is_safe());
        for _ in self.good_answers.len()..before {
            self.count(Discard::Unsafe);
        }
        Ok(())
    }

    /// Takes out revisions that nothing is preferred to: they are like their answers, or there is none.
    pub fn take_same(&mut self) -> Vec<ChatRow> {
        let same = self.pairs.extract_if(.., |pair| !says_something(pair));
        same.map(|pair| pair.chosen).collect()
    }

    /// Keeps pairs whose sides differ. Only preferences need that: a revision that is like its answer is still one.
    pub(super) fn drop_same(&mut self) {
        self.keep(Discard::Same, says_something);
    }

    fn keep(&mut self, reason: Discard, mut is_kept: impl FnMut(&PreferencePair) -> bool) {
        let before = self.pairs.len();
        self.pairs.retain(|pair| is_kept(pair));
        for _ in self.pairs.len()..before {
            self.count(reason);
        }
    }
}

/// Whether a pair says what is better than what.
fn says_something(pair: &PreferencePair) -> bool {
    let answered = pair.rejected.response().is_some_and(|answer| !answer.trim().is_empty());
    answered && !pair.sides_are_equal()
}

pub(super) fn reply_row(prompt: &[ChatMessage], response: String) -> ChatRow {
    let mut messages = prompt.to_vec();
    messages.push(ChatMessage::new(Role::Assistant, response));
    ChatRow { messages, topic: None, label: None }
}

/// The reply up to its last whole sentence: a model must not be taught to stop in the middle of one.
pub(super) fn whole_sentences(reply: &Reply) -> Result<String, Discard> {
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
    use fedward_actors::protocol::Verdict;

    use super::*;
    use crate::{progress::Silent, safety::cai::Dialogue};

    fn reply(text: &str, finish_reason: FinishReason) -> Reply {
        Reply { text: text.into(), finish_reason, tokens: 1, prompt_tokens: 1 }
    }

    fn dialogue(answer: &str, revision: &str, finish_reason: FinishReason) -> Dialogue {
        Dialogue {
            prompt: vec![ChatMessage::new(Role::User, "a red prompt")],
            answer: reply(answer, FinishReason::Length),
            critique: reply("", FinishReason::Stop),
            revision: reply(revision, finish_reason),
        }
    }

    #[test]
    fn a_cut_off_revision_keeps_its_whole_sentences() {
        let whole = |text, reason| whole_sentences(&reply(text, reason));
        assert_eq!(whole("I cannot. It would", FinishReason::Length), Ok("I cannot.".into()));
        assert_eq!(whole("I cannot help", FinishReason::Length), Err(Discard::Unfinished));
        assert_eq!(whole(" no ", FinishReason::Stop), Ok("no".into()));
        assert_eq!(whole("  ", FinishReason::Stop), Err(Discard::Empty));
    }

    #[test]
    fn pairs_go_to_one_training_or_the_other_and_good_answers_to_fine_tuning() {
        let pair = |n: usize| PreferencePair::single_turn(&format!("prompt {n}"), &format!("revision {n}"), "answer");
        let good = ChatRow::single_turn("prompt", "good");
        let divided = |share| {
            let good_answers = vec![good.clone()];
            let all = Screened { pairs: (0..4).map(pair).collect(), good_answers, ..Screened::default() };
            let (answers, preferences) = all.divide(share);
            let text = |row: &ChatRow| row.response().unwrap().to_owned();
            let revisions = preferences.pairs.iter().map(|pair| text(&pair.chosen)).collect::<Vec<_>>();
            (answers.iter().map(text).collect::<Vec<_>>(), revisions)
        };
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let half = (named(&["revision 0", "revision 1", "good"]), named(&["revision 2", "revision 3"]));
        assert_eq!(divided(0.5), half);
        assert_eq!(divided(0.0), (vec![], named(&["revision 0", "revision 1", "revision 2", "revision 3"])));
        let all = named(&["revision 0", "revision 1", "revision 2", "revision 3", "good"]);
        assert_eq!(divided(1.0), (all, vec![]));
        // Halves are rounded in favour of fine-tuning.
        assert_eq!([1, 7, 8].map(|pairs| for_preferences(pairs, 0.5)), [0, 3, 4]);
        assert_eq!(for_preferences(10, 0.95), 0);
    }

    /// Calls what contains "bad" unsafe.
    struct WordGuard;

    impl GuardModel for WordGuard {
        fn version(&self) -> &'static str {
            "word"
        }

        fn assess(&self, rows: &[ChatRow], _: &CancelFlag) -> PortResult<Vec<Verdict>> {
            let verdict = |row: &ChatRow| {
                let is_bad = row.response().is_some_and(|text| text.contains("bad"));
                Verdict::of_probability(f64::from(is_bad), 0.5)
            };
            Ok(rows.iter().map(verdict).collect())
        }
    }

    #[test]
    fn every_reason_is_counted_and_the_rest_kept_in_order() {
        let (stop, length) = (FinishReason::Stop, FinishReason::Length);
        let dialogues = vec![
            dialogue("Sure. And", "I cannot.", stop),
            dialogue("Sure.", "", stop),
            dialogue("Sure.", "no end", length),
            dialogue("Sure.", "bad", stop),
            dialogue("I cannot. So", " I cannot. So on", length),
            dialogue("", "No.", stop),
        ];
        let mut screened = Screened::of_dialogues(&Dialogues { dialogues, unanswered: 2, ..Dialogues::default() });
        screened.drop_unsafe(&(Arc::new(WordGuard) as _), &CancelFlag::new(), &Silent).unwrap();
        assert_eq!(screened.pairs.len(), 3);
        screened.drop_same();
        assert_eq!(screened.pairs, [PreferencePair::single_turn("a red prompt", "I cannot.", "Sure.")]);
        let counts = [("empty", 1), ("same", 2), ("unanswered", 2), ("unfinished", 1), ("unsafe", 1)];
        assert_eq!(screened.discarded, counts.map(|(name, count)| (name.to_owned(), count)).into());
    }
}
