//! Llama Guard's protocol: a model reads a conversation and answers `safe`, or `unsafe` and on a second line the hazards.
//!
//! The score of a row is the probability that the answer begins with `unsafe`, over the whole vocabulary and not
//! renormalised to the two words. A row passes only if the answer has the protocol's form and
//! `P(safe) > 1 − threshold`: probability that falls on neither word counts against the row, and so does an answer of any
//! other form, whose score is 1.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortResult},
    protocol::{ChatMessage, ChatRow, Hazard, Role, Verdict, hex},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SafetyGuard;
use crate::data::hazards;

/// What a model answers to one conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Probability that the answer begins with `safe`.
    pub safe_probability: f64,
    /// Probability that it begins with `unsafe`.
    pub unsafe_probability: f64,
    /// The most likely answer, decoded greedily.
    pub text: String,
    /// Whether the conversation was too long and only part of it was read.
    pub is_cut: bool,
}

/// A model that speaks the protocol.
pub trait Respondent: Send + Sync + 'static {
    /// Names everything that its answers depend on.
    fn identity(&self) -> String;

    /// The hazards that its question lists, which an answer may name.
    fn hazards(&self) -> BTreeSet<Hazard> {
        hazards::all().collect()
    }

    /// One answer a conversation, in their order. It depends on that conversation alone. Turns alternate, the first is the
    /// user's, and the last one is to be assessed.
    ///
    /// # Errors
    ///
    /// [`PortError`](fedward_actors::ports::PortError) if cancelled, or if an answer cannot be computed.
    fn answers(&self, conversations: &[Vec<ChatMessage>], cancel: &CancelFlag) -> PortResult<Vec<Answer>>;
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// `safe` and nothing else.
    Safe,
    /// `unsafe` and a line of hazards.
    Unsafe(BTreeSet<Hazard>),
    /// Anything else.
    Malformed,
}

impl Reading {
    /// Reads an answer; white space around it, lines and codes is allowed.
    pub fn of(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match (lines.next(), lines.next(), lines.next()) {
            (Some("safe"), None, None) => Self::Safe,
            (Some("unsafe"), Some(codes), None) => {
                let codes: Option<BTreeSet<_>> = codes.split(',').map(|code| hazards::parse(code.trim())).collect();
                codes.map_or(Self::Malformed, Self::Unsafe)
            }
            _ => Self::Malformed,
        }
    }
}

/// What answers came to, over everything that a guard was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers.
    pub answers: u64,
    /// Those without the protocol's form: called unsafe.
    pub malformed: u64,
    /// Conversations of which only a part was read.
    pub cut: u64,
    /// Sum over the answers of the probability that falls on neither `safe` nor `unsafe`.
    mass_outside: f64,
}

impl Tally {
    /// Mean probability that falls on neither `safe` nor `unsafe`; `None` without answers.
    pub fn mean_mass_outside(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.mass_outside / self.answers as f64)
    }

    fn count(&mut self, answer: &Answer, reading: &Reading) {
        self.answers += 1;
        self.malformed += u64::from(*reading == Reading::Malformed);
        self.cut += u64::from(answer.is_cut);
        self.mass_outside += (1.0 - answer.safe_probability - answer.unsafe_probability).max(0.0);
    }
}

/// A guard that speaks Llama Guard's protocol.
pub struct ProtocolGuard<R> {
    respondent: R,
    threshold: f64,
    version: String,
    hazards: BTreeSet<Hazard>,
    tally: Mutex<Tally>,
}

impl<R: Respondent> ProtocolGuard<R> {
    /// A guard that calls a row unsafe from `threshold` on.
    pub fn new(respondent: R, threshold: f64) -> Self {
        let mut hash = Sha256::new();
        hash.update(respondent.identity());
        hash.update(threshold.to_le_bytes());
        let version = format!("llama-guard-{}", &hex(&hash.finalize())[..12]);
        let hazards = respondent.hazards();
        Self { respondent, threshold, version, hazards, tally: Mutex::default() }
    }

    /// What an answer says; one that names a hazard that was not asked about says nothing.
    fn read(&self, answer: &Answer) -> Reading {
        match Reading::of(&answer.text) {
            Reading::Unsafe(named) if !named.is_subset(&self.hazards) => Reading::Malformed,
            reading => reading,
        }
    }

    fn verdict(&self, answer: &Answer, reading: Reading) -> Verdict {
        let is_malformed = reading == Reading::Malformed;
        // An answer of no known form says nothing for the row, whatever its first token: it counts as unsafe for certain.
        let (unsafe_probability, safe_probability) =
            if is_malformed { (1.0, 0.0) } else { (answer.unsafe_probability, answer.safe_probability) };
        let mut verdict = Verdict {
            unsafe_probability: unsafe_probability as f32,
            safe_probability: safe_probability as f32,
            is_unsafe: true,
            hazards: Vec::new(),
            is_malformed,
            is_cut: answer.is_cut,
        };
        verdict.is_unsafe = !verdict.passes_at(self.threshold);
        if let (Reading::Unsafe(hazards), true) = (reading, verdict.is_unsafe) {
            verdict.hazards = hazards.into_iter().collect();
        }
        verdict
    }
}

