//! Steps of a transformer that libtorch makes in several passes over memory, in one pass each.
//!
//! Everything here works on the CPU, on one thread, on numbers of one kind (`f32` or bfloat16), and computes in `f32`. What
//! a function cannot do it says by [`fits`] or by returning nothing, and the caller asks libtorch. Results are the same at
//! every call.

#![allow(
    clippy::cast_ptr_alignment,
    reason = "unaligned reads and writes are what the intrinsics behind these casts do"
)]

mod attention;
mod cached;
mod few;
mod gate;
mod lanes;
mod loss;
mod norm;
mod product;
mod rotate;

use std::sync::LazyLock;

use lanes::LANES;
use tch::{Device, Kind, Tensor};

pub use attention::{AttentionShape, Segment, attend, attend_backward};
pub use cached::attend_cached;
pub use few::{MOST_TOKENS, few_tokens_product};
pub use gate::{silu_gated, silu_gated_backward};
pub use loss::cross_entropy;
pub use norm::{rms_norm, rms_norm_backward};
pub use rotate::rotate;

/// Names the variable that, set to `off`, leaves everything to libtorch.
pub const SWITCH: &str = "FEDWARD_KERNELS";

/// Whether this processor has what the kernels need.
pub fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let wanted = std::env::var_os(SWITCH).is_none_or(|value| value != "off");
        wanted && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    });
    *AVAILABLE
}

/// Whether kernels can work on the lines of a tensor: on the CPU, of a known kind, contiguous, its last dimension a multiple
/// of a vector's length.
pub fn fits(tensor: &Tensor) -> bool {
    available()
        && tensor.device() == Device::Cpu
        && matches!(tensor.kind(), Kind::Float | Kind::BFloat16)
        && tensor.is_contiguous()
        && tensor.size().last().is_some_and(|width| width % LANES as i64 == 0)
}

/// Lines of equal length, one behind the other.
#[derive(Clone, Copy)]
struct Lines<T> {
    first: *mut T,
    count: usize,
    width: usize,
}

impl<T> Lines<T> {
    /// The last dimension of a tensor as lines.
    ///
    /// # Panics
    ///
    /// If the tensor is not contiguous, not on the CPU or not of `T`'s size.
    fn of(tensor: &Tensor) -> Self {
        assert!(tensor.is_contiguous() && tensor.device() == Device::Cpu, "kernels take contiguous tensors of the CPU");
        assert_eq!(tensor.kind().elt_size_in_bytes(), size_of::<T>(), "the tensor's kind is another one");
        let width = tensor.size().last().copied().unwrap_or(1) as usize;
        Self { first: tensor.data_ptr().cast(), count: tensor.numel() / width.max(1), width }
    }

    /// The begin of a line.
    fn line(&self, index: usize) -> *mut T {
        assert!(index < self.count, "line {index} of {}", self.count);
        // SAFETY: the line lies within the tensor.
        unsafe { self.first.add(index * self.width) }
    }
}

/// Calls a function for the numbers of a kind.
macro_rules! by_kind {
    ($kind:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $kind {
            // SAFETY: `available` was checked, and the function checks shapes.
            tch::Kind::BFloat16 => unsafe { $function::<crate::kernels::lanes::Bf16>($($argument),*) },
            // SAFETY: the same.
            _ => unsafe { $function::<f32>($($argument),*) },
        }
    };
}
use by_kind;

fn empty_like(tensor: &Tensor) -> Tensor {
    tensor.empty_like()
}

#[cfg(test)]
mod tests;
