//! What Rust cannot check: two operating-system calls, kernels that work on tensors in memory, and calls of C++.
//!
//! Every other crate forbids `unsafe`. What needs it is here, each with the reason why it is sound.

mod autograd;
pub mod cuda;
pub mod kernels;
pub mod processor;

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};

pub use autograd::{NoAutograd, no_autograd};

/// Loads libtorch's CUDA backend into this process, if the machine has one.
///
/// The program links against the CPU library alone, so that one binary starts everywhere; CUDA kernels register
/// themselves when `libtorch_cuda.so` is loaded. Call this before the first question to libtorch about CUDA: an earlier
/// one switches CUDA off for the life of the process.
///
/// Returns whether the backend was found and loaded.
#[must_use]
pub fn load_cuda_backend() -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: loading runs the library's initialisers. It is PyTorch's own backend, whose initialisers only register
    // kernels; no Rust code of this process depends on state that they change.
    let loaded = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
    match loaded {
        Ok(library) => {
            // The kernels stay registered for the life of the process, so the library must stay loaded too.
            std::mem::forget(library);
            true
        }
        Err(_) => false,
    }
}

/// A file mapped read-only into memory.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    ///
    /// Returns the operating system's error if the file cannot be opened or mapped, and one if it is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for somebody who writes to it.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        if !kind.is_file() {
            return Err(io::Error::other("found a pipe or device, expected a regular file; put one in its place"));
        }
        // SAFETY: the map is read-only and private to the process. Model files are not rewritten in place while they
        // are being read; a file that is truncated meanwhile ends the process with SIGBUS, as with any mapped file.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(map))
    }
}

impl std::ops::Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
