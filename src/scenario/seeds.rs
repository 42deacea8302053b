//! `seed` and `[seeds]`: what random streams come from, as one or apart.

use serde::{Deserialize, Serialize};

/// Seeds of their own; what has none goes by the scenario's `seed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seeds {
    /// Of rows: which there are, who holds them, what defences are fitted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<u64>,
    /// Of training: initial adapters, cohorts, the order of rows, Constitutional AI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<u64>,
    /// Of evaluation: which prompts are drawn, and how responses are sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<u64>,
    /// Of what goes wrong on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attack: Option<u64>,
}
