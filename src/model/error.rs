//! What can be wrong with a model.

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

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
    /// A tensor operation failed.
    #[error("libtorch: {0}")]
    Torch(tch::TchError),
    /// The device has not the memory that a tensor operation asked for.
    #[error("out of memory: {wanted} more could not be had; {remedy}")]
    OutOfMemory {
        /// How much that was.
        wanted: String,
        /// What to do.
        remedy: String,
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

    /// Says what to lower if training ran out of memory.
    pub(crate) fn in_training(self, pass_tokens: usize) -> Self {
        let Self::OutOfMemory { wanted, .. } = self else { return self };
        let remedy = format!(
            "lower training.pass_tokens (now {pass_tokens}; tune: --pass-tokens), set training.checkpoint_activations = \
             true (tune: --checkpoint-activations), cut rows by training.max_length, or let fewer clients compute at once \
             by federation.slots"
        );
        Self::OutOfMemory { wanted, remedy }
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
            Some(wanted) => {
                let remedy = "let less be computed at once: shorter rows, fewer new tokens, smaller batches, fewer \
                              federation.slots, or model.precision = \"bf16\" (--dtype bf16)";
                Self::OutOfMemory { wanted, remedy: remedy.to_owned() }
            }
            None => Self::Torch(error),
        }
    }
}

/// Does `work`, and returns [`ModelError::OutOfMemory`] also where the tensor library panics for want of memory: it does so
/// when an operation that takes a number beside tensors fails, before it could return the error. Any other panic goes on.
pub(crate) fn within_memory<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let complaint = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        match wanted_memory(&complaint) {
            Some(_) => Err(tch::TchError::Torch(complaint).into()),
            None => std::panic::resume_unwind(panic),
        }
    })
}

/// How much memory an allocation asked for in vain, if that is what libtorch complains of.
fn wanted_memory(complaint: &str) -> Option<String> {
    let complains = ["can't allocate memory", "out of memory", "std::bad_alloc", "STATUS_ALLOC_FAILED"];
    complains.iter().any(|text| complaint.contains(text)).then(|| {
        let amount = complaint.split("ried to allocate ").nth(1).and_then(|rest| rest.split(". ").next());
        let bytes = amount.and_then(|amount| amount.strip_suffix(" bytes")?.parse::<f64>().ok());
        match (bytes, amount) {
            (Some(bytes), _) => format!("{:.2} GB", bytes * 1e-9),
            (None, Some(amount)) => amount.to_owned(),
            (None, None) => "memory of unknown size".to_owned(),
        }
    })
}

impl From<ModelError> for fedward_actors::ports::PortError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Cancelled => Self::Cancelled,
            other => Self::Failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, TchError, Tensor};

    use super::*;

    #[test]
    fn want_of_memory_is_an_error_where_the_tensor_library_panics_and_other_panics_go_on() {
        let fill = || Ok(Tensor::f_full([1_i64 << 46], 1.0, (Kind::Float, Device::Cpu))?);
        assert!(
            std::panic::catch_unwind(fill).is_err(),
            "the tensor library returns the error now: no need to catch it"
        );
        let error = within_memory(fill).unwrap_err().in_training(512).to_string();
        assert!(error.starts_with("out of memory: 281474.98 GB more"), "{error}");
        let bug = std::panic::catch_unwind(|| within_memory::<()>(|| panic!("a bug")));
        assert_eq!(bug.unwrap_err().downcast_ref(), Some(&"a bug"));
    }

    #[test]
    fn memory_that_is_not_there_is_told_from_other_complaints() {
        let asked = Tensor::f_empty([1_i64 << 46], (Kind::Float, Device::Cpu)).map_err(ModelError::from).unwrap_err();
        assert!(matches!(&asked, ModelError::OutOfMemory { wanted, .. } if wanted == "281474.98 GB"), "{asked}");
        let misshapen = Tensor::f_zeros([2, 3], (Kind::Float, Device::Cpu)).unwrap().f_view([5]);
        assert!(matches!(ModelError::from(misshapen.unwrap_err()), ModelError::Torch(_)));
        // As c10's CUDA allocator words it.
        let cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which";
        let error = ModelError::from(TchError::Torch(cuda.to_owned())).in_training(512).to_string();
        assert!(error.starts_with("out of memory: 2.50 GiB more"), "{error}");
        assert!(error.contains("training.pass_tokens (now 512"), "{error}");
    }
}
