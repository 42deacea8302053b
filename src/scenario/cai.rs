//! `[cai]`: Constitutional AI on the server.

use fedward_actors::Schedule;
use serde::{Deserialize, Serialize};

use super::{rules::Rules, schedule::ScheduleName, training::RawTraining};
use crate::train::SftSettings;

/// Constitutional AI.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaiSection {
    /// In which rounds.
    pub schedule: Schedule,
    /// Red prompts a realignment.
    pub red_prompts: usize,
    /// Longest answer, critique and revision, in tokens.
    pub max_new_tokens: usize,
    /// Sampling temperature of all three turns; 0 is greedy.
    pub temperature: f64,
    /// Share of benign rows mixed into the fine-tuning, so that helpfulness is kept, from 0 to below 1.
    pub benign_share: f64,
    /// Fine-tuning on the revisions.
    pub training: SftSettings,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCai {
    pub schedule: ScheduleName,
    pub every: u32,
    pub red_prompts: usize,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub benign_share: f64,
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

impl Default for RawCai {
    fn default() -> Self {
        Self {
            schedule: ScheduleName::Never,
            every: 1,
            red_prompts: 32,
            max_new_tokens: 48,
            temperature: 0.0,
            benign_share: 0.25,
            steps: 10,
            batch_size: 8,
            learning_rate: 5e-4,
        }
    }
}

impl RawCai {
    pub(super) fn check(&self, rounds: u32, rules: &mut Rules) {
        rules.at_least_one("cai.red_prompts", self.red_prompts);
        rules.at_least_one("cai.max_new_tokens", self.max_new_tokens);
        rules.at_least_one("cai.steps", self.steps);
        rules.at_least_one("cai.batch_size", self.batch_size);
        rules.below_one("cai.benign_share", self.benign_share);
        rules.positive("cai.learning_rate", self.learning_rate);
        rules.not_negative("cai.temperature", self.temperature);
        self.schedule.check("cai.every", self.every, rounds, rules);
    }

    pub(super) fn resolve(&self, training: &RawTraining) -> Option<CaiSection> {
        let schedule = self.schedule.resolve(self.every);
        (schedule != Schedule::Never).then(|| CaiSection {
            schedule,
            red_prompts: self.red_prompts,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            benign_share: self.benign_share,
            training: training.server_sft(self.steps, self.batch_size, self.learning_rate),
        })
    }
}

impl CaiSection {
    /// What a run with this section takes for granted.
    pub(super) fn assumptions(&self) -> Vec<String> {
        vec![format!(
            "Constitutional AI: {} steps of fine-tuning on revisions, no preference optimisation; {:.0}% benign rows mixed in",
            self.training.steps,
            100.0 * self.benign_share
        )]
    }
}
