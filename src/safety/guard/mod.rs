//! The guard: a safety classifier of rows.
//!
//! The embedded guard is a logistic head on the frozen base model's mean hidden state. It costs half a forward pass a
//! row and needs no second model; a Llama-Guard-style model gives the same [`Verdict`](fedward_actors::protocol::Verdict).

mod embedded;
mod head;
mod metrics;
mod remembering;

pub use embedded::{EmbeddedGuard, GuardReport, Reading, fit};
pub use head::LogisticHead;
pub use metrics::{BinaryMetrics, auc};
pub use remembering::RememberingGuard;
