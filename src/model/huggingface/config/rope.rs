//! How rotary embeddings are stretched.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::{Llama3RopeScaling, RopeScaling, YarnRopeScaling};

/// The kinds of layers that may rotate differently.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// One rotation for all layers, or one for each kind.
#[derive(Deserialize)]
#[serde(try_from = "Map<String, Value>")]
#[expect(clippy::large_enum_variant, reason = "one value a file, gone once it is read")]
pub(super) enum RopeParametersJson {
    PerKind { full_attention: RopeJson, sliding_attention: RopeJson },
    One(RopeJson),
}

impl TryFrom<Map<String, Value>> for RopeParametersJson {
    type Error = String;

    fn try_from(mut json: Map<String, Value>) -> Result<Self, String> {
        let rope = |json: Value, key: &str| {
            serde_json::from_value(json).map_err(|error| format!("rope_parameters{key}: {error}"))
        };
        if !json.keys().any(|key| key.ends_with("_attention")) {
            return rope(Value::Object(json), "").map(Self::One);
        }
        let [full, sliding] = KINDS.map(|kind| json.remove(kind));
        if let Some(key) = json.keys().next() {
            return Err(format!("rope_parameters: found {key}; allowed for layers of two kinds: {}", KINDS.join(", ")));
        }
        let missing = |kind: &str| format!("rope_parameters.{kind} is missing; the other kind of layers has one");
        Ok(Self::PerKind {
            full_attention: rope(full.ok_or_else(|| missing(KINDS[0]))?, ".full_attention")?,
            sliding_attention: rope(sliding.ok_or_else(|| missing(KINDS[1]))?, ".sliding_attention")?,
        })
    }
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rotations_of_layers_of_two_kinds_are_both_there_or_refused_by_name() {
        let read =
            |value: Value| serde_json::from_value::<RopeParametersJson>(value).map_err(|error| error.to_string());
        let rope = json!({"rope_type": "default", "rope_theta": 1e6});
        assert!(matches!(read(rope.clone()), Ok(RopeParametersJson::One(_))));
        let both = read(json!({"full_attention": rope, "sliding_attention": rope}));
        assert!(matches!(both, Ok(RopeParametersJson::PerKind { .. })));
        for (wrong, expected) in [
            (json!({"full_attention": rope}), "rope_parameters.sliding_attention is missing"),
            (json!({"sliding_attention": rope}), "rope_parameters.full_attention is missing"),
            (json!({"full_attention": rope, "sliding_attention": rope, "rope_theta": 1e4}), "found rope_theta"),
            (json!({"chunked_attention": rope}), "found chunked_attention"),
            (json!({"rope_theta": "high"}), "rope_parameters: invalid type: string \"high\""),
        ] {
            let error = read(wrong).err().unwrap_or_default();
            assert!(error.contains(expected), "{error}");
        }
    }
}
