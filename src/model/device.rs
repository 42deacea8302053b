//! Where tensors live and how they are stored.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

/// The libtorch that this program is built for.
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// Most threads that compute; [`usize::MAX`] unless somebody has set a limit.
static MOST_THREADS: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Threads that compute side by side on a device, as far as [`limit_threads`] lets them: one for each core of a CPU, or two
/// queues of a GPU.
pub fn compute_threads(device: Device) -> usize {
    let threads = match device {
        Device::Cpu => std::thread::available_parallelism().map_or(1, usize::from),
        _ => 2,
    };
    threads.min(MOST_THREADS.load(Ordering::Relaxed))
}

/// How much is computed at once where nobody says it.
///
/// A CPU has all that it can do with few tokens, and less memory to fetch them from; an operation of a GPU costs some
/// microseconds whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct Portions {
    /// Most tokens of a training's pass, which keeps what the backward pass needs.
    pub training_tokens: usize,
    /// Most tokens of a pass without a backward one; a longer row is a pass of its own.
    pub pass_tokens: usize,
    /// Most tokens whose logits are computed together.
    pub logit_tokens: usize,
    /// Rows that are scored by one thread.
    pub scored_rows: usize,
    /// Prompts that are continued together, at least (where there are as many) and at most: the weights are read once for all of them.
    pub prompts: (usize, usize),
    /// Most bytes of keys and values that one thread keeps of prompts that are continued together: they are fewer where more
    /// would not fit, one at least.
    pub cache_bytes: usize,
    /// Questions that are answered together. On a CPU each is computed alone, so that its answer depends on it alone.
    pub questions: usize,
}

impl Portions {
    /// Those of a device.
    pub const fn on(device: Device) -> Self {
        match device {
            Device::Cpu => Self {
                training_tokens: 1536,
                pass_tokens: 2048,
                logit_tokens: 256,
                scored_rows: 8,
                prompts: (16, 32),
                cache_bytes: 4 << 30,
                questions: 1,
            },
            _ => Self {
                training_tokens: 8192,
                pass_tokens: 16384,
                logit_tokens: 2048,
                scored_rows: 128,
                prompts: (256, 512),
                cache_bytes: 2 << 30,
                questions: 16,
            },
        }
    }
}

/// Most bytes of a CUDA device that this process has held for tensors; nothing for other devices.
pub fn peak_memory(device: Device) -> Option<u64> {
    fedward_native::cuda::peak_device_bytes(device)
}

/// Lets models that are opened from now on compute on at most `most` threads. On the CPU results do not depend on it.
pub fn limit_threads(most: NonZeroUsize) {
    MOST_THREADS.store(most.get(), Ordering::Relaxed);
}

/// Leaves this process its share of the threads, where `processes` compute side by side, and says how many that is.
pub fn share_threads(processes: usize) -> NonZeroUsize {
    let share = NonZeroUsize::new(compute_threads(Device::Cpu) / processes.max(1)).unwrap_or(NonZeroUsize::MIN);
    limit_threads(share);
    share
}

/// Prepares libtorch for this process. Call it first thing in `main`, before any other question to libtorch.
///
/// Loads the CUDA backend if the machine has one, and gives every computing thread one intra-op thread: clients train
/// side by side on threads of their own, and one intra-op thread adds numbers in one order, so the same seed gives the
/// same bytes. Calling it again changes nothing.
pub fn init_backend() {
    // A machine without CUDA computes on the CPU.
    let _ = fedward_native::load_cuda_backend();
    tch::set_num_threads(1);
}

/// What decides which kernels compute on the CPU, and with that the last bits of results: the processor, and what variables of
/// the environment have libraries use.
pub fn instructions() -> serde_json::Map<String, serde_json::Value> {
    fedward_native::processor::instructions().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// How weights and activations are stored. Adapters, losses and optimizer state are `f32` either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats: half the memory, and faster where the processor multiplies them natively.
    Bf16,
}

impl Precision {
    /// libtorch's name for it.
    pub const fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}
