//! The protocol and the round of fedward: actors that exchange LoRA adapters.
//!
//! This crate knows nothing of tensors, files, clocks on the wall or HTTP: what it needs of them it asks for through
//! the traits in [`ports`].

pub mod cancel;
pub mod ports;
pub mod protocol;
pub mod records;
pub mod streams;

pub use cancel::{CancelFlag, CancelOnDrop};
