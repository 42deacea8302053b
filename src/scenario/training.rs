//! `[training]`: local training, and the optimizer's settings that the server's trainings share with it.

use serde::{Deserialize, Serialize};

use super::{is_default, rules::Rules};
use crate::{
    model::RowEnd,
    train::{DpoSettings, LONE_SHARDS, RoundCurve, RoundSchedule, SftSettings},
};

/// Local training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingSection {
    /// The optimizer's settings.
    pub sft: SftSettings,
    /// How the learning rate moves over rounds.
    #[serde(skip_serializing_if = "is_default")]
    pub lr_schedule: RoundSchedule,
    /// Tokens after which a row is cut.
    pub max_length: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTraining {
    pub local_steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    pub lr_schedule: RawLrSchedule,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub max_length: usize,
    pub pass_tokens: Option<usize>,
    pub checkpoint_activations: bool,
    pub end: RowEnd,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLrSchedule {
    pub over: LrOver,
    pub kind: RoundCurve,
    pub min: f64,
    pub warmup_rounds: u32,
}

/// What a learning rate moves over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LrOver {
    #[default]
    Rounds,
}

impl RawLrSchedule {
    fn check(&self, highest: f64, rounds: u32, rules: &mut Rules) {
        let Self { over: LrOver::Rounds, kind, min, warmup_rounds } = *self;
        rules.check((0.0..=highest).contains(&min), "training.lr_schedule.min", || {
            format!("found {min}; allowed: 0 to training.learning_rate = {highest}")
        });
        rules.check(kind != RoundCurve::Constant || min <= 0.0, "training.lr_schedule.min", || {
            "a constant rate goes down to nothing; set training.lr_schedule.kind to \"linear\" or \"cosine\"".into()
        });
        rules.check(warmup_rounds <= rounds, "training.lr_schedule.warmup_rounds", || {
            format!("found {warmup_rounds}; allowed: 0 to federation.rounds = {rounds}")
        });
    }
}

impl Default for RawTraining {
    fn default() -> Self {
        Self {
            local_steps: 10,
            batch_size: 16,
            learning_rate: 5e-4,
            lr_schedule: RawLrSchedule::default(),
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
    pub(super) fn check(&self, rounds: u32, rules: &mut Rules) {
        self.lr_schedule.check(self.learning_rate, rounds, rules);
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
            lr_schedule: RoundSchedule {
                kind: self.lr_schedule.kind,
                min: self.lr_schedule.min,
                warmup_rounds: self.lr_schedule.warmup_rounds,
            },
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
