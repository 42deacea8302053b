//! A chat endpoint as sections name one: a judge, a teacher.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use serde::Deserialize;

use super::rules::Rules;
use crate::endpoint::{EndpointSettings, ExtraBody};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpoint {
    pub base_url: String,
    pub model: String,
    #[serde(default)]
    pub api_key_env: Option<String>,
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: f64,
    #[serde(default = "default_retries")]
    pub max_retries: u32,
    #[serde(default = "default_max_delay_seconds")]
    pub max_delay_seconds: f64,
    #[serde(default)]
    pub requests_per_minute: Option<NonZeroU32>,
    #[serde(default = "default_parallel")]
    pub parallel: NonZeroUsize,
    #[serde(default)]
    pub extra_body: ExtraBody,
}

fn default_timeout_seconds() -> f64 {
    EndpointSettings::new("", "").timeout.as_secs_f64()
}

fn default_retries() -> u32 {
    EndpointSettings::new("", "").max_retries
}

fn default_max_delay_seconds() -> f64 {
    EndpointSettings::new("", "").max_delay.as_secs_f64()
}

fn default_parallel() -> NonZeroUsize {
    EndpointSettings::new("", "").parallel
}

impl RawEndpoint {
    /// Checks the endpoint that stands at `key`.
    pub(super) fn check(&self, key: &str, rules: &mut Rules) {
        rules.positive(&format!("{key}.timeout_seconds"), self.timeout_seconds);
        rules.positive(&format!("{key}.max_delay_seconds"), self.max_delay_seconds);
        if let Err(problem) = EndpointSettings::new(&self.base_url, &self.model).check_base_url() {
            rules.complain(&format!("{key}.base_url"), problem);
        }
        if let Err(problem) = self.extra_body.check() {
            rules.complain(&format!("{key}.extra_body"), problem);
        }
    }

    pub(super) fn resolve(&self, seed: u64) -> EndpointSettings {
        let defaults = EndpointSettings::new(&self.base_url, &self.model);
        EndpointSettings {
            api_key_env: self.api_key_env.clone(),
            timeout: Duration::try_from_secs_f64(self.timeout_seconds).unwrap_or(defaults.timeout),
            max_retries: self.max_retries,
            max_delay: Duration::try_from_secs_f64(self.max_delay_seconds).unwrap_or(defaults.max_delay),
            requests_per_minute: self.requests_per_minute,
            parallel: self.parallel,
            extra_body: self.extra_body.clone(),
            seed,
            ..defaults
        }
    }
}
