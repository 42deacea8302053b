//! A scenario file as it is written: every key optional, unknown keys refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::lora::Target;

/// The whole file, one variant merged into it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    pub name: String,
    pub question: String,
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub model: RawModel,
    #[serde(default)]
    pub lora: RawLora,
    #[serde(default)]
    pub start: RawStart,
    #[serde(default)]
    pub federation: RawFederation,
    #[serde(default)]
    pub data: RawData,
    #[serde(default)]
    pub training: RawTraining,
    #[serde(default)]
    pub guard: RawGuard,
    #[serde(default)]
    pub cai: RawCai,
    #[serde(default)]
    pub evaluation: RawEvaluation,
}

/// Where tensors are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceName {
    /// CUDA where there is a device, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// In which numbers the base model is computed; adapters are always `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionName {
    /// `bf16` on CUDA, `f32` on the CPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
}

/// How rows are spread over clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionName {
    /// Every client draws from all rows alike.
    #[default]
    Iid,
    /// Each client's topics are drawn from a Dirichlet distribution.
    Topic,
}

/// Which clients hold harmful rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HarmfulClients {
    /// Every client.
    All,
    /// Only the given number of clients.
    Count(u32),
}

impl Serialize for HarmfulClients {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

impl<'de> Deserialize<'de> for HarmfulClients {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        match &value {
            toml::Value::String(text) if text == "all" => Some(Self::All),
            toml::Value::Integer(count) => u32::try_from(*count).ok().map(Self::Count),
            _ => None,
        }
        .ok_or_else(|| serde::de::Error::custom(format!("found {value}; allowed: \"all\" or a number of clients")))
    }
}

/// What counts as a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatcherName {
    /// OpenFedLLM's 35 strings, anywhere, whatever the case.
    #[default]
    Openfedllm,
    /// llm-attacks' 7 strings.
    LlmAttacks7,
    /// llm-attacks' 10 strings.
    LlmAttacks10,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawModel {
    pub base: String,
    pub device: DeviceName,
    pub precision: PrecisionName,
}

impl Default for RawModel {
    fn default() -> Self {
        Self { base: "smollm2-135m-instruct".into(), device: DeviceName::Auto, precision: PrecisionName::Auto }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLora {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: Vec<Target>,
    pub use_rslora: bool,
}

impl Default for RawLora {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, dropout: 0.0, targets: vec![Target::QProj, Target::VProj], use_rslora: false }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartName {
    #[default]
    Fresh,
    Adapter,
    Aligned,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStart {
    pub kind: StartName,
    pub path: Option<PathBuf>,
    pub refusal_share: f64,
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

impl Default for RawStart {
    fn default() -> Self {
        Self { kind: StartName::Fresh, path: None, refusal_share: 0.5, steps: 60, batch_size: 16, learning_rate: 5e-4 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFederation {
    pub clients: u32,
    pub cohort: u32,
    pub rounds: u32,
    pub quorum: u32,
    pub max_attempts: u32,
    pub client_timeout_seconds: u64,
    pub strategy: String,
    pub sampler: SamplerName,
    pub slots: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SamplerName {
    #[default]
    Seeded,
    Openfedllm,
}

impl Default for RawFederation {
    fn default() -> Self {
        Self {
            clients: 20,
            cohort: 5,
            rounds: 10,
            quorum: 1,
            max_attempts: 2,
            client_timeout_seconds: 3600,
            strategy: "fedavg".into(),
            sampler: SamplerName::Seeded,
            slots: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawData {
    pub rows_per_client: usize,
    pub harmful_share: f64,
    pub harmful_clients: HarmfulClients,
    pub benign: RawSource,
    pub harmful: RawSource,
    pub partition: PartitionName,
    pub topic_alpha: f64,
}

impl Default for RawData {
    fn default() -> Self {
        Self {
            rows_per_client: 100,
            harmful_share: 0.0,
            harmful_clients: HarmfulClients::All,
            benign: RawSource { source: "everyday".into(), format: None },
            harmful: RawSource { source: "advbench".into(), format: None },
            partition: PartitionName::Iid,
            topic_alpha: 0.5,
        }
    }
}

/// `source = "everyday"`, `"advbench"` or a path.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub source: String,
    #[serde(default)]
    pub format: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTraining {
    pub local_steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub max_length: usize,
}

impl Default for RawTraining {
    fn default() -> Self {
        Self {
            local_steps: 10,
            batch_size: 16,
            learning_rate: 5e-4,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            max_length: 512,
        }
    }
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScheduleName {
    #[default]
    Never,
    Every,
    LastRound,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCai {
    pub schedule: ScheduleName,
    pub every: u32,
    pub red_prompts: usize,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub benign_share: f64,
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

impl Default for RawCai {
    fn default() -> Self {
        Self {
            schedule: ScheduleName::Never,
            every: 1,
            red_prompts: 32,
            max_new_tokens: 48,
            temperature: 0.0,
            benign_share: 0.25,
            steps: 10,
            batch_size: 8,
            learning_rate: 5e-4,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEvaluation {
    pub schedule: ScheduleName,
    pub every: u32,
    pub prompts: usize,
    pub interim_prompts: usize,
    pub utility_rows: usize,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub matcher: MatcherName,
}

impl Default for RawEvaluation {
    fn default() -> Self {
        Self {
            schedule: ScheduleName::LastRound,
            every: 1,
            prompts: 64,
            interim_prompts: 32,
            utility_rows: 48,
            max_new_tokens: 40,
            temperature: 0.0,
            matcher: MatcherName::Openfedllm,
        }
    }
}
