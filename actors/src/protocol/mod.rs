//! The vocabulary of the federation: what actors say to each other, without any behaviour.

pub mod adapter;
pub mod chat;
pub mod ids;
pub(crate) mod messages;

pub use adapter::{Adapter, AdapterDelta, AdapterError, AdapterLayout, AdapterTensor, hex};
pub use chat::{ChatMessage, ChatRow, Hazard, Role, RowDigest, RowLabel, TrainRows, Verdict};
pub use ids::{Attempt, ClientId, RoundId, Ticket};
