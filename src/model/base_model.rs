//! The frozen weights of a model.

use std::sync::{Mutex, PoisonError};

use fedward_native::cuda::{self, OwnStream};
use tch::{Device, Kind, Tensor};

use super::{
    ModelConfig, ModelError, NumberFormat, Precision, Quantization, Result, WeightSource, Work, frozen::FrozenLinear,
    within_memory,
};

/// A frozen model on one device. All computing threads share its weights.
#[derive(Debug)]
pub struct BaseModel {
    config: ModelConfig,
    device: Device,
    kind: Kind,
    quantization: Option<Quantization>,
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
    pub(crate) qkv: FrozenLinear,
    /// Their biases, likewise.
    pub(crate) qkv_bias: Option<Tensor>,
    /// The norm of each query and key head.
    ///
    /// # Shapes
    ///
    /// `[queries + key_values, head_dim]`
    pub(crate) query_key_norm: Option<Tensor>,
    pub(crate) output: FrozenLinear,
    /// Behind attention.
    pub(crate) attention_post_norm: Option<Tensor>,
    pub(crate) mlp_norm: Tensor,
    /// Gate and up projections, one above the other.
    pub(crate) gate_up: FrozenLinear,
    pub(crate) down: FrozenLinear,
    /// Behind the MLP.
    pub(crate) mlp_post_norm: Option<Tensor>,
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
        let optional = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        Self {
            attention_norm: self.attention_norm.shallow_clone(),
            qkv: self.qkv.shallow_clone(),
            qkv_bias: optional(&self.qkv_bias),
            query_key_norm: optional(&self.query_key_norm),
            output: self.output.shallow_clone(),
            attention_post_norm: optional(&self.attention_post_norm),
            mlp_norm: self.mlp_norm.shallow_clone(),
            gate_up: self.gate_up.shallow_clone(),
            down: self.down.shallow_clone(),
            mlp_post_norm: optional(&self.mlp_post_norm),
        }
    }
}

impl BaseModel {
    /// Reads all weights of a model onto `device`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] if the architecture is inconsistent; what `weights` returns if a tensor is missing;
    /// [`ModelError::OutOfMemory`] if the device has no room for it.
    pub fn load(
        config: ModelConfig,
        weights: &dyn WeightSource,
        device: Device,
        format: impl Into<NumberFormat>,
    ) -> Result<Self> {
        check(&config)?;
        within_memory(|| Self::read(config, weights, device, format.into()))
            .map_err(|error| error.during(Work::Loading))
    }

    fn read(config: ModelConfig, weights: &dyn WeightSource, device: Device, format: NumberFormat) -> Result<Self> {
        let kind = format.precision.kind();
        let _no_autograd = fedward_native::no_autograd();
        let place = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_to_kind(kind)?.f_to_device(device)?) };
        let read = |name: &str, shape: &[i64]| -> Result<Tensor> { place(&weights.tensor(name, shape)?) };
        let offset = config.design.norm_offset;
        let read_norm = |name: &str, width: i64| -> Result<Tensor> {
            let stored = weights.tensor(name, &[width])?;
            if offset == 0.0 { place(&stored) } else { place(&stored.f_to_kind(Kind::Float)?.f_add_scalar(offset)?) }
        };
        let table = [config.vocab_size, config.hidden_size];
        let embedding = read("model.embed_tokens.weight", &table)?;
        let head = if config.tie_word_embeddings { embedding.shallow_clone() } else { read("lm_head.weight", &table)? };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let freeze = |weight: &Tensor| FrozenLinear::new(weight, format, device);
                LayerReader { config: &config, layer, weights, freeze: &freeze, read: &read, read_norm: &read_norm }
                    .read()
            })
            .collect::<Result<_>>()?;
        let norm = read_norm("model.norm.weight", config.hidden_size)?;
        let weights = Mutex::new(Weights { embedding, layers, norm, head });
        if let Device::Cuda(index) = device {
            // Tried out while there is memory for it.
            let _ = cuda::has_flash_attention(device);
            // Threads compute on streams of their own, which do not wait for one another.
            tch::Cuda::synchronize(index as i64);
        }
        Ok(Self { config, device, kind, quantization: format.quantization, weights })
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

    /// How the linear layers' weights are stored, if in fewer bits.
    pub const fn quantization(&self) -> Option<Quantization> {
        self.quantization
    }

    /// How weights and activations are stored.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Does what a piece of work `computes`: its operations record nothing, have a stream of the device for themselves, and say
    /// so if memory runs out. What it returns lies on the CPU.
    pub(crate) fn compute<T>(&self, work: Work, computes: impl FnOnce() -> Result<T>) -> Result<T> {
        let computed = within_memory(|| {
            let _recording = fedward_native::no_autograd();
            let _stream = OwnStream::take(self.device)?;
            computes()
        });
        computed.map_err(|error| error.during(work))
    }

    /// Handles to the weights for one thread. They alias the model's: read only.
    pub(crate) fn weights(&self) -> Weights {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner).shallow_clone()
    }
}

