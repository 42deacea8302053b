//! Want of memory: how it is told from other complaints, and what helps.

use std::{any::Any, cell::Cell, panic::AssertUnwindSafe, sync::Once};

use super::ModelError;

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
    say_nothing_of_caught_panics();
    let outer = IS_CAUGHT.replace(true);
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(outer);
    done.unwrap_or_else(|panic| {
        let complaint = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        match wanted_memory(&complaint) {
            Some(_) => Err(tch::TchError::Torch(complaint).into()),
            None => std::panic::resume_unwind(panic),
        }
    })
}

thread_local! {
    /// Whether a panic of this thread for want of memory becomes an error.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

fn becomes_an_error(panic: &dyn Any) -> bool {
    IS_CAUGHT.get() && panic.downcast_ref::<String>().is_some_and(|complaint| wanted_memory(complaint).is_some())
}

/// The message of a panic that becomes an error would only stand above it. The hook is the whole process's: it hands all other
/// panics to the one before.
fn say_nothing_of_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !becomes_an_error(panic.payload()) {
                tell(panic);
            }
        }));
    });
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
    fn only_what_becomes_an_error_is_not_told() {
        let want = "Tried to allocate 2.50 GiB. CUDA out of memory".to_owned();
        assert!(!becomes_an_error(&want), "nobody catches it here");
        let inside = within_memory(|| {
            let bug: &dyn Any = &"a bug";
            Ok([becomes_an_error(&want), becomes_an_error(&"a bug".to_owned()), becomes_an_error(bug)])
        });
        assert_eq!(inside.unwrap(), [true, false, false]);
        assert!(!becomes_an_error(&want), "it is over");
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
