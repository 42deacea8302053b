//! `[screen]`: the update-level defence.

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::safety::screen::{Excess, Outlier, Spread};

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
    /// Finds updates whose norm lies far from the cohort's middle.
    NormOutlier {
        /// What deviations are counted in.
        measure: Spread,
        /// How many of them are still fine.
        max_deviations: f64,
        /// What becomes of an outlier.
        action: Outlier,
    },
    /// Judges updates by their cosine to the cohort's median direction.
    Cosine {
        /// The least cosine that is still fine.
        min_cosine: f64,
        /// What becomes of an update below it.
        action: Outlier,
    },
}

impl ScreenSection {
    /// Whether it gives updates weights.
    pub(super) const fn weighs(&self) -> bool {
        matches!(self, Self::NormOutlier { action: Outlier::Weigh, .. } | Self::Cosine { action: Outlier::Weigh, .. })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScreenName {
    #[default]
    None,
    NormBound,
    NormOutlier,
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScreenAction {
    Clip,
    Reject,
    Weigh,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawScreen {
    pub kind: ScreenName,
    pub max_norm_ratio: f64,
    pub measure: Spread,
    pub max_deviations: f64,
    pub min_cosine: f64,
    pub action: Option<ScreenAction>,
}

impl Default for RawScreen {
    fn default() -> Self {
        Self {
            kind: ScreenName::None,
            max_norm_ratio: 3.0,
            measure: Spread::Mad,
            max_deviations: 3.5,
            min_cosine: 0.0,
            action: None,
        }
    }
}

impl RawScreen {
    pub(super) fn check(&self, cohort: u32, rules: &mut Rules) {
        let ratio = self.max_norm_ratio;
        rules.check(ratio >= 1.0 && ratio.is_finite(), "screen.max_norm_ratio", || {
            format!("found {ratio}; allowed: 1 or above (half of the updates are as long as the median or longer)")
        });
        rules.positive("screen.max_deviations", self.max_deviations);
        let cosine = self.min_cosine;
        rules.check((-1.0..1.0).contains(&cosine), "screen.min_cosine", || {
            format!("found {cosine}; allowed: from -1 to below 1")
        });
        rules.check(self.kind == ScreenName::None || cohort >= 3, "screen.kind", || {
            format!("found {:?} with federation.cohort = {cohort}; allowed: \"none\", or a cohort of 3 or more (the median of fewer is no measure)", self.kind.name())
        });
        let (refused, allowed) = match self.kind {
            ScreenName::NormBound => (ScreenAction::Weigh, "\"clip\", \"reject\""),
            _ => (ScreenAction::Clip, "\"reject\", \"weigh\""),
        };
        let is_refused = self.kind != ScreenName::None && self.action == Some(refused);
        rules.check(!is_refused, "screen.action", || {
            let found = format!("{refused:?}").to_lowercase();
            format!("found {found:?} with screen.kind = {:?}; allowed: {allowed}", self.kind.name())
        });
    }

    pub(super) fn resolve(&self) -> Option<ScreenSection> {
        let outlier = if self.action == Some(ScreenAction::Weigh) { Outlier::Weigh } else { Outlier::Reject };
        Some(match self.kind {
            ScreenName::None => return None,
            ScreenName::NormBound => ScreenSection::NormBound {
                max_norm_ratio: self.max_norm_ratio,
                action: if self.action == Some(ScreenAction::Reject) { Excess::Reject } else { Excess::Clip },
            },
            ScreenName::NormOutlier => ScreenSection::NormOutlier {
                measure: self.measure,
                max_deviations: self.max_deviations,
                action: outlier,
            },
            ScreenName::Cosine => ScreenSection::Cosine { min_cosine: self.min_cosine, action: outlier },
        })
    }
}

impl ScreenName {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NormBound => "norm_bound",
            Self::NormOutlier => "norm_outlier",
            Self::Cosine => "cosine",
        }
    }
}
