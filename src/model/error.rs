//! What can be wrong with a model.

use std::path::{Path, PathBuf};

use super::memory::{Work, remedy, wanted_memory};

/// Why a model cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Key, found, expected, what to do.
        problem: String,
    },
    /// The arguments cannot be used with this model.
    #[error("{0}")]
    Unusable(String),
    /// One of several prompts cannot be continued.
    #[error("prompt {} of {of}: {problem}", index + 1)]
    Prompt {
        /// Which of them, from 0.
        index: usize,
        /// How many there are.
        of: usize,
        /// Found, allowed, what to do.
        problem: String,
    },
    /// A tensor operation failed.
    #[error("libtorch: {0}")]
    Torch(tch::TchError),
    /// The device has not the memory that a tensor operation asked for.
    #[error("out of memory: {wanted} more could not be had; {}", remedy(*during))]
    OutOfMemory {
        /// How much that was.
        wanted: String,
        /// What it was asked for, where that is known.
        during: Option<Work>,
    },
    /// The cancel flag was raised.
    #[error("cancelled")]
    Cancelled,
}

impl ModelError {
    /// The content of `path` is not what it should be.
    pub(crate) fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_path_buf(), problem: problem.into() }
    }

    /// Says what memory ran out over, if it did and nobody has said it yet.
    pub(crate) fn during(self, work: Work) -> Self {
        match self {
            Self::OutOfMemory { wanted, during: None } => Self::OutOfMemory { wanted, during: Some(work) },
            other => other,
        }
    }

    /// Turns the operating system's error about `path` into this type.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        |source| Self::Io { path, source }
    }
}

impl From<tch::TchError> for ModelError {
    fn from(error: tch::TchError) -> Self {
        match wanted_memory(&error.to_string()) {
            Some(wanted) => Self::OutOfMemory { wanted, during: None },
            None => Self::Torch(error),
        }
    }
}

impl From<ModelError> for fedward_actors::ports::PortError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Cancelled => Self::Cancelled,
            other => Self::Failed(other.to_string()),
        }
    }
}
