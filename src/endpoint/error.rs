//! What can go wrong between here and an endpoint.

use std::time::Duration;

use fedward_actors::ports::PortError;

use super::Outline;

/// Why an endpoint gave no answer: which one, what happened, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {base_url}, model {model:?}: {problem}")]
pub struct EndpointError {
    /// Which endpoint.
    pub base_url: String,
    /// Which model of it.
    pub model: String,
    /// What happened.
    pub problem: EndpointProblem,
}

/// What happened. No message repeats a prompt, an answer or the key, since none repeats anything that a server says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProblem {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// No connection, after all retries.
    #[error("cannot be reached after {attempts} attempts: {reason}; is the server running, and is the address right?")]
    Unreachable {
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt met.
        reason: String,
    },
    /// No complete answer in time, after all retries.
    #[error("gave no complete answer within {:.1} s, {attempts} times; allow more time or ask for fewer tokens", timeout.as_secs_f64())]
    TimedOut {
        /// How often it was tried.
        attempts: u32,
        /// What one attempt was allowed.
        timeout: Duration,
    },
    /// 429 or 5xx, after all retries.
    #[error("answered {status} {attempts} times ({outline}); it is overloaded or broken: lower the rate or try later")]
    Overloaded {
        /// The last status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
        /// The last answer.
        outline: Outline,
    },
    /// It asks for a longer wait than the settings allow.
    #[error("answered {status} and asks to wait {} s, which is longer than the {} s allowed (max_delay_seconds, --judge-max-delay); try later", wait.as_secs(), allowed.as_secs())]
    AsksForPatience {
        /// The status.
        status: u16,
        /// How long it asks to wait.
        wait: Duration,
        /// The longest wait allowed.
        allowed: Duration,
    },
    /// Any other status: the request, the address or the key is wrong, and asking again would not help.
    #[error("refused the request with {status} ({outline}); {}", advice(*status))]
    Refused {
        /// The status.
        status: u16,
        /// The answer.
        outline: Outline,
    },
    /// An error with a status that tells of none.
    #[error(
        "answered {status} with an error in place of choices ({outline}); check the key and the model's name, and see the server's log"
    )]
    ErrorInside {
        /// The status.
        status: u16,
        /// The answer.
        outline: Outline,
    },
    /// The answer is not a chat completion.
    #[error("answered with something that is not a chat completion: {0}; does it speak OpenAI's protocol?")]
    Malformed(String),
    /// A chat completion without text.
    #[error("answered without text{}; allow more tokens, if it thinks before it answers", ending.map_or_else(String::new, |ending| format!(" (it ended with {ending:?})")))]
    NoText {
        /// Why it ends.
        ending: Option<&'static str>,
    },
    /// The cancel flag was raised.
    #[error("cancelled")]
    Cancelled,
}

fn advice(status: u16) -> &'static str {
    match status {
        300..400 => "give the address that it redirects to",
        401 | 403 => "check the key and the name of the environment variable that holds it",
        404 | 405 => "check the base URL (it usually ends in /v1) and the model's name",
        400 | 413 | 422 => "the prompt may be too long for the model, or a setting unknown to it",
        _ => "see the server's log",
    }
}

impl EndpointProblem {
    /// Whether every other request would meet the same.
    pub(super) fn concerns_all_requests(&self) -> bool {
        match self {
            Self::Settings(_) | Self::Unreachable { .. } | Self::AsksForPatience { .. } | Self::Cancelled => true,
            Self::Refused { status, .. } => !matches!(status, 400 | 413 | 422),
            Self::ErrorInside { outline, .. } => outline.concerns_all_requests(),
            Self::TimedOut { .. } | Self::Overloaded { .. } | Self::Malformed(_) | Self::NoText { .. } => false,
        }
    }
}

impl From<EndpointError> for PortError {
    fn from(error: EndpointError) -> Self {
        match error.problem {
            EndpointProblem::Cancelled => Self::Cancelled,
            _ => Self::Failed(error.to_string()),
        }
    }
}
