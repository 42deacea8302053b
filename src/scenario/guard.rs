//! `[guard]`: the row filter.

use serde::{Deserialize, Serialize};

use super::rules::Rules;

/// The row filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardSection {
    /// Probability of harm from which a row is filtered.
    pub threshold: f64,
    /// Transformer blocks below the guard's head; `None` means half of them.
    pub layers: Option<usize>,
    /// Tokens of a row that it reads.
    pub max_length: usize,
    /// Rows that the head is trained on, at most.
    pub train_rows: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGuard {
    pub enabled: bool,
    pub threshold: f64,
    pub layers: Option<usize>,
    pub max_length: usize,
    pub train_rows: usize,
}

impl Default for RawGuard {
    fn default() -> Self {
        Self { enabled: false, threshold: 0.5, layers: None, max_length: 96, train_rows: 600 }
    }
}

impl RawGuard {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.share("guard.threshold", self.threshold);
        rules.at_least_sixteen_tokens("guard.max_length", self.max_length);
        rules.check(self.train_rows >= 100, "guard.train_rows", || {
            format!("found {}; allowed: 100 or more (fewer make no guard worth measuring)", self.train_rows)
        });
    }

    pub(super) fn resolve(&self) -> Option<GuardSection> {
        self.enabled.then_some(GuardSection {
            threshold: self.threshold,
            layers: self.layers,
            max_length: self.max_length,
            train_rows: self.train_rows,
        })
    }
}

impl GuardSection {
    /// What a run with this section takes for granted.
    #[expect(clippy::unused_self, reason = "each section says what it takes for granted")]
    pub(super) fn assumptions(&self) -> Vec<String> {
        vec!["the guard is a linear head on the frozen base model's hidden states, not Llama Guard 3".to_owned()]
    }
}
