//! GGUF files (version 2 and 3, little-endian): header, metadata, and the llama architecture's tensors.
//!
//! A file is memory-mapped and its header is checked in full when it is opened; tensors are dequantized when asked for.

mod blocks;
mod config;
mod header;
mod tokenizer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use fedward_native::MappedFile;
use rayon::prelude::*;
use tch::Tensor;

use self::header::{Header, TensorEntry};
use super::{ModelConfig, ModelError, WeightSource, tokenizer::ChatTokenizer};

/// The tensors of a llama GGUF file.
pub(super) struct GgufWeights {
    path: PathBuf,
    file: MappedFile,
    header: Header,
    config: ModelConfig,
}

impl GgufWeights {
    /// Opens the file at `path` and checks that it holds a llama model whole.
    pub(super) fn open(path: &Path) -> Result<(Self, ChatTokenizer), ModelError> {
        let file = MappedFile::open(path).map_err(ModelError::io(path))?;
        let invalid = |problem| ModelError::invalid(path, problem);
        let header = Header::parse(&file).map_err(invalid)?;
        let config = config::model_config(&header, &file).map_err(invalid)?;
        let found = header
            .tensors
            .iter()
            .filter(|(name, _)| *name != config::ROPE_FACTORS)
            .map(|(name, entry)| (hugging_face_name(name).unwrap_or_else(|| name.clone()), entry.shape.clone()))
            .collect::<BTreeMap<_, _>>();
        config.check_tensors(found).map_err(invalid)?;
        let tokenizer = tokenizer::chat_tokenizer(&header, path, config.vocab_size)?;
        Ok((Self { path: path.to_path_buf(), file, header, config }, tokenizer))
    }

    /// The resolved architecture.
    pub(super) const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Heads of a matrix whose rows GGUF keeps in interleaved rotary order.
    fn interleaved_heads(&self, gguf_name: &str) -> Option<i64> {
        if gguf_name.ends_with(".attn_q.weight") {
            Some(self.config.num_attention_heads)
        } else if gguf_name.ends_with(".attn_k.weight") {
            Some(self.config.num_key_value_heads)
        } else {
            None
        }
    }

    fn dequantize(&self, gguf_name: &str, entry: &TensorEntry) -> Vec<f32> {
        let width = entry.shape.last().map_or(1, |&width| width as usize);
        let row_bytes = entry.kind.row_bytes(width);
        let head_dim = self.config.head_dim as usize;
        let interleaved = self.interleaved_heads(gguf_name).is_some();
        // The header was checked against the file's length.
        let data = &self.file[entry.range.clone()];
        let mut values = vec![0.0; entry.len()];
        values.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            let source = if interleaved { interleaved_row(row, head_dim) } else { row };
            entry.kind.dequantize(&data[source * row_bytes..(source + 1) * row_bytes], out);
        });
        values
    }
}

impl WeightSource for GgufWeights {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let missing = || ModelError::invalid(&self.path, format!("tensor {name} of shape {shape:?} is missing"));
        let gguf_name = gguf_name(name).ok_or_else(missing)?;
        let entry = self.header.tensors.get(&gguf_name).ok_or_else(missing)?;
        if entry.shape != shape {
            let problem = format!("tensor {gguf_name}: found shape {:?}, expected {shape:?}", entry.shape);
            return Err(ModelError::invalid(&self.path, problem));
        }
        let values = self.dequantize(&gguf_name, entry);
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
    }
}

/// Where a row of rotate-half order lies in interleaved order: within a head, row `half · head_dim/2 + i` is row `2i + half`.
const fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, index) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * index + half
}

/// Names outside the layers, as Hugging Face and as GGUF write them.
const GLOBAL_NAMES: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Names inside a layer, as Hugging Face and as GGUF write them.
const LAYER_NAMES: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

fn gguf_name(hugging_face: &str) -> Option<String> {
    let stem = hugging_face.strip_suffix(".weight")?;
    if let Some((_, gguf)) = GLOBAL_NAMES.iter().find(|(name, _)| *name == stem) {
        return Some(format!("{gguf}.weight"));
    }
    let (layer, rest) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, gguf) = LAYER_NAMES.iter().find(|(name, _)| *name == rest)?;
    Some(format!("blk.{layer}.{gguf}.weight"))
}

fn hugging_face_name(gguf: &str) -> Option<String> {
    let stem = gguf.strip_suffix(".weight")?;
    if let Some((name, _)) = GLOBAL_NAMES.iter().find(|(_, gguf)| *gguf == stem) {
        return Some(format!("{name}.weight"));
    }
    let (layer, rest) = stem.strip_prefix("blk.")?.split_once('.')?;
    let (name, _) = LAYER_NAMES.iter().find(|(_, gguf)| *gguf == rest)?;
    Some(format!("model.layers.{layer}.{name}.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_both_ways() {
        for name in ["model.embed_tokens.weight", "lm_head.weight", "model.layers.17.self_attn.o_proj.weight"] {
            let gguf = gguf_name(name).unwrap();
            assert_eq!(hugging_face_name(&gguf).unwrap(), name);
        }
        assert_eq!(gguf_name("model.layers.3.mlp.down_proj.weight").unwrap(), "blk.3.ffn_down.weight");
        assert_eq!(gguf_name("model.layers.3.mlp.down_proj.bias"), None);
    }

    #[test]
    fn interleaved_rows_of_a_head_are_its_even_then_its_odd_rows() {
        let rows: Vec<_> = (0..8).map(|row| interleaved_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
