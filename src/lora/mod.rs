//! LoRA (Hu et al., 2021): `y = W x + scaling · B A x`, with W frozen.

mod config;
mod init;
mod parameters;
pub mod peft;

pub use config::{LoraConfig, MOST_RANK, Target};
pub use init::initial_adapter;
pub use parameters::LoraRef;
pub(crate) use parameters::{Dropout, LinearGroup, LoraLinear, LoraTape, LoraTensors, check_layout};
