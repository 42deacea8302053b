//! `[federation]`: clients, cohort and rounds.

use fedward_actors::CohortSampler;
use serde::{Deserialize, Serialize};

use super::{rules::Rules, strategy::RawStrategySettings};
use crate::federated::FederatedAlgorithm;

/// Clients, cohort and rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FederationSection {
    /// Simulated clients.
    pub clients: u32,
    /// Clients selected a round.
    pub cohort: u32,
    /// Rounds.
    pub rounds: u32,
    /// Updates below which a round is skipped.
    pub quorum: u32,
    /// How often a client whose actor died is asked in one round.
    pub max_attempts: u32,
    /// Seconds after which a client is taken for hung.
    pub client_timeout_seconds: u64,
    /// Seconds after which a step of the server is taken for hung: screening, aggregation, realignment, evaluation.
    pub server_timeout_seconds: u64,
    /// The federated algorithm.
    pub strategy: FederatedAlgorithm,
    /// How the cohort is drawn.
    pub sampler: CohortSampler,
    /// Clients that compute at the same time; `None` means as many as the device serves well.
    pub slots: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFederation {
    pub clients: u32,
    pub cohort: u32,
    pub rounds: u32,
    pub quorum: u32,
    pub max_attempts: u32,
    pub client_timeout_seconds: u64,
    pub server_timeout_seconds: u64,
    pub strategy: String,
    pub strategy_settings: RawStrategySettings,
    pub sampler: SamplerName,
    pub slots: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SamplerName {
    #[default]
    Seeded,
    Openfedllm,
}

impl Default for RawFederation {
    fn default() -> Self {
        Self {
            clients: 20,
            cohort: 5,
            rounds: 10,
            quorum: 1,
            max_attempts: 2,
            client_timeout_seconds: 3600,
            server_timeout_seconds: 4 * 3600,
            strategy: "fedavg".into(),
            strategy_settings: RawStrategySettings::default(),
            sampler: SamplerName::Seeded,
            slots: None,
        }
    }
}

impl RawFederation {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.at_least_one("federation.clients", self.clients as usize);
        rules.at_least_one("federation.rounds", self.rounds as usize);
        rules.at_least_one("federation.max_attempts", self.max_attempts as usize);
        rules.at_least_one("federation.client_timeout_seconds", self.client_timeout_seconds as usize);
        rules.at_least_one("federation.server_timeout_seconds", self.server_timeout_seconds as usize);
        rules.check((1..=self.clients).contains(&self.cohort), "federation.cohort", || {
            format!("found {}; allowed: 1 to {} (federation.clients)", self.cohort, self.clients)
        });
        rules.check((1..=self.cohort).contains(&self.quorum), "federation.quorum", || {
            format!("found {}; allowed: 1 to {} (federation.cohort)", self.quorum, self.cohort)
        });
        rules.check(self.slots != Some(0), "federation.slots", || "found 0; allowed: 1 or more".into());
    }

    pub(super) fn resolve(&self, rules: &mut Rules) -> Option<FederationSection> {
        Some(FederationSection {
            clients: self.clients,
            cohort: self.cohort,
            rounds: self.rounds,
            quorum: self.quorum,
            max_attempts: self.max_attempts,
            client_timeout_seconds: self.client_timeout_seconds,
            server_timeout_seconds: self.server_timeout_seconds,
            strategy: self.strategy_settings.resolve(&self.strategy, rules)?,
            sampler: match self.sampler {
                SamplerName::Seeded => CohortSampler::Seeded,
                SamplerName::Openfedllm => CohortSampler::OpenFedLlm,
            },
            slots: self.slots,
        })
    }
}
