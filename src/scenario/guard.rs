//! `[guard]`: the row filter.

use fedward_actors::policy::Assessed;
use serde::{Deserialize, Serialize};

use super::rules::Rules;

/// The row filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardSection {
    /// What becomes of a row that the guard calls unsafe.
    pub policy: PolicyName,
    /// What of a row it is shown.
    pub assess: Assessed,
    /// Probability of harm from which a row is unsafe.
    pub threshold: f64,
    /// Transformer blocks below the guard's head; `None` means half of them.
    pub layers: Option<usize>,
    /// Tokens of a row that it reads.
    pub max_length: usize,
    /// Rows that the head is trained on, at most.
    pub train_rows: usize,
}

/// What becomes of a row that the guard calls unsafe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// It is left out.
    #[default]
    Drop,
    /// A refusal takes the place of its response.
    Replace,
    /// Its loss counts `1 − P(unsafe)` times.
    Reweight,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGuard {
    pub enabled: bool,
    pub policy: PolicyName,
    pub assess: Assessed,
    pub threshold: f64,
    pub layers: Option<usize>,
    pub max_length: usize,
    pub train_rows: usize,
}

impl Default for RawGuard {
    fn default() -> Self {
        Self {
            enabled: false,
            policy: PolicyName::Drop,
            assess: Assessed::Both,
            threshold: 0.5,
            layers: None,
            max_length: 96,
            train_rows: 600,
        }
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
            policy: self.policy,
            assess: self.assess,
            threshold: self.threshold,
            layers: self.layers,
            max_length: self.max_length,
            train_rows: self.train_rows,
        })
    }
}

impl GuardSection {
    /// The same guard, whatever it is used for: what its verdicts and its quality depend on.
    #[must_use]
    pub fn classifier(&self) -> Self {
        Self { policy: PolicyName::Drop, assess: Assessed::Both, ..self.clone() }
    }

    /// What a run with this section takes for granted.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let mut assumptions =
            vec!["the guard is a linear head on the frozen base model's hidden states, not Llama Guard 3".to_owned()];
        if self.assess != Assessed::Both {
            assumptions
                .push("the guard is shown a part of each row, though it was fitted on whole conversations".to_owned());
        }
        if self.policy == PolicyName::Reweight {
            assumptions.push(
                "a row that the guard calls unsafe counts 1 - P(unsafe) times: in the loss, which is a mean over the batch's \
                 tokens whatever they weigh, and as an example in the aggregation"
                    .to_owned(),
            );
        }
        assumptions
    }
}
