//! The run directory: manifest, rows, checkpoints, what clients remember, final adapter, summary.
//!
//! A file is whole or absent (invariant C-1): it is written beside its place, synced and renamed. Rows are appended, and
//! a row that a crash cut off is dropped when the run is resumed.

mod checkpoint;
mod files;
mod lock;
mod memories;
mod rows;
mod run_directory;
mod seal;

pub use checkpoint::Checkpoint;
pub(crate) use files::{
    OtherWriters, create_new, is_older, is_own_name, is_temporary, open_own, open_regular, read_regular,
    read_regular_text, remove_abandoned, replace,
};
pub use files::{read_json, write_atomically, write_json};
pub use lock::FolderLock;
pub use memories::MemoryFolder;
pub use run_directory::{CodeChange, RunDirectory, Unfinished};
pub(crate) use seal::{Seal, Sealed};

use std::path::PathBuf;

/// Why a run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
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
        /// What was found, what was expected, what to do.
        problem: String,
    },
}
