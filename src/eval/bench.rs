//! What every benchmark is: something that measures a model with an adapter, and says what it found on each prompt.

use std::{borrow::Cow, collections::BTreeMap};

use clap::ValueEnum;
use fedward_actors::{
    cancel::CancelFlag,
    ports::{BenchmarkScore, ItemScores, PortResult},
    protocol::{ChatMessage, ClientId, Role, RoundId, hex},
    streams::{Purpose, stream},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::bootstrap::{MeanInterval, RateInterval};
use crate::{
    lora::LoraRef,
    model::{Asked, ChatModel, Decoding, Reply, RowScore, TokenizedRow},
    progress::Progress,
};

/// The benchmarks that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum BenchName {
    /// Refusals of harmful prompts.
    #[serde(rename = "advbench")]
    #[value(name = "advbench")]
    AdvBench,
    /// Preference for helpful, honest, harmless answers.
    Hhh,
    /// Answers to open questions, rated by a judge.
    MtBench,
    /// Refusals of prompts that only look harmful.
    #[serde(rename = "xstest")]
    #[value(name = "xstest")]
    XsTest,
    /// Likelihood of held-out benign responses.
    Utility,
    /// Refusals of HarmBench's standard behaviours.
    #[serde(rename = "harmbench")]
    #[value(name = "harmbench")]
    HarmBench,
    /// Refusals of `StrongREJECT`'s prompts.
    #[serde(rename = "strongreject")]
    #[value(name = "strongreject")]
    StrongReject,
    /// Refusals of Do-Not-Answer's prompts.
    DoNotAnswer,
    /// Refusals of harmful prompts that ask how things were done.
    PastTense,
    /// Refusals of AdvBench's goals inside jailbreak templates.
    Jailbreak,
}

impl BenchName {
    /// Its name in scenarios, records and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdvBench => "advbench",
            Self::Hhh => "hhh",
            Self::MtBench => "mt_bench",
            Self::XsTest => "xstest",
            Self::Utility => "utility",
            Self::HarmBench => "harmbench",
            Self::StrongReject => "strongreject",
            Self::DoNotAnswer => "do_not_answer",
            Self::PastTense => "past_tense",
            Self::Jailbreak => "jailbreak",
        }
    }

    /// Returns the benchmark of a name, if there is one.
    pub fn find(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|bench| bench.name() == name)
    }
}

/// A benchmark as records, progress and random streams know it: one that there is, or a user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchId {
    name: Cow<'static, str>,
    /// Tells its random streams from those of others.
    stream: u8,
}

impl BenchId {
    /// A user's own benchmark. Its streams come from its name.
    pub fn own(name: &str) -> Self {
        let [first, ..] = <[u8; 32]>::from(Sha256::digest(name));
        // Below are the streams of the benchmarks that there are.
        Self { name: Cow::Owned(name.to_owned()), stream: 0x80 | first }
    }

    /// Its name in records and progress.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<BenchName> for BenchId {
    fn from(bench: BenchName) -> Self {
        Self { name: Cow::Borrowed(bench.name()), stream: bench as u8 }
    }
}

/// What is measured, in which round, how thoroughly.
pub struct Subject<'a> {
    /// The base model.
    pub model: &'a ChatModel,
    /// The adapter; `None` measures the base model as it is.
    pub adapter: Option<LoraRef<'a>>,
    /// What all random streams come from.
    pub seed: u64,
    /// Items of each benchmark that are looked at, the first ones; all of them if there is no limit.
    pub limit: Option<usize>,
    /// Raised when nobody waits any more.
    pub cancel: &'a CancelFlag,
    /// Hears how far a benchmark is.
    pub progress: &'a dyn Progress,
}

/// A benchmark with its prompts, in evaluation order: a shorter evaluation takes the first of them.
pub trait Benchmark: Send + Sync {
    /// Measures a subject.
    ///
    /// # Errors
    ///
    /// [`PortError`](fedward_actors::ports::PortError) if cancelled, or if there is nothing to measure or compute with.
    fn measure(&self, subject: &Subject<'_>) -> PortResult<Measurement>;
}

/// What a benchmark found.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What the values are to be called. Not always the benchmark's name: what stands in for a missing judge is not a
    /// rating.
    pub name: String,
    /// The values.
    pub score: BenchmarkScore,
    /// One a prompt, in evaluation order.
    pub findings: Vec<Finding>,
    /// What people should know of it: for example, why a judge gave no rating.
    pub warnings: Vec<String>,
}

/// What was found on one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The prompt's number or category in its data set.
    pub item: String,
    /// The prompt.
    pub prompt: String,
    /// The model's response, if it was asked for one.
    pub response: Option<String>,
    /// Verdicts and scores by name.
    pub verdicts: Map<String, Value>,
}

