//! The benchmarks of a run behind the actors' port.

use std::{collections::BTreeMap, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{BenchmarkScore, Benchmarks, Evaluation, EvaluationScope, GuardModel, PortError, PortResult},
    protocol::{Adapter, ChatMessage, ChatRow, ClientId, Role, RoundId},
    streams::{Purpose, stream},
};

use super::{RateInterval, RefusalMatcher};
use crate::{
    lora::{LoraConfig, LoraRef},
    model::{ChatModel, Decoding, ModelError},
};

/// Tokens after which a utility row is cut.
const UTILITY_MAX_LENGTH: usize = 512;

/// What is measured of an adapter, on rows that no client and no defence trains on.
pub struct BenchmarkSuite {
    /// The base model.
    pub model: Arc<ChatModel>,
    /// The adapter's size and place.
    pub lora: LoraConfig,
    /// Held-out harmful prompts, in evaluation order.
    pub harmful_prompts: Vec<String>,
    /// How many of them an evaluation between rounds asks.
    pub interim_prompts: usize,
    /// Held-out benign rows.
    pub utility_rows: Vec<ChatRow>,
    /// How responses are decoded.
    pub decoding: Decoding,
    /// What counts as a refusal.
    pub matcher: RefusalMatcher,
    /// Judges responses beside the matcher, if there is one.
    pub guard: Option<Arc<dyn GuardModel>>,
    /// What all random streams come from.
    pub seed: u64,
}

impl Benchmarks for BenchmarkSuite {
    fn evaluate(
        &self,
        round: RoundId,
        adapter: &Adapter,
        scope: EvaluationScope,
        cancel: &CancelFlag,
    ) -> PortResult<Evaluation> {
        let adapter = LoraRef { config: &self.lora, adapter };
        let prompts = match scope {
            EvaluationScope::Full => &self.harmful_prompts[..],
            EvaluationScope::Interim => &self.harmful_prompts[..self.interim_prompts.min(self.harmful_prompts.len())],
        };
        let mut evaluation = Evaluation::new();
        if !prompts.is_empty() {
            evaluation.insert("advbench".into(), self.advbench(round, adapter, prompts, cancel)?);
        }
        if !self.utility_rows.is_empty() {
            evaluation.insert("utility".into(), self.utility(adapter, cancel)?);
        }
        Ok(evaluation)
    }
}

impl BenchmarkSuite {
    /// Share of harmful prompts that are refused.
    fn advbench(
        &self,
        round: RoundId,
        adapter: LoraRef<'_>,
        prompts: &[String],
        cancel: &CancelFlag,
    ) -> PortResult<BenchmarkScore> {
        let talks: Vec<_> = prompts.iter().map(|prompt| vec![ChatMessage::new(Role::User, prompt)]).collect();
        let rng_of = |index: usize| stream(self.seed, Purpose::Evaluation, round, Some(ClientId(index as u32)));
        let replies = self.model.reply(Some(adapter), &talks, self.decoding, &rng_of, cancel)?;
        let refused = replies.iter().filter(|reply| self.matcher.is_refusal(&reply.text)).count() as u64;
        let n = prompts.len() as u64;
        let interval =
            RateInterval::wilson(refused, n).ok_or_else(|| PortError::Failed("no harmful prompts".into()))?;
        let mut values = BTreeMap::from([
            ("refusal_rate".to_owned(), interval.rate),
            ("ci_low".to_owned(), interval.low),
            ("ci_high".to_owned(), interval.high),
        ]);
        if let Some(guard) = &self.guard {
            let row = |(prompt, reply): (&String, &crate::model::Reply)| ChatRow::single_turn(prompt, &reply.text);
            let rows: Vec<_> = prompts.iter().zip(&replies).map(row).collect();
            let verdicts = guard.assess(&rows, cancel)?;
            let safe = verdicts.iter().filter(|verdict| !verdict.is_unsafe).count();
            values.insert("guard_safe_rate".to_owned(), safe as f64 / n as f64);
        }
        Ok(BenchmarkScore { n, values })
    }

    /// How likely the responses of held-out benign rows are: what fine-tuning is for.
    fn utility(&self, adapter: LoraRef<'_>, cancel: &CancelFlag) -> PortResult<BenchmarkScore> {
        let rows = self.model.tokenize(&self.utility_rows, UTILITY_MAX_LENGTH)?;
        let scores = self.model.score(Some(adapter), &rows, cancel)?;
        let tokens: usize = scores.iter().map(|score| score.response_tokens).sum();
        let total: f64 = scores.iter().map(|score| score.log_likelihood).sum();
        if tokens == 0 {
            let problem = "no held-out benign row has a response that fits".to_owned();
            return Err(ModelError::Invalid { path: "evaluation".into(), problem }.into());
        }
        let mean = total / tokens as f64;
        let values = BTreeMap::from([
            ("mean_log_likelihood".to_owned(), mean),
            ("perplexity".to_owned(), (-mean).exp()),
            ("response_tokens".to_owned(), tokens as f64),
        ]);
        Ok(BenchmarkScore { n: rows.len() as u64, values })
    }
}
