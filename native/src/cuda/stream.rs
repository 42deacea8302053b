//! Streams of CUDA devices.

use std::{
    ffi::c_char,
    marker::PhantomData,
    sync::{Mutex, PoisonError},
};

use tch::{Device, TchError};

use super::check;

unsafe extern "C" {
    fn fedward_new_stream(id: *mut i64, device: i32) -> *mut c_char;
    fn fedward_exchange_stream(before: *mut i64, id: i64, device: i32) -> *mut c_char;
}

/// Streams that no thread uses, with their devices. A device's allocator keeps memory for each stream apart, so there are to
/// be no more of them than threads that compute at once.
static FREE: Mutex<Vec<(i32, i64)>> = Mutex::new(Vec::new());

/// A stream of a CUDA device that this thread's operations go to until it is dropped: those of other threads go on beside
/// them.
///
/// What was computed before on another stream must be complete, and what is computed meanwhile is to be read (which waits)
/// before it is dropped.
#[derive(Debug)]
pub struct OwnStream {
    device: i32,
    id: i64,
    before: i64,
    /// Streams are chosen thread by thread: to be dropped by the thread that took it.
    of_this_thread: PhantomData<*const ()>,
}

impl OwnStream {
    /// Takes a stream of `device`; nothing where that is no CUDA device.
    ///
    /// # Errors
    ///
    /// What libtorch complains of.
    pub fn take(device: Device) -> Result<Option<Self>, TchError> {
        let Device::Cuda(device) = device else { return Ok(None) };
        let device = i32::try_from(device).map_err(|_| TchError::Kind(format!("there is no CUDA device {device}")))?;
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let known = free.iter().position(|(of, _)| *of == device).map(|place| free.swap_remove(place).1);
        drop(free);
        let id = if let Some(id) = known {
            id
        } else {
            let mut id = 0;
            // SAFETY: `id` is written while the call lasts.
            check(unsafe { fedward_new_stream(&raw mut id, device) })?;
            id
        };
        let mut before = 0;
        // SAFETY: `before` is written while the call lasts.
        check(unsafe { fedward_exchange_stream(&raw mut before, id, device) })?;
        Ok(Some(Self { device, id, before, of_this_thread: PhantomData }))
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        let mut own = 0;
        // SAFETY: `own` is written while the call lasts. A stream that was in use can be used again.
        let _ = check(unsafe { fedward_exchange_stream(&raw mut own, self.before, self.device) });
        debug_assert_eq!(own, self.id, "streams of a thread are given back in the reverse order");
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push((self.device, self.id));
    }
}
