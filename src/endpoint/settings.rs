//! Where an endpoint is, and how hard it may be asked.

use std::{
    env::VarError,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ureq::http::Uri;

/// Where an endpoint is, and how hard it may be asked. Holds no secret: only the name of the variable that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointSettings {
    /// Up to and without `/chat/completions`, for example `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// The model's name at the endpoint.
    pub model: String,
    /// The environment variable that holds the key; `None` sends none.
    pub api_key_env: Option<String>,
    /// How long one request may take, from connecting to the last byte.
    pub timeout: Duration,
    /// How often a request is sent again after a fault that may pass.
    pub max_retries: u32,
    /// Wait before the first retry; each later one waits twice as long, less up to half of it at random.
    pub first_delay: Duration,
    /// Longest wait before a retry. An endpoint that asks for more patience than this is given up.
    pub max_delay: Duration,
    /// Requests a minute, retries included; `None` sets no limit.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Requests in flight at the same time.
    pub parallel: NonZeroUsize,
    /// What the random part of waits comes from.
    pub seed: u64,
    /// What each request says beside the fields that servers agree on.
    #[serde(skip_serializing_if = "ExtraBody::is_empty")]
    pub extra_body: ExtraBody,
}

/// Fields of a request that some servers know: a grammar, a reasoning effort, options of a chat template. They go out as they
/// are, in the place of fedward's own of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExtraBody(Map<String, Value>);

impl ExtraBody {
    /// What fedward alone says.
    const RESERVED: [&str; 3] = ["model", "messages", "stream"];

    /// Reads an object of JSON.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let extra: Self = serde_json::from_str(text).map_err(|error| format!("no object of JSON: {error}"))?;
        extra.check().map(|()| extra)
    }

    /// Whether all fields may be set.
    ///
    /// # Errors
    ///
    /// The field that may not, in words.
    pub fn check(&self) -> Result<(), String> {
        match Self::RESERVED.iter().find(|name| self.0.contains_key(**name)) {
            None => Ok(()),
            Some(name) => {
                Err(format!("found {name}, which cannot be set here; allowed: all but model, messages and stream"))
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the fields to a request. A server that wants `max_completion_tokens` does not take `max_tokens` beside it.
    pub(super) fn add_to(&self, body: &mut Map<String, Value>) {
        if self.0.contains_key("max_completion_tokens") {
            body.remove("max_tokens");
        }
        body.extend(self.0.clone());
    }
}

impl EndpointSettings {
    /// Patient defaults: no key, two minutes a request, five retries from one second up to a minute, four in flight.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            api_key_env: None,
            timeout: Duration::from_mins(2),
            max_retries: 5,
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_mins(1),
            requests_per_minute: None,
            parallel: NonZeroUsize::MIN.saturating_add(3),
            seed: 0,
            extra_body: ExtraBody::default(),
        }
    }

    /// Whether the base URL can be used.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn check_base_url(&self) -> Result<(), String> {
        self.chat_url().map(|_| ())
    }

    /// The base URL, for messages; not one that may hold a password or a key.
    pub(super) fn shown_base_url(&self) -> &str {
        if self.base_url.contains(HOLDS_MORE) { "(not shown)" } else { &self.base_url }
    }

    /// Where chat requests go.
    ///
    /// # Errors
    ///
    /// What is wrong with the base URL, in words. A URL that carries a password or a query is refused, since it would
    /// end up in logs; the message does not repeat it.
    pub(super) fn chat_url(&self) -> Result<Uri, String> {
        let base = self.base_url.trim_end_matches('/');
        if base.contains(HOLDS_MORE) {
            return Err("holds a password, a query or a fragment; name the variable that holds the key instead".into());
        }
        let allowed = "allowed: http:// or https:// with a host, for example http://127.0.0.1:8000/v1";
        let uri: Uri = format!("{base}/chat/completions").parse().map_err(|error| format!("{error}; {allowed}"))?;
        let known_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        if known_scheme && uri.host().is_some_and(|host| !host.is_empty()) { Ok(uri) } else { Err(allowed.into()) }
    }
}

/// Marks of a URL's parts that may be secret.
const HOLDS_MORE: [char; 3] = ['@', '?', '#'];

/// A key that does not show in debug output.
#[derive(Clone)]
pub(super) struct ApiKey(String);

impl ApiKey {
    /// The value of a variable.
    ///
    /// # Errors
    ///
    /// What is missing, in words.
    pub(super) fn from_env(variable: &str) -> Result<Self, String> {
        match std::env::var(variable) {
            Ok(key) if !key.trim().is_empty() => {
                let key = key.trim();
                // No header takes it, and the error would say that the server is not to be reached.
                if key.chars().all(|c| matches!(c, ' '..='~')) {
                    return Ok(Self(key.to_owned()));
                }
                Err(format!(
                    "the environment variable {variable} holds a line break or another character that no key has; expected \
                     printable ASCII"
                ))
            }
            Ok(_) => Err(format!("the environment variable {variable} is empty; it should hold the endpoint's key")),
            Err(VarError::NotPresent) => {
                Err(format!("the environment variable {variable} is not set; it should hold the endpoint's key"))
            }
            Err(VarError::NotUnicode(_)) => Err(format!("the environment variable {variable} is not UTF-8")),
        }
    }

    /// For the `Authorization` header alone.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}
