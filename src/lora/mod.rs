//! LoRA (Hu et al., 2021): `y = W x + scaling · B A x`, with W frozen.

mod config;
pub mod peft;

pub use config::{LoraConfig, Target};
