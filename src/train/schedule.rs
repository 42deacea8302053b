//! Learning rates over the steps of one training, and over rounds.

use std::f64::consts::PI;

use fedward_actors::protocol::RoundId;
use serde::{Deserialize, Serialize};

/// How the learning rate moves from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LrSchedule {
    /// The same at every step.
    Constant,
    /// Up from 0 during the warm-up, then down to 0 on a line.
    Linear {
        /// Share of the steps that warm up.
        warmup_ratio: f64,
    },
    /// Up from 0 during the warm-up, then down to 0 on half a cosine.
    Cosine {
        /// Share of the steps that warm up.
        warmup_ratio: f64,
    },
}

impl LrSchedule {
    /// Share of the steps that warm up.
    pub const fn warmup_ratio(self) -> f64 {
        match self {
            Self::Constant => 0.0,
            Self::Linear { warmup_ratio } | Self::Cosine { warmup_ratio } => warmup_ratio,
        }
    }

    /// What the learning rate is multiplied by at a step, counted from 0, as `transformers` does it.
    pub fn factor(self, step: usize, steps: usize) -> f64 {
        if self == Self::Constant {
            return 1.0;
        }
        let warmup = (self.warmup_ratio() * steps as f64).ceil();
        let step = step as f64;
        if step < warmup {
            return step / warmup.max(1.0);
        }
        let progress = (step - warmup) / (steps as f64 - warmup).max(1.0);
        match self {
            Self::Constant => 1.0,
            Self::Linear { .. } => (1.0 - progress).max(0.0),
            Self::Cosine { .. } => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        }
    }
}

/// How the highest learning rate of local training moves from round to round. Within a round [`LrSchedule`] goes on from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundSchedule {
    /// Its shape.
    pub kind: RoundCurve,
    /// What it goes down to.
    pub min: f64,
    /// Rounds that warm up, on a line that reaches the whole rate in the last of them.
    pub warmup_rounds: u32,
}

/// The shape of a learning rate over rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundCurve {
    /// The same in every round.
    #[default]
    Constant,
    /// Down to the least on a line.
    Linear,
    /// Down to the least on half a cosine, as `OpenFedLLM` and those that build on it have it.
    Cosine,
}

impl RoundSchedule {
    /// Returns the learning rate of a round of `rounds`: `min + (lr − min) f(r / T)` with f from 1 to 0, r counted from 0 behind
    /// the warm-up. The last round is not quite at the least: r ends at T − 1.
    pub fn learning_rate(&self, highest: f64, round: RoundId, rounds: u32) -> f64 {
        let Self { kind, min, warmup_rounds } = *self;
        let done = round.before().0;
        if done < warmup_rounds {
            return highest * f64::from(done + 1) / f64::from(warmup_rounds);
        }
        let progress = f64::from(done - warmup_rounds) / f64::from(rounds.saturating_sub(warmup_rounds).max(1));
        match kind {
            RoundCurve::Constant => highest,
            RoundCurve::Linear => min + (highest - min) * (1.0 - progress),
            RoundCurve::Cosine => min + 0.5 * (highest - min) * (1.0 + (PI * progress).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_transformers() {
        // get_cosine_schedule_with_warmup(…, 2, 10) and get_linear_schedule_with_warmup(…, 2, 10), steps 0, 1, 2, 6, 9.
        let steps = [0, 1, 2, 6, 9];
        let close = |schedule: LrSchedule, expected: [f64; 5]| {
            for (step, expected) in steps.into_iter().zip(expected) {
                assert!((schedule.factor(step, 10) - expected).abs() < 1e-12, "{schedule:?} at {step}");
            }
        };
        close(LrSchedule::Cosine { warmup_ratio: 0.2 }, [0.0, 0.5, 1.0, 0.5, 0.038_060_233_744_356_63]);
        close(LrSchedule::Linear { warmup_ratio: 0.2 }, [0.0, 0.5, 1.0, 0.5, 0.125]);
        close(LrSchedule::Constant, [1.0; 5]);
    }

    /// `OpenFedLLM`'s `cosine_learning_rate(current_round, total_rounds, 5e-5, 1e-6)` in rounds 0, 1, 100 and 199 of 200.
    #[test]
    fn rates_over_rounds_are_those_of_openfedllm() {
        let cosine = RoundSchedule { kind: RoundCurve::Cosine, min: 1e-6, warmup_rounds: 0 };
        for (round, expected) in [(1, 5e-5), (2, 4.999_697_75e-5), (101, 2.55e-5), (200, 1.003_02e-6)] {
            let found = cosine.learning_rate(5e-5, RoundId(round), 200);
            assert!((found / expected - 1.0).abs() < 1e-5, "round {round}: {found}");
        }
    }

    #[test]
    fn rates_warm_up_and_go_down_on_their_line() {
        let of = |kind, warmup_rounds| {
            let schedule = RoundSchedule { kind, min: 0.2, warmup_rounds };
            (1..=6).map(|round| schedule.learning_rate(1.0, RoundId(round), 6)).collect::<Vec<_>>()
        };
        let close = |found: Vec<f64>, expected: [f64; 6]| {
            assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
        };
        close(of(RoundCurve::Linear, 2), [0.5, 1.0, 1.0, 0.8, 0.6, 0.4]);
        close(of(RoundCurve::Constant, 0), [1.0; 6]);
        close(of(RoundCurve::Constant, 4), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        // Nothing is left of the rounds behind a warm-up of all of them.
        close(of(RoundCurve::Cosine, 6)[..6].to_vec(), [1.0 / 6.0, 2.0 / 6.0, 0.5, 4.0 / 6.0, 5.0 / 6.0, 1.0]);
    }
}
