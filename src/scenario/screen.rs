//! `[screen]`: the update-level defence.

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::safety::screen::Excess;

/// The update-level defence.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ScreenSection {
    /// Bounds the norm of every update by a multiple of the cohort's median norm.
    NormBound {
        /// The multiple.
        max_norm_ratio: f64,
        /// What becomes of a longer update.
        action: Excess,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScreenName {
    #[default]
    None,
    NormBound,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawScreen {
    pub kind: ScreenName,
    pub max_norm_ratio: f64,
    pub action: Excess,
}

impl Default for RawScreen {
    fn default() -> Self {
        Self { kind: ScreenName::None, max_norm_ratio: 3.0, action: Excess::Clip }
    }
}

impl RawScreen {
    pub(super) fn check(&self, cohort: u32, rules: &mut Rules) {
        let ratio = self.max_norm_ratio;
        rules.check(ratio >= 1.0 && ratio.is_finite(), "screen.max_norm_ratio", || {
            format!("found {ratio}; allowed: 1 or above (half of the updates are as long as the median or longer)")
        });
        rules.check(self.kind == ScreenName::None || cohort >= 3, "screen.kind", || {
            format!("found \"norm_bound\" with federation.cohort = {cohort}; allowed: \"none\", or a cohort of 3 or more (the median of fewer is no measure)")
        });
    }

    pub(super) fn resolve(&self) -> Option<ScreenSection> {
        match self.kind {
            ScreenName::None => None,
            ScreenName::NormBound => {
                Some(ScreenSection::NormBound { max_norm_ratio: self.max_norm_ratio, action: self.action })
            }
        }
    }
}
