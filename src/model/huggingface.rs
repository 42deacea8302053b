//! Hugging Face directories: `config.json`, safetensors, `tokenizer.json` and `tokenizer_config.json`.

mod config;
mod tokenizer;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use fedward_native::MappedFile;
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};
use serde::{Deserialize, de::DeserializeOwned};
use tch::{Kind, Tensor};

use super::{ModelConfig, ModelError, WeightSource, tokenizer::ChatTokenizer};
use crate::store::read_regular_text;

const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The tensors of a directory's safetensors files.
pub(super) struct SafetensorsWeights {
    shards: Vec<Shard>,
    /// Index of the shard that holds a tensor.
    holders: HashMap<String, usize>,
    directory: PathBuf,
}

struct Shard {
    path: PathBuf,
    file: MappedFile,
    /// Where the numbers begin.
    data_start: usize,
    metadata: Metadata,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct WeightsIndex {
    weight_map: BTreeMap<String, String>,
}

/// Opens the directory at `path` and checks that it holds a `LlamaForCausalLM` whole.
pub(super) fn open(path: &Path) -> Result<(ModelConfig, SafetensorsWeights, ChatTokenizer), ModelError> {
    let (mut config, stop_ids) = config::read(path)?;
    let weights = SafetensorsWeights::open(path, &config)?;
    weights.untie_if_diverged(&mut config)?;
    let tokenizer = tokenizer::read(path, stop_ids, config.vocab_size)?;
    Ok((config, weights, tokenizer))
}

/// The files of a directory that determine what the model does, in alphabetical order.
pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let mut paths = BTreeSet::new();
    for name in [config::CONFIG, config::GENERATION_CONFIG, tokenizer::TOKENIZER, tokenizer::TOKENIZER_CONFIG] {
        paths.insert(directory.join(name));
    }
    paths.insert(directory.join(tokenizer::TEMPLATE));
    if tokenizer::reads_special_tokens_map(directory)? {
        paths.insert(directory.join(tokenizer::SPECIAL_TOKENS_MAP));
    }
    paths.extend(shard_paths(directory)?);
    Ok(paths.into_iter().filter(|path| path.exists()).collect())
}

impl SafetensorsWeights {
    fn open(directory: &Path, config: &ModelConfig) -> Result<Self, ModelError> {
        let shards = shard_paths(directory)?.into_iter().map(Shard::open).collect::<Result<Vec<_>, _>>()?;
        let mut holders = HashMap::new();
        let mut found = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for (name, info) in shard.metadata.tensors() {
                found.insert(name.clone(), info.shape.iter().map(|&size| size as i64).collect());
                if let Some(other) = holders.insert(name.clone(), index) {
                    let problem = format!("tensor {name} is also in {}", shards[other].path.display());
                    return Err(ModelError::invalid(&shard.path, problem));
                }
            }
        }
        let named = if shards.len() == 1 { &shards[0].path } else { directory };
        config.check_tensors(found).map_err(|problem| ModelError::invalid(named, problem))?;
        let weights = Self { shards, holders, directory: directory.to_path_buf() };
        weights.check_types(config)?;
        Ok(weights)
    }

    fn check_types(&self, config: &ModelConfig) -> Result<(), ModelError> {
        for (name, _) in config.tensors() {
            let (shard, info) = self.find(&name)?;
            shard.kind(&name, info.dtype)?;
        }
        Ok(())
    }

    /// Gives a model a head of its own where its configuration ties the head to the embedding and the files hold another
    /// one, as merging leaves them once both were trained. `transformers` (version 5) does so, too.
    fn untie_if_diverged(&self, config: &mut ModelConfig) -> Result<(), ModelError> {
        if !config.tie_word_embeddings || !self.holders.contains_key(HEAD) || self.agree(EMBEDDING, HEAD)? {
            return Ok(());
        }
        config.tie_word_embeddings = false;
        self.check_types(config)?;
        tracing::warn!(
            model = %self.directory.display(),
            "{}: tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}: they are not tied, and {HEAD} is used; set \
             it to false to silence this",
            config::CONFIG
        );
        Ok(())
    }

    /// Whether two tensors hold the same numbers.
    fn agree(&self, one: &str, other: &str) -> Result<bool, ModelError> {
        let ((shard, info), (other_shard, other_info)) = (self.find(one)?, self.find(other)?);
        if info.shape != other_info.shape {
            return Ok(false);
        }
        if info.dtype == other_info.dtype {
            return Ok(shard.bytes(info) == other_shard.bytes(other_info));
        }
        let shape: Vec<_> = info.shape.iter().map(|&size| size as i64).collect();
        let read =
            |name: &str| -> Result<Tensor, ModelError> { Ok(self.tensor(name, &shape)?.f_to_kind(Kind::Float)?) };
        Ok(read(one)?.f_equal(&read(other)?)?)
    }

    fn find(&self, name: &str) -> Result<(&Shard, &TensorInfo), ModelError> {
        let shard = self.holders.get(name).map(|&index| &self.shards[index]);
        shard
            .and_then(|shard| Some((shard, shard.metadata.info(name)?)))
            .ok_or_else(|| ModelError::invalid(&self.directory, format!("tensor {name} is missing")))
    }
}

