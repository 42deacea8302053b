//! Where tensors live and how they are stored.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

/// The libtorch that this program is built for.
pub const LIBTORCH_VERSION: &str = "2.11.0";

/// Most threads that compute on the CPU; [`usize::MAX`] unless somebody has set a limit.
static MOST_THREADS: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Threads that compute side by side on a device: the cores of a CPU, as far as [`limit_threads`] lets them, or two queues
/// of a GPU.
pub fn compute_threads(device: Device) -> usize {
    match device {
        Device::Cpu => {
            std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS.load(Ordering::Relaxed))
        }
        _ => 2,
    }
}

/// Lets models that are opened from now on compute on at most `most` threads. Results do not depend on it.
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
