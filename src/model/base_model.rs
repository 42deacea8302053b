//! The frozen weights of a Llama-family model.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::{ModelConfig, ModelError, Precision, Result, WeightSource};

/// A frozen model on one device. All computing threads share its weights.
#[derive(Debug)]
pub struct BaseModel {
    config: ModelConfig,
    device: Device,
    kind: Kind,
    // A tensor may move between threads but not be shared by them, so each call takes shallow clones from here.
    weights: Mutex<Weights>,
}

/// The weights, fused where layers read the same input.
#[derive(Debug)]
pub(crate) struct Weights {
    /// # Shapes
    ///
    /// `[vocab_size, hidden_size]`
    pub(crate) embedding: Tensor,
    pub(crate) layers: Vec<LayerWeights>,
    /// # Shapes
    ///
    /// `[hidden_size]`
    pub(crate) norm: Tensor,
    /// # Shapes
    ///
    /// `[vocab_size, hidden_size]`; the embedding itself if the head is tied.
    pub(crate) head: Tensor,
}

/// The weights of one transformer block, each linear one as `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attention_norm: Tensor,
    /// Queries, keys and values, one above the other.
    pub(crate) qkv: Tensor,
    pub(crate) output: Tensor,
    pub(crate) mlp_norm: Tensor,
    /// Gate and up projections, one above the other.
    pub(crate) gate_up: Tensor,
    pub(crate) down: Tensor,
}

impl Weights {
    fn shallow_clone(&self) -> Self {
        Self {
            embedding: self.embedding.shallow_clone(),
            layers: self.layers.iter().map(LayerWeights::shallow_clone).collect(),
            norm: self.norm.shallow_clone(),
            head: self.head.shallow_clone(),
        }
    }
}

impl LayerWeights {
    fn shallow_clone(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.shallow_clone(),
            qkv: self.qkv.shallow_clone(),
            output: self.output.shallow_clone(),
            mlp_norm: self.mlp_norm.shallow_clone(),
            gate_up: self.gate_up.shallow_clone(),
            down: self.down.shallow_clone(),
        }
    }
}

impl BaseModel {
    /// Reads all weights of a model onto `device`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] if the architecture is inconsistent; what `weights` returns if a tensor is missing.
    pub fn load(config: ModelConfig, weights: &dyn WeightSource, device: Device, precision: Precision) -> Result<Self> {
        check(&config)?;
        let kind = precision.kind();
        let _no_grad = tch::no_grad_guard();
        let place = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_to_kind(kind)?.f_to_device(device)?) };
        let read = |name: &str, shape: &[i64]| -> Result<Tensor> { place(&weights.tensor(name, shape)?) };
        let table = [config.vocab_size, config.hidden_size];
        let embedding = read("model.embed_tokens.weight", &table)?;
        let head = if config.tie_word_embeddings { embedding.shallow_clone() } else { read("lm_head.weight", &table)? };
        let layers =
            (0..config.num_hidden_layers).map(|layer| read_layer(&config, layer, &read)).collect::<Result<_>>()?;
        let norm = read("model.norm.weight", &[config.hidden_size])?;
        let weights = Mutex::new(Weights { embedding, layers, norm, head });
        Ok(Self { config, device, kind, weights })
    }

    /// The architecture.
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub const fn device(&self) -> Device {
        self.device
    }

    /// How weights and activations are stored, for people.
    pub const fn precision(&self) -> Precision {
        if matches!(self.kind, Kind::BFloat16) { Precision::Bf16 } else { Precision::F32 }
    }

    /// How weights and activations are stored.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Handles to the weights for one thread. They alias the model's: read only.
    pub(crate) fn weights(&self) -> Weights {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner).shallow_clone()
    }
}

fn read_layer(
    config: &ModelConfig,
    layer: usize,
    read: &dyn Fn(&str, &[i64]) -> Result<Tensor>,
) -> Result<LayerWeights> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let query = config.num_attention_heads * config.head_dim;
    let key = config.num_key_value_heads * config.head_dim;
    let linear = |name: &str, outputs: i64, inputs: i64| {
        read(&format!("model.layers.{layer}.{name}.weight"), &[outputs, inputs])
    };
    let norm = |name: &str| read(&format!("model.layers.{layer}.{name}.weight"), &[hidden]);
    let (q, k, v) = (
        linear("self_attn.q_proj", query, hidden)?,
        linear("self_attn.k_proj", key, hidden)?,
        linear("self_attn.v_proj", key, hidden)?,
    );
    let (gate, up) = (linear("mlp.gate_proj", inner, hidden)?, linear("mlp.up_proj", inner, hidden)?);
    Ok(LayerWeights {
        attention_norm: norm("input_layernorm")?,
        qkv: Tensor::f_cat(&[q, k, v], 0)?,
        output: linear("self_attn.o_proj", hidden, query)?,
        mlp_norm: norm("post_attention_layernorm")?,
        gate_up: Tensor::f_cat(&[gate, up], 0)?,
        down: linear("mlp.down_proj", hidden, inner)?,
    })
}

fn check(config: &ModelConfig) -> Result<()> {
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_hidden_layers", config.num_hidden_layers as i64),
        ("num_attention_heads", config.num_attention_heads),
        ("num_key_value_heads", config.num_key_value_heads),
        ("head_dim", config.head_dim),
    ];
    if let Some((name, size)) = sizes.into_iter().find(|&(_, size)| size < 1) {
        return Err(ModelError::Unusable(format!("{name} is {size}; it must be at least 1")));
    }
    if config.num_attention_heads % config.num_key_value_heads != 0 {
        return Err(ModelError::Unusable(format!(
            "num_attention_heads ({}) is not a multiple of num_key_value_heads ({})",
            config.num_attention_heads, config.num_key_value_heads
        )));
    }
    if config.head_dim % 2 != 0 {
        return Err(ModelError::Unusable(format!(
            "head_dim is {}; rotary embeddings need an even one",
            config.head_dim
        )));
    }
    Ok(())
}
