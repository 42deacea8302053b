//! Which matrices get an adapter, and of which size.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use fedward_actors::protocol::AdapterLayout;
use serde::{Deserialize, Serialize};

use crate::model::ModelConfig;

/// Largest rank of a new adapter; one that is mistyped is not to fill the memory.
pub const MOST_RANK: usize = 4096;

/// A linear layer that can be adapted, in the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of checkpoints")]
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The checkpoint's name, for example `q_proj`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The block that holds it: `self_attn` or `mlp`.
    pub const fn block(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }

    /// Input and output width in a model of `config`.
    pub const fn widths(self, config: &ModelConfig) -> (i64, i64) {
        let query = config.num_attention_heads * config.head_dim;
        let key_value = config.num_key_value_heads * config.head_dim;
        match self {
            Self::QProj => (config.hidden_size, query),
            Self::KProj | Self::VProj => (config.hidden_size, key_value),
            Self::OProj => (query, config.hidden_size),
            Self::GateProj | Self::UpProj => (config.hidden_size, config.intermediate_size),
            Self::DownProj => (config.intermediate_size, config.hidden_size),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|target| target.name() == text).ok_or_else(|| {
            let allowed: Vec<_> = Self::ALL.iter().map(|target| target.name()).collect();
            format!("unknown target {text:?}; allowed: {}", allowed.join(", "))
        })
    }
}

/// Size and place of the adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// Numerator of the scaling.
    pub alpha: f64,
    /// Share of A's inputs that training zeroes.
    pub dropout: f64,
    /// Adapted layers.
    pub targets: BTreeSet<Target>,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank` (Kalajdzievski, 2023).
    pub use_rslora: bool,
}

impl LoraConfig {
    /// What `B A x` is multiplied by.
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The tensors of an adapter for a model of `model`: layer by layer, target by target, A before B, under PEFT's
    /// names.
    pub fn layout(&self, model: &ModelConfig) -> Arc<AdapterLayout> {
        let mut tensors = Vec::new();
        for layer in 0..model.num_hidden_layers {
            for &target in &self.targets {
                let (inputs, outputs) = target.widths(model);
                let prefix = format!("base_model.model.model.layers.{layer}.{}.{target}", target.block());
                tensors.push((format!("{prefix}.lora_A.weight"), [self.rank, inputs as usize]));
                tensors.push((format!("{prefix}.lora_B.weight"), [outputs as usize, self.rank]));
            }
        }
        Arc::new(AdapterLayout::new(tensors).with_scaling(self.scaling()))
    }
}
