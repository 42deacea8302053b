//! Operations of libtorch that have CUDA kernels and that `tch` does not wrap.

mod attention;
mod stream;

use std::ffi::{CStr, c_char};

use tch::{Device, TchError, Tensor};
use torch_sys::C_tensor;

pub use attention::{
    CachedRows, FlashOperands, FlashRows, FlashScores, FlashTape, flash_attention, flash_attention_backward,
    flash_attention_cached, flash_attention_refusal, has_flash_attention,
};
pub use stream::OwnStream;

unsafe extern "C" {
    fn fedward_rms_norm_backward(
        result: *mut *mut C_tensor,
        grad: *const C_tensor,
        input: *const C_tensor,
        inverse_rms: *const C_tensor,
        weight: *const C_tensor,
    ) -> *mut c_char;
    fn fedward_peak_device_bytes(bytes: *mut i64, device: i32) -> *mut c_char;
    fn fedward_free_message(message: *mut c_char);
}

/// What a C++ function complains of, if it does.
fn check(message: *mut c_char) -> Result<(), TchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the function returned a message of its own, which ends with a zero and is freed once, after it was copied.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        fedward_free_message(message);
        text
    };
    Err(TchError::Torch(text))
}

/// The gradient of the input of an RMS norm over the last dimension, on a CUDA device.
///
/// # Shapes
///
/// `grad`, `input`: `[tokens, hidden]`; `inverse_rms`: `[tokens, 1]`; `weight`: `[hidden]` → `[tokens, hidden]`.
///
/// # Errors
///
/// What libtorch complains of.
pub fn rms_norm_backward(
    grad: &Tensor,
    input: &Tensor,
    inverse_rms: &Tensor,
    weight: &Tensor,
) -> Result<Tensor, TchError> {
    let mut result = std::ptr::null_mut();
    // SAFETY: all tensors live through the call; on success `result` is a tensor of its own.
    unsafe {
        let (grad, input) = (grad.as_ptr(), input.as_ptr());
        check(fedward_rms_norm_backward(&raw mut result, grad, input, inverse_rms.as_ptr(), weight.as_ptr()))?;
        Ok(Tensor::from_ptr(result))
    }
}

/// Most bytes of a CUDA device that this process has held for tensors, free ones among them; nothing for other devices.
#[must_use]
pub fn peak_device_bytes(device: Device) -> Option<u64> {
    let Device::Cuda(index) = device else { return None };
    let mut bytes = 0;
    // SAFETY: `bytes` is written while the call lasts.
    unsafe { check(fedward_peak_device_bytes(&raw mut bytes, i32::try_from(index).ok()?)).ok()? };
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_devices_have_neither_streams_nor_memory_of_their_own() {
        assert!(OwnStream::take(Device::Cpu).unwrap().is_none());
        assert_eq!(peak_device_bytes(Device::Cpu), None);
        if !tch::Cuda::is_available() {
            assert!(OwnStream::take(Device::Cuda(0)).is_err());
            assert_eq!(peak_device_bytes(Device::Cuda(0)), None);
        }
    }
}
