//! A model on disk: architecture, tokenizer, weights.

use std::{
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use fedward_actors::protocol::hex;
use sha2::{Digest, Sha256};

use super::{ModelConfig, ModelError, WeightSource, gguf::GgufWeights, huggingface, tokenizer::ChatTokenizer};
use crate::store::open_regular;

/// A checkpoint whose files have been opened and checked; tensors are read when asked for.
pub struct Checkpoint {
    /// The architecture.
    pub config: ModelConfig,
    /// The tokenizer with its chat template.
    pub tokenizer: ChatTokenizer,
    /// Where the tensors come from.
    pub weights: Box<dyn WeightSource + Send + Sync>,
    path: PathBuf,
}

/// A file of a checkpoint, as manifests record it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256 in hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
}

impl Checkpoint {
    /// Opens a `.gguf` file or a Hugging Face directory.
    ///
    /// # Errors
    ///
    /// [`ModelError`] names the file and key that are missing, damaged or not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() {
            let (config, weights, tokenizer) = huggingface::open(path)?;
            return Ok(Self { config, tokenizer, weights: Box::new(weights), path: path.to_path_buf() });
        }
        if path.exists() && path.extension().is_none_or(|extension| extension != "gguf") {
            let problem = "neither a .gguf file nor a directory with config.json and model.safetensors";
            return Err(ModelError::invalid(path, problem));
        }
        let (weights, tokenizer) = GgufWeights::open(path)?;
        let config = weights.config().clone();
        Ok(Self { config, tokenizer, weights: Box::new(weights), path: path.to_path_buf() })
    }

    /// The file or directory that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Digests of all files that determine what the model does, in alphabetical order. Reads each file whole.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] if a file cannot be read.
    pub fn file_digests(&self) -> Result<Vec<FileDigest>, ModelError> {
        let paths = if self.path.is_dir() { huggingface::files(&self.path)? } else { vec![self.path.clone()] };
        paths.into_iter().map(|path| Ok(FileDigest { sha256: file_sha256(&path)?, path })).collect()
    }

    /// One digest of the checkpoint: of a file its SHA-256; of a directory the SHA-256 of what `sha256sum` prints for its
    /// files in alphabetical order. Reads each file whole.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] if a file cannot be read.
    pub fn sha256(&self) -> Result<String, ModelError> {
        let files = self.file_digests()?;
        if let ([file], false) = (files.as_slice(), self.path.is_dir()) {
            return Ok(file.sha256.clone());
        }
        let mut hash = Sha256::new();
        for file in files {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            hash.update(format!("{}  {name}\n", file.sha256));
        }
        Ok(hex(&hash.finalize()))
    }
}

fn file_sha256(path: &Path) -> Result<String, ModelError> {
    let mut file = BufReader::new(open_regular(path).map_err(ModelError::io(path))?);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(ModelError::io(path))?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}