/// Reads one block.
struct LayerReader<'r> {
    config: &'r ModelConfig,
    layer: usize,
    weights: &'r dyn WeightSource,
    freeze: &'r dyn Fn(&Tensor) -> Result<FrozenLinear>,
    read: &'r dyn Fn(&str, &[i64]) -> Result<Tensor>,
    read_norm: &'r dyn Fn(&str, i64) -> Result<Tensor>,
}

impl LayerReader<'_> {
    fn read(&self) -> Result<LayerWeights> {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let query = config.num_attention_heads * config.head_dim;
        let key = config.num_key_value_heads * config.head_dim;
        let design = &config.design;
        let post_norms = design.post_norms;
        let (mlp_norm, attention_post_norm) = if post_norms {
            ("pre_feedforward_layernorm", Some("post_attention_layernorm"))
        } else {
            ("post_attention_layernorm", None)
        };
        let mlp_post_norm = post_norms.then_some("post_feedforward_layernorm");
        let norm = |name: &str| self.norm(name, hidden);
        Ok(LayerWeights {
            attention_norm: norm("input_layernorm")?,
            qkv: self.stacked(&[("q_proj", query), ("k_proj", key), ("v_proj", key)], hidden, "self_attn")?,
            qkv_bias: design.qkv_bias.then(|| self.qkv_bias(query, key)).transpose()?,
            query_key_norm: design.query_key_norm.then(|| self.query_key_norm()).transpose()?,
            output: self.stacked(&[("o_proj", hidden)], query, "self_attn")?,
            attention_post_norm: attention_post_norm.map(norm).transpose()?,
            mlp_norm: norm(mlp_norm)?,
            gate_up: self.stacked(&[("gate_proj", inner), ("up_proj", inner)], hidden, "mlp")?,
            down: self.stacked(&[("down_proj", hidden)], inner, "mlp")?,
            mlp_post_norm: mlp_post_norm.map(norm).transpose()?,
        })
    }

    fn name(&self, rest: &str) -> String {
        format!("model.layers.{}.{rest}", self.layer)
    }

    fn norm(&self, name: &str, width: i64) -> Result<Tensor> {
        (self.read_norm)(&self.name(&format!("{name}.weight")), width)
    }

    /// Matrices with the same input, one above the other.
    fn stacked(&self, parts: &[(&str, i64)], inputs: i64, block: &str) -> Result<FrozenLinear> {
        let read = |&(name, outputs): &(&str, i64)| {
            self.weights.tensor(&self.name(&format!("{block}.{name}.weight")), &[outputs, inputs])
        };
        let parts = parts.iter().map(read).collect::<Result<Vec<_>>>()?;
        (self.freeze)(&Tensor::f_cat(&parts, 0)?)
    }

    fn qkv_bias(&self, query: i64, key: i64) -> Result<Tensor> {
        let read = |(name, width)| (self.read)(&self.name(&format!("self_attn.{name}.bias")), &[width]);
        let parts = [("q_proj", query), ("k_proj", key), ("v_proj", key)].map(read);
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    fn query_key_norm(&self) -> Result<Tensor> {
        let width = self.config.head_dim;
        let of_heads = |name: &str, heads: i64| -> Result<Tensor> {
            Ok(self.norm(&format!("self_attn.{name}"), width)?.f_view([1, width])?.f_repeat([heads, 1])?)
        };
        let query = of_heads("q_norm", self.config.num_attention_heads)?;
        let key = of_heads("k_norm", self.config.num_key_value_heads)?;
        Ok(Tensor::f_cat(&[query, key], 0)?)
    }
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
