//! How rotary embeddings are stretched.

use serde::Deserialize;

use crate::model::{Llama3RopeScaling, RopeScaling, YarnRopeScaling};

#[derive(Deserialize)]
pub(super) struct RopeJson {
    rope_type: Option<String>,
    /// The name before `rope_type`.
    #[serde(rename = "type")]
    legacy_type: Option<String>,
    pub(super) rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    pub(super) partial_rotary_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
    truncate: Option<bool>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
}

impl RopeJson {
    /// Whether it is stretched, and how.
    pub(super) fn scaling(&self) -> Result<Option<RopeScaling>, String> {
        let kind = self.rope_type.as_deref().or(self.legacy_type.as_deref()).unwrap_or("default");
        let need = |key: &str, value: Option<f64>| {
            value.ok_or_else(|| format!("rope_scaling.{key} is missing, which rope_type {kind:?} needs"))
        };
        let factor = || need("factor", self.factor);
        let context = || need("original_max_position_embeddings", self.original_max_position_embeddings);
        match kind {
            "default" => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear { factor: factor()? })),
            "llama3" => Ok(Some(RopeScaling::Llama3(Llama3RopeScaling {
                factor: factor()?,
                low_freq_factor: need("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", self.high_freq_factor)?,
                original_max_position_embeddings: context()?,
            }))),
            "yarn" => {
                for (key, found) in [("mscale", self.mscale), ("mscale_all_dim", self.mscale_all_dim)] {
                    if let Some(found) = found {
                        return Err(format!("rope_scaling.{key}: found {found}, which is not supported"));
                    }
                }
                Ok(Some(RopeScaling::Yarn(YarnRopeScaling {
                    factor: factor()?,
                    original_max_position_embeddings: context()?,
                    beta_fast: self.beta_fast.unwrap_or(32.0),
                    beta_slow: self.beta_slow.unwrap_or(1.0),
                    attention_factor: self.attention_factor,
                    truncate: self.truncate.unwrap_or(true),
                })))
            }
            found => Err(format!(
                "rope_scaling.rope_type: found {found:?}, allowed: \"default\", \"linear\", \"llama3\", \"yarn\""
            )),
        }
    }
}
