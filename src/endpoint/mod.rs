//! A blocking client of chat endpoints that speak `OpenAI`'s protocol (`POST {base_url}/chat/completions`): judges and
//! teachers that are not the model under test.
//!
//! [`ChatEndpoint::chat_all`] keeps a bounded number of requests in flight, keeps to a rate, asks again after faults that
//! pass (429, 5xx, no connection, no answer in time), and ends soon after its cancel flag is raised. A key is read from
//! an environment variable and is never written anywhere; nothing that a server says is printed, since it may repeat the key or
//! the prompt in any disguise: [`Outline`] is what is said of it.

mod answer;
mod client;
mod error;
mod pace;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wire;

pub use answer::Outline;
pub use client::ChatEndpoint;
pub use error::{EndpointError, EndpointProblem};
pub use settings::{EndpointSettings, ExtraBody};
pub use wire::{ChatCompletion, ChatRequest};
