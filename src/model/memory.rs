//! Want of memory: how it is told from other complaints, and what helps.

use std::any::Any;

use super::ModelError;
use crate::panics;

/// What a device's memory is needed for, and so what helps where there is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Weights are put in their place.
    Loading,
    /// Prompts are continued.
    Generation,
    /// Rows are read: scored, or judged by a guard.
    Reading,
    /// An adapter is trained.
    Training {
        /// Most tokens of a pass.
        pass_tokens: usize,
    },
}

/// What to lower.
pub(super) fn remedy(during: Option<Work>) -> String {
    const LIGHTER: &str = "make the model lighter by model.quantize = \"int8\" or \"nf4\" (--quantize) or in bf16 \
                           (model.precision, --dtype)";
    match during {
        Some(Work::Loading) => {
            format!("{LIGHTER}, take a smaller one, or a device with more memory (model.device, --device)")
        }
        Some(Work::Generation) => {
            format!(
                "ask for fewer new tokens (max_new_tokens, --max-new-tokens), give shorter prompts, compute on one thread \
                 (--threads 1), or {LIGHTER}"
            )
        }
        Some(Work::Reading) => {
            format!(
                "give shorter rows (or cut them: score and tune --max-length, guard.max_length), compute on one thread \
                 (--threads 1; clients: federation.slots = 1), or {LIGHTER}"
            )
        }
        Some(Work::Training { pass_tokens }) => format!(
            "lower training.pass_tokens (now {pass_tokens}; --pass-tokens), set training.checkpoint_activations = true \
             (--checkpoint-activations), cut rows by training.max_length (--max-length), let fewer clients compute at \
             once (federation.slots; alone: --threads 1), or {LIGHTER}"
        ),
        None => format!("let less be computed at once, or {LIGHTER}"),
    }
}

/// Does `work`, and returns [`ModelError::OutOfMemory`] also where the tensor library panics for want of memory: it does so
/// when an operation that takes a number beside tensors fails, before it could return the error. Any other panic goes on.
pub(crate) fn within_memory<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
    panics::catch(is_want_of_memory, work).unwrap_or_else(|panic| {
        if is_want_of_memory(&*panic) {
            Err(tch::TchError::Torch(panics::message(&*panic).to_owned()).into())
        } else {
            std::panic::resume_unwind(panic)
        }
    })
}

fn is_want_of_memory(panic: &dyn Any) -> bool {
    panic.downcast_ref::<String>().is_some_and(|complaint| wanted_memory(complaint).is_some())
}

/// How much memory an allocation asked for in vain, if that is what libtorch complains of.
pub(super) fn wanted_memory(complaint: &str) -> Option<String> {
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
        let error = within_memory(fill).unwrap_err().to_string();
        assert!(error.starts_with("out of memory: 281474.98 GB more"), "{error}");
        let bug = std::panic::catch_unwind(|| within_memory::<()>(|| panic!("a bug")));
        assert_eq!(bug.unwrap_err().downcast_ref(), Some(&"a bug"));
    }

    #[test]
    fn only_complaints_of_the_tensor_library_are_want_of_memory() {
        let complaint = "Tried to allocate 2.50 GiB. CUDA out of memory";
        assert!(is_want_of_memory(&complaint.to_owned()));
        assert!(!is_want_of_memory(&"a bug".to_owned()) && !is_want_of_memory(&complaint));
    }

    #[test]
    fn memory_that_is_not_there_is_told_from_other_complaints() {
        let asked = Tensor::f_empty([1_i64 << 46], (Kind::Float, Device::Cpu)).map_err(ModelError::from).unwrap_err();
        assert!(matches!(&asked, ModelError::OutOfMemory { wanted, .. } if wanted == "281474.98 GB"), "{asked}");
        let misshapen = Tensor::f_zeros([2, 3], (Kind::Float, Device::Cpu)).unwrap().f_view([5]);
        assert!(matches!(ModelError::from(misshapen.unwrap_err()), ModelError::Torch(_)));
        // As c10's CUDA allocator words it.
        let cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which";
        let asked = || ModelError::from(TchError::Torch(cuda.to_owned()));
        let error = asked().during(Work::Training { pass_tokens: 512 }).to_string();
        assert!(error.starts_with("out of memory: 2.50 GiB more"), "{error}");
        assert!(error.contains("training.pass_tokens (now 512"), "{error}");
        let read = asked().during(Work::Reading).during(Work::Training { pass_tokens: 512 }).to_string();
        assert!(read.contains("--max-length") && !read.contains("pass_tokens"), "{read}");
    }
}
