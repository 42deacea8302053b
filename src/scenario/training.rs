//! `[training]`: local training, and the optimizer's settings that the server's trainings share with it.

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::{
    model::RowEnd,
    train::{DpoSettings, LONE_SHARDS, SftSettings},
};

/// Local training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingSection {
    /// The optimizer's settings.
    pub sft: SftSettings,
    /// Tokens after which a row is cut.
    pub max_length: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTraining {
    pub local_steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub max_length: usize,
    pub pass_tokens: Option<usize>,
    pub checkpoint_activations: bool,
    pub end: RowEnd,
}

impl Default for RawTraining {
    fn default() -> Self {
        Self {
            local_steps: 10,
            batch_size: 16,
            learning_rate: 5e-4,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            max_length: 512,
            pass_tokens: None,
            checkpoint_activations: false,
            end: RowEnd::Token,
        }
    }
}

impl RawTraining {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.at_least_one("training.local_steps", self.local_steps);
        rules.at_least_one("training.batch_size", self.batch_size);
        rules.positive("training.learning_rate", self.learning_rate);
        rules.positive("training.max_grad_norm", self.max_grad_norm);
        rules.not_negative("training.weight_decay", self.weight_decay);
        rules.at_least_sixteen_tokens("training.max_length", self.max_length);
        if let Some(pass_tokens) = self.pass_tokens {
            rules.at_least_sixteen_tokens("training.pass_tokens", pass_tokens);
        }
    }

    /// The section of clients that take `steps_factor` times the steps that are written.
    pub(super) fn resolve(&self, steps_factor: usize) -> TrainingSection {
        TrainingSection {
            sft: self.sft(self.local_steps * steps_factor, self.batch_size, self.learning_rate),
            max_length: self.max_length,
        }
    }

    fn sft(&self, steps: usize, batch_size: usize, learning_rate: f64) -> SftSettings {
        SftSettings {
            weight_decay: self.weight_decay,
            max_grad_norm: Some(self.max_grad_norm),
            pass_tokens: self.pass_tokens,
            checkpoint_activations: self.checkpoint_activations,
            end: self.end,
            ..SftSettings::new(steps, batch_size, learning_rate)
        }
    }

    /// A training of the server's, with weight decay and clipping as clients have them.
    pub(super) fn server_sft(&self, steps: usize, batch_size: usize, learning_rate: f64) -> SftSettings {
        SftSettings { shards: LONE_SHARDS, ..self.sft(steps, batch_size, learning_rate) }
    }

    /// A training of the server's on preferences, likewise.
    pub(super) fn server_dpo(&self, steps: usize, batch_size: usize, learning_rate: f64, beta: f64) -> DpoSettings {
        DpoSettings {
            beta,
            weight_decay: self.weight_decay,
            max_grad_norm: Some(self.max_grad_norm),
            pass_tokens: self.pass_tokens,
            checkpoint_activations: self.checkpoint_activations,
            shards: LONE_SHARDS,
            ..DpoSettings::new(steps, batch_size, learning_rate)
        }
    }
}