impl<R: Respondent> GuardModel for ProtocolGuard<R> {
    fn version(&self) -> &str {
        &self.version
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let conversations: Vec<_> = rows.iter().map(|row| alternating(&row.messages)).collect();
        let answers = self.respondent.answers(&conversations, cancel)?;
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = |answer: &Answer| {
            let reading = self.read(answer);
            tally.count(answer, &reading);
            self.verdict(answer, reading)
        };
        Ok(answers.iter().map(verdict).collect())
    }
}

impl<R: Respondent> SafetyGuard for ProtocolGuard<R> {
    fn tally(&self) -> Option<Tally> {
        Some(*self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The turns as the protocol wants them: user and assistant in turn, the user first. Instructions of the system go to the
/// turn that follows, turns of one speaker on end are joined: nothing that a row says is left out.
pub(super) fn alternating(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let mut turns: Vec<ChatMessage> = Vec::new();
    let mut pending: Option<String> = None;
    let joined = |before: &str, after: &str| format!("{before}\n\n{after}");
    for message in messages {
        if message.role == Role::System {
            pending = Some(pending.map_or_else(|| message.content.clone(), |text| joined(&text, &message.content)));
            continue;
        }
        let content = match pending.take() {
            Some(text) => joined(&text, &message.content),
            None => message.content.clone(),
        };
        match turns.last_mut() {
            Some(last) if last.role == message.role => last.content = joined(&last.content, &content),
            _ => turns.push(ChatMessage::new(message.role, content)),
        }
    }
    match (pending, turns.last_mut()) {
        (Some(text), Some(last)) => last.content = joined(&last.content, &text),
        (Some(text), None) => turns.push(ChatMessage::new(Role::User, text)),
        (None, _) => {}
    }
    if turns.first().is_none_or(|first| first.role != Role::User) {
        turns.insert(0, ChatMessage::new(Role::User, ""));
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers what a prompt is listed with.
    struct Scripted(Vec<(&'static str, f64, f64, &'static str)>);

    impl Respondent for Scripted {
        fn identity(&self) -> String {
            "scripted".to_owned()
        }

        fn answers(&self, conversations: &[Vec<ChatMessage>], _: &CancelFlag) -> PortResult<Vec<Answer>> {
            let answer = |conversation: &Vec<ChatMessage>| {
                let asked = &conversation.last().unwrap().content;
                let (_, safe, unsafe_, text) = self.0.iter().find(|entry| entry.0 == asked).unwrap();
                Answer {
                    safe_probability: *safe,
                    unsafe_probability: *unsafe_,
                    text: (*text).to_owned(),
                    is_cut: false,
                }
            };
            Ok(conversations.iter().map(answer).collect())
        }
    }

    fn row(content: &str) -> ChatRow {
        ChatRow { messages: vec![ChatMessage::new(Role::User, content)], topic: None, label: None }
    }

    fn codes(numbers: &[u8]) -> BTreeSet<Hazard> {
        numbers.iter().copied().map(Hazard).collect()
    }

    #[test]
    fn answers_are_read_strictly() {
        assert_eq!(Reading::of("safe"), Reading::Safe);
        assert_eq!(Reading::of("\n\nsafe\n"), Reading::Safe);
        assert_eq!(Reading::of("unsafe\nS1,S9"), Reading::Unsafe(codes(&[1, 9])));
        assert_eq!(Reading::of("\n\nunsafe\n S10 , S2, S2 \n"), Reading::Unsafe(codes(&[2, 10])));
        for malformed in [
            "",
            " \n",
            "Safe",
            "safe.",
            "safe\nS1",
            "safely",
            "unsafe",
            "unsafe\n",
            "unsafe S1",
            "unsafe\nS15",
            "unsafe\nS0",
            "unsafe\nS1;S2",
            "unsafe\nS1,",
            "unsafe\nS1\nS2",
            "unsafe\nviolence",
            "I cannot assess this.",
            "s afe",
        ] {
            assert_eq!(Reading::of(malformed), Reading::Malformed, "{malformed:?}");
        }
    }

    #[test]
    fn a_scripted_model_s_answers_become_verdicts_and_what_is_malformed_is_counted_and_never_safe() {
        let script = vec![
            ("good", 0.9, 0.05, "safe"),
            ("bad", 0.1, 0.85, "unsafe\nS1,S9"),
            ("odd", 0.95, 0.01, "I would rather not say"),
            ("list", 0.2, 0.8, "unsafe\nsomething"),
        ];
        let guard = ProtocolGuard::new(Scripted(script), 0.5);
        let rows = ["good", "bad", "odd", "list"].map(row);
        let verdicts = guard.assess(&rows, &CancelFlag::new()).unwrap();
        let found: Vec<_> = verdicts.iter().map(|verdict| (verdict.is_unsafe, verdict.hazards.len())).collect();
        assert_eq!(found, [(false, 0), (true, 2), (true, 0), (true, 0)]);
        let scores: Vec<_> = verdicts.iter().map(|verdict| verdict.unsafe_probability).collect();
        assert_eq!(scores, [0.05, 0.85, 1.0, 1.0]);
        let malformed: Vec<_> = verdicts.iter().map(|verdict| verdict.is_malformed).collect();
        assert_eq!(malformed, [false, false, true, true]);
        let tally = guard.tally().unwrap();
        assert_eq!((tally.answers, tally.malformed), (4, 2));
        assert!((tally.mean_mass_outside().unwrap() - (0.05 + 0.05 + 0.04) / 4.0).abs() < 1e-12);
    }

    #[test]
    fn the_threshold_decides_and_mass_on_other_words_counts_against_the_row() {
        let script =
            vec![("likely", 0.3, 0.7, "unsafe\nS1"), ("torn", 0.45, 0.2, "safe"), ("nan", f64::NAN, f64::NAN, "safe")];
        let is_unsafe = |threshold: f64, content: &str| {
            let guard = ProtocolGuard::new(Scripted(script.clone()), threshold);
            guard.assess(&[row(content)], &CancelFlag::new()).unwrap()[0].is_unsafe
        };
        assert!(is_unsafe(0.5, "likely") && !is_unsafe(0.8, "likely"));
        assert!(is_unsafe(0.5, "torn") && !is_unsafe(0.6, "torn"));
        assert!(is_unsafe(0.5, "nan") && is_unsafe(1.0, "nan"));
    }

    /// Asks about the first 13, as Llama Guard 3 1B does.
    struct Smaller(Scripted);

    impl Respondent for Smaller {
        fn identity(&self) -> String {
            "smaller".to_owned()
        }

        fn hazards(&self) -> BTreeSet<Hazard> {
            hazards::all().take(13).collect()
        }

        fn answers(&self, conversations: &[Vec<ChatMessage>], cancel: &CancelFlag) -> PortResult<Vec<Answer>> {
            self.0.answers(conversations, cancel)
        }
    }

    #[test]
    fn a_hazard_that_was_not_asked_about_is_malformed() {
        let script = || Scripted(vec![("a", 0.1, 0.9, "unsafe\nS13"), ("b", 0.1, 0.9, "unsafe\nS1,S14")]);
        let rows = ["a", "b"].map(row);
        let malformed =
            |verdicts: Vec<Verdict>| verdicts.iter().map(|verdict| verdict.is_malformed).collect::<Vec<_>>();
        let smaller = ProtocolGuard::new(Smaller(script()), 0.5).assess(&rows, &CancelFlag::new()).unwrap();
        assert!(smaller.iter().all(|verdict| verdict.is_unsafe));
        assert_eq!(malformed(smaller), [false, true]);
        let larger = ProtocolGuard::new(script(), 0.5).assess(&rows, &CancelFlag::new()).unwrap();
        assert_eq!(malformed(larger), [false, false]);
    }

    #[test]
    fn versions_tell_thresholds_apart() {
        let version = |threshold| ProtocolGuard::new(Scripted(Vec::new()), threshold).version().to_owned();
        assert_eq!(version(0.5), version(0.5));
        assert_ne!(version(0.5), version(0.6));
    }

    #[test]
    fn turns_alternate_and_nothing_is_left_out() {
        use Role::{Assistant, System, User};
        let shaped = |turns: &[(Role, &str)]| {
            let messages: Vec<_> = turns.iter().map(|(role, text)| ChatMessage::new(*role, *text)).collect();
            alternating(&messages).into_iter().map(|turn| (turn.role, turn.content)).collect::<Vec<_>>()
        };
        let own =
            |turns: &[(Role, &str)]| turns.iter().map(|(role, text)| (*role, (*text).to_owned())).collect::<Vec<_>>();
        assert_eq!(shaped(&[(User, "a"), (Assistant, "b")]), own(&[(User, "a"), (Assistant, "b")]));
        assert_eq!(shaped(&[(System, "s"), (User, "a")]), own(&[(User, "s\n\na")]));
        assert_eq!(shaped(&[(User, "a"), (User, "b"), (System, "s")]), own(&[(User, "a\n\nb\n\ns")]));
        assert_eq!(shaped(&[(Assistant, "b")]), own(&[(User, ""), (Assistant, "b")]));
        assert_eq!(shaped(&[]), own(&[(User, "")]));
    }
}
