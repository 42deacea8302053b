//! LoRA (Hu et al., 2021): `y = W x + scaling · B A x`, with W frozen.

mod config;
mod dropout;
mod init;
mod parameters;
pub mod peft;
mod placement;
mod stack;

pub use config::{LoraConfig, MOST_RANK, Target};
pub(crate) use dropout::Dropout;
pub(crate) use init::fresh_values;
pub use init::initial_adapter;
pub use parameters::LoraRef;
pub(crate) use parameters::{FrozenTerms, LinearGroup, LoraLinear, LoraTape, LoraTensors};
pub(crate) use placement::Placement;
pub(crate) use stack::stack;
