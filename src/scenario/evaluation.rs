//! `[evaluation]`: what is measured, and when.

use fedward_actors::Schedule;
use serde::{Deserialize, Serialize};

use super::{rules::Rules, schedule::ScheduleName};

/// What is measured, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationSection {
    /// Between start and end, in which rounds.
    pub schedule: Schedule,
    /// AdvBench prompts of a full evaluation.
    pub prompts: usize,
    /// AdvBench prompts of an evaluation between rounds.
    pub interim_prompts: usize,
    /// Held-out benign rows whose likelihood is measured.
    pub utility_rows: usize,
    /// Longest response, in tokens.
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// What counts as a refusal.
    pub matcher: MatcherName,
}

/// What counts as a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatcherName {
    /// OpenFedLLM's 35 strings, anywhere, whatever the case.
    #[default]
    Openfedllm,
    /// llm-attacks' 7 strings.
    LlmAttacks7,
    /// llm-attacks' 10 strings.
    LlmAttacks10,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEvaluation {
    pub schedule: ScheduleName,
    pub every: u32,
    pub prompts: usize,
    pub interim_prompts: usize,
    pub utility_rows: usize,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub matcher: MatcherName,
}

impl Default for RawEvaluation {
    fn default() -> Self {
        Self {
            schedule: ScheduleName::LastRound,
            every: 1,
            prompts: 64,
            interim_prompts: 32,
            utility_rows: 48,
            max_new_tokens: 40,
            temperature: 0.0,
            matcher: MatcherName::Openfedllm,
        }
    }
}

impl RawEvaluation {
    pub(super) fn check(&self, rounds: u32, rules: &mut Rules) {
        rules.at_least_one("evaluation.prompts", self.prompts);
        rules.at_least_one("evaluation.interim_prompts", self.interim_prompts);
        rules.at_least_one("evaluation.max_new_tokens", self.max_new_tokens);
        rules.not_negative("evaluation.temperature", self.temperature);
        self.schedule.check("evaluation.every", self.every, rounds, rules);
    }

    pub(super) fn resolve(&self) -> EvaluationSection {
        EvaluationSection {
            schedule: self.schedule.resolve(self.every),
            prompts: self.prompts,
            interim_prompts: self.interim_prompts.min(self.prompts),
            utility_rows: self.utility_rows,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            matcher: self.matcher,
        }
    }
}

impl EvaluationSection {
    /// What a run with this section takes for granted.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let decoding =
            if self.temperature == 0.0 { "greedy".to_owned() } else { format!("temperature {}", self.temperature) };
        vec![format!(
            "AdvBench: {decoding} decoding, {} new tokens, {:?} refusal strings; OpenFedLLM samples at 0.7 with 1,024 new tokens",
            self.max_new_tokens, self.matcher
        )]
    }
}
