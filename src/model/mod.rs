//! Checkpoints, tokenizer, chat templates, the transformer, generation and scoring.

mod attention;
mod attention_heads;
mod base_model;
mod chat_model;
mod chat_template;
mod checkpoint;
pub mod config;
mod design;
pub mod device;
mod error;
mod features;
mod flash;
mod frozen;
mod gate;
mod generation;
mod gguf;
mod head;
mod huggingface;
mod kv_cache;
mod linear;
mod memory;
mod norm;
mod packing;
pub(crate) mod parallel;
mod replicas;
mod rope;
mod sampling;
pub(crate) mod scoring;
mod tokenizer;
pub(crate) mod transformer;

pub use base_model::BaseModel;
pub use chat_model::{Asked, ChatModel, Decoding, Reply};
pub use checkpoint::{Checkpoint, FileDigest};
pub use config::{Llama3RopeScaling, ModelConfig, RopeScaling, YarnRopeScaling};
pub use design::{Activation, Design, EmbeddingScale, Family, SlidingAttention, Span};
pub use device::{Portions, Precision, init_backend};
pub use error::ModelError;
pub use features::{Features, mean_hidden};
pub use frozen::{NumberFormat, Quantization};
pub(crate) use generation::answering::Questions;
pub use generation::{FinishReason, Generated, GenerationSettings, generate};
pub(crate) use head::{Predictions, ResponseLoss};
pub use memory::Work;
pub(crate) use memory::within_memory;
pub(crate) use packing::PackedRows;
pub use replicas::{Replica, Replicas};
pub(crate) use scoring::score_side_by_side;
pub use scoring::{RowScore, score};
pub use tokenizer::{ChatTokenizer, RowEnd};

pub(crate) type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Where a checkpoint's tensors come from: a GGUF file or safetensors files.
pub trait WeightSource {
    /// The tensor `name` (Hugging Face's names, for example `model.layers.0.self_attn.q_proj.weight`) on the
    /// CPU, in `f32` or `bf16`, rotate-half order for Q and K.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if it is missing or its shape is not `shape`.
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<tch::Tensor, ModelError>;
}

/// A chat row as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedRow {
    /// The whole conversation.
    pub ids: Vec<u32>,
    /// Where the response begins; the loss is computed on `ids[response_start..]`, closing token included.
    pub response_start: usize,
}

impl TokenizedRow {
    /// Tokens that the loss is computed on.
    pub fn response_tokens(&self) -> usize {
        self.ids.len() - self.response_start
    }
}
