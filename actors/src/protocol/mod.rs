//! What crosses a wire: payloads that serialise, without any behaviour. Envelopes with reply ports are beside their actors.

pub mod adapter;
pub mod chat;
pub mod factor;
pub mod ids;
pub mod model;
pub mod payload;
pub mod ranks;
pub mod server;
pub mod training;
pub mod wire;

pub use adapter::{Adapter, AdapterDelta, AdapterError, AdapterLayout, AdapterTensor, hex};
pub use chat::{ChatMessage, ChatRow, Hazard, Role, RowDigest, RowLabel, TrainRows, Verdict};
pub use factor::Factor;
pub use ids::{Attempt, ClientId, ModelVersion, RequestId, RoundId, SimTime};
pub use model::GlobalModel;
pub use payload::{Payload, names};
pub use ranks::ClientRanks;
pub(crate) use ranks::ModelParts;
pub use training::{AssessOrder, Assessment, ClientUpdate, LocalTraining, LocalWork, TrainOrder, TrainReport, TurnEnd};
