//! fedward simulates the federated fine-tuning of language models when part of the clients' data is harmful, and
//! measures what defences buy.
//!
//! The protocol and the round live in `fedward-actors`; this crate holds what the round asks for and the program.
//!
//! | module | what is in it |
//! |---|---|
//! | [`model`] | checkpoints, tokenizer, chat templates, the transformer, generation, scoring |
//! | [`lora`] | LoRA configuration, adapter layout, PEFT directories |
//! | [`train`] | supervised fine-tuning of an adapter |
//! | [`data`] | the catalogue, row formats, the benign generator, partitions |
//! | [`attacks`] | who works against the federation, and how |
//! | [`federated`] | aggregation strategies |
//! | [`safety`] | guard and Constitutional AI |
//! | [`eval`] | benchmarks |
//! | [`endpoint`] | a client of OpenAI-compatible chat endpoints |
//! | [`scenario`] | scenario files, raw and resolved |
//! | [`wiring`] | a resolved scenario becomes actors |
//! | [`store`] | the run directory |
//! | [`telemetry`] | every metric |
//! | [`report`] | tables for people |
//! | [`progress`] | how long work is followed |
//! | [`experiment`] | a scenario file's runs and grids, from preparation to report |
//! | [`cli`] | the command line |

#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic where nobody reads any more; `tell!` does not"
)]

/// Tells people something on stderr, as `eprintln!` does, but goes on where nobody reads any more.
macro_rules! tell {
    ($($text:tt)*) => { $crate::report::tell(format_args!($($text)*)) };
}

pub mod attacks;
pub mod cli;
pub mod data;
pub mod endpoint;
pub mod eval;
pub mod experiment;
pub mod federated;
pub mod lora;
pub mod model;
mod panics;
pub mod progress;
pub mod report;
pub mod safety;
pub mod scenario;
pub mod store;
pub mod telemetry;
pub mod train;
pub mod wiring;

pub use experiment::{Experiment, ExperimentError, Outcome};
pub use fedward_actors as actors;
