//! The protocol and the round of fedward: actors that exchange LoRA adapters.
//!
//! This crate knows nothing of tensors, files, clocks on the wall or HTTP: what it needs of them it asks for through
//! the traits in [`ports`].

mod aggregator;
mod archivist;
mod cai;
pub mod cancel;
mod client;
mod compute;
mod coordinator;
mod evaluator;
mod fanout;
pub mod federation;
mod guard;
#[cfg(test)]
mod invariants;
mod ledger;
pub mod ports;
pub mod protocol;
pub mod records;
mod round;
pub mod sampler;
pub mod streams;
mod supervisor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cancel::{CancelFlag, CancelOnDrop};
pub use federation::{
    FederationConfig, FederationError, FederationResult, Ports, Schedule, StartState, StrategyFactory, run_federation,
};
pub use sampler::CohortSampler;
