//! Tensor operations that record nothing.

use std::{ffi::c_void, marker::PhantomData};

unsafe extern "C" {
    fn fedward_enter_no_autograd() -> *mut c_void;
    fn fedward_leave_no_autograd(guard: *mut c_void);
}

/// As long as it lives, operations of this thread record no gradients and go straight to their kernels. libtorch's
/// `NoGradGuard` records nothing either, but lets every operation ask for it on its way.
#[derive(Debug)]
pub struct NoAutograd {
    guard: *mut c_void,
    /// To be dropped by the thread that made it.
    of_this_thread: PhantomData<*const ()>,
}

/// Records nothing until what it returns is dropped.
#[must_use]
pub fn no_autograd() -> NoAutograd {
    // SAFETY: what it returns is given back once, in this thread.
    let guard = unsafe { fedward_enter_no_autograd() };
    NoAutograd { guard, of_this_thread: PhantomData }
}

impl Drop for NoAutograd {
    fn drop(&mut self) {
        // SAFETY: it came from `fedward_enter_no_autograd` in this thread, and is given back once.
        unsafe { fedward_leave_no_autograd(self.guard) }
    }
}
