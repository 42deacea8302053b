//! Learning rates over the steps of one training.

use std::f64::consts::PI;

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
}