impl WeightSource for SafetensorsWeights {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let (shard, info) = self.find(name)?;
        if !info.shape.iter().map(|&size| size as i64).eq(shape.iter().copied()) {
            let problem = format!("tensor {name}: found shape {:?}, expected {shape:?}", info.shape);
            return Err(ModelError::invalid(&shard.path, problem));
        }
        let kind = shard.kind(name, info.dtype)?;
        let tensor = Tensor::f_from_data_size(shard.bytes(info), shape, kind)?;
        Ok(if kind == Kind::Half { tensor.f_to_kind(Kind::Float)? } else { tensor })
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, ModelError> {
        let file = MappedFile::open(&path).map_err(ModelError::io(&path))?;
        let (header_len, metadata) = SafeTensors::read_metadata(&file)
            .map_err(|error| ModelError::invalid(&path, format!("not a whole safetensors file: {error}")))?;
        // The header's length is written before it in eight bytes.
        Ok(Self { data_start: 8 + header_len, file, metadata, path })
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let (start, end) = info.data_offsets;
        // The library has checked the offsets against the file's length and the shape.
        &self.file[self.data_start + start..self.data_start + end]
    }

    fn kind(&self, name: &str, dtype: Dtype) -> Result<Kind, ModelError> {
        match dtype {
            Dtype::F32 => Ok(Kind::Float),
            Dtype::F16 => Ok(Kind::Half),
            Dtype::BF16 => Ok(Kind::BFloat16),
            other => {
                let problem = format!("tensor {name}: found type {other:?}, allowed: F32, F16, BF16");
                Err(ModelError::invalid(&self.path, problem))
            }
        }
    }
}

fn shard_paths(directory: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = directory.join(WEIGHTS);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index_path = directory.join(WEIGHTS_INDEX);
    if !index_path.exists() {
        let problem = format!("neither {WEIGHTS} nor {WEIGHTS_INDEX} is there; other weight formats are not read");
        return Err(ModelError::invalid(directory, problem));
    }
    let index: WeightsIndex = read_json(&index_path)?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    names
        .into_iter()
        .map(|name| match Path::new(&name).file_name() {
            Some(file) if file == name.as_str() => Ok(directory.join(file)),
            _ => Err(ModelError::invalid(&index_path, format!("weight_map: {name:?} is not a file name"))),
        })
        .collect()
}

/// Reads a JSON file; errors name the key.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let text = read_regular_text(path).map_err(ModelError::io(path))?;
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let key = error.path().to_string();
        let problem = error.into_inner();
        ModelError::invalid(path, if key == "." { problem.to_string() } else { format!("{key}: {problem}") })
    })
}

/// Reads a JSON file that may be absent.
fn read_optional_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ModelError> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}