impl Finding {
    /// One object for a file of details. Prompts and responses may be harmful, so they appear as checksum and length
    /// unless `with_text`.
    pub fn to_json(&self, bench: &str, with_text: bool) -> Value {
        let mut object = Map::from_iter([("bench".to_owned(), json!(bench)), ("item".to_owned(), json!(self.item))]);
        let response = self.response.as_ref().map(|response| ("response", response));
        for (name, text) in [("prompt", &self.prompt)].into_iter().chain(response) {
            object.insert(format!("{name}_sha256"), json!(hex(&Sha256::digest(text))));
            object.insert(format!("{name}_chars"), json!(text.chars().count()));
            if with_text {
                object.insert(name.to_owned(), json!(text));
            }
        }
        object.extend(self.verdicts.clone());
        Value::Object(object)
    }
}

impl Subject<'_> {
    /// The items that this evaluation looks at.
    pub fn share<'i, T>(&self, items: &'i [T]) -> &'i [T] {
        &items[..self.limit.unwrap_or(usize::MAX).min(items.len())]
    }

    /// Replies to single prompts. Each prompt of each benchmark is sampled from a stream of its own, the same in every round: what
    /// is compared with the start, or with another variant, then differs by the model alone.
    ///
    /// # Errors
    ///
    /// What the model complains of.
    pub fn reply(&self, bench: &BenchId, prompts: &[(usize, &str)], decoding: Decoding) -> PortResult<Vec<Reply>> {
        let talks: Vec<_> = prompts.iter().map(|(_, text)| vec![ChatMessage::new(Role::User, *text)]).collect();
        let rng_of = |index: usize| {
            let stream_id = u32::from(bench.stream) << 24 | prompts[index].0 as u32;
            stream(self.seed, Purpose::Evaluation, RoundId::START, Some(ClientId(stream_id)))
        };
        self.progress.part(bench.name());
        let asked = Asked { adapter: self.adapter, conversations: &talks, decoding, rng_of: &rng_of };
        Ok(self.model.reply(asked, self.cancel, self.progress)?)
    }

    /// Log-likelihoods of the rows' responses.
    ///
    /// # Errors
    ///
    /// What the model complains of.
    pub fn score(&self, bench: &BenchId, rows: &[TokenizedRow]) -> PortResult<Vec<RowScore>> {
        self.progress.part(bench.name());
        Ok(self.model.score(self.adapter, rows, self.cancel, self.progress)?)
    }
}

/// Named values of a benchmark.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(BTreeMap<String, f64>);

impl Values {
    /// A value that is not finite is left out: a row could not say it, and could not be read back.
    pub(super) fn number(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        if value.is_finite() {
            self.0.insert(name, value);
        } else {
            tracing::warn!("{name} is {value}: left out");
        }
    }

    /// `name` with `name_ci_low` and `name_ci_high`; nothing where there was no trial.
    pub(super) fn rate(&mut self, name: &str, interval: Option<RateInterval>) {
        if let Some(RateInterval { rate, low, high, .. }) = interval {
            self.with_bounds(name, rate, low, high);
        }
    }

    /// As [`Values::rate`], of a mean.
    pub(super) fn mean(&mut self, name: &str, interval: Option<MeanInterval>) {
        if let Some(MeanInterval { mean, low, high, .. }) = interval {
            self.with_bounds(name, mean, low, high);
        }
    }

    fn with_bounds(&mut self, name: &str, value: f64, low: f64, high: f64) {
        self.number(name, value);
        self.number(format!("{name}_ci_low"), low);
        self.number(format!("{name}_ci_high"), high);
    }

    pub(super) fn score(self, n: usize) -> BenchmarkScore {
        BenchmarkScore { n: n as u64, items: None, values: self.0 }
    }
}

/// What was found on each item, the items named by their texts. Scores are finite.
pub(super) fn item_scores<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    scores: impl IntoIterator<Item = (&'static str, Vec<f64>)>,
) -> ItemScores {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let scores = scores.into_iter().map(|(name, scores)| (name.to_owned(), scores)).collect();
    ItemScores { sha256: hex(&hash.finalize()), scores }
}

/// Yes as 1, no as 0.
pub(super) fn yes_or_no(outcomes: impl IntoIterator<Item = bool>) -> Vec<f64> {
    outcomes.into_iter().map(|outcome| f64::from(u8::from(outcome))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_finite_is_left_out_so_that_the_score_can_be_read_back() {
        let mut values = Values::default();
        values.number("perplexity", f64::INFINITY);
        values.number("mean", f64::NAN);
        values.number("rate", 0.5);
        let score = values.score(4);
        let text = serde_json::to_string(&score).unwrap();
        assert_eq!(text, r#"{"n":4,"rate":0.5}"#);
        assert_eq!(serde_json::from_str::<BenchmarkScore>(&text).unwrap(), score);
    }

    #[test]
    fn what_was_found_on_each_item_is_read_back() {
        let items =
            |texts: [&str; 2]| item_scores(texts, [("refused", yes_or_no([true, false])), ("nats", vec![-1.5, 2.0])]);
        let score = BenchmarkScore { items: Some(items(["a", "bc"])), ..Values::default().score(2) };
        let text = serde_json::to_string(&score).unwrap();
        assert!(text.ends_with(r#""nats":[-1.5,2],"refused":[1,0]}}"#), "{text}");
        assert_eq!(serde_json::from_str::<BenchmarkScore>(&text).unwrap(), score);
        assert_ne!(items(["a", "bc"]).sha256, items(["ab", "c"]).sha256);
    }
}
