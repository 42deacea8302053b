//! `[federation]`: clients, cohort and rounds.

use std::ops::Range;

use fedward_actors::{CohortSampler, protocol::ClientId};
use serde::{Deserialize, Serialize};

use super::{is_default, rules::Rules, strategy::RawStrategySettings};
use crate::federated::FederatedAlgorithm;

/// Whether there is a federation: without one, two controls are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FederationMode {
    /// Clients train apart, and their updates are aggregated.
    #[default]
    Federated,
    /// One client holds the rows of all, and takes as many steps a round as a cohort would together.
    Centralised {
        /// The clients whose rows it holds.
        holders: u32,
    },
    /// One client trains alone in every round, and nothing is aggregated.
    Local {
        /// Which.
        client: u32,
    },
}

/// Clients, cohort and rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FederationSection {
    /// Whether there is a federation.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: FederationMode,
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
    pub mode: ModeName,
    pub local_client: Option<u32>,
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
pub(super) enum ModeName {
    #[default]
    Federated,
    Centralised,
    Local,
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
            mode: ModeName::Federated,
            local_client: None,
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
        let client = self.local_client.unwrap_or_default();
        rules.check(client < self.clients, "federation.local_client", || {
            format!(
                "found {client}; allowed: 0 to {} (federation.clients, counted from 0)",
                self.clients.saturating_sub(1)
            )
        });
        rules.check(self.local_client.is_none() || self.mode == ModeName::Local, "federation.local_client", || {
            "is set, but only mode = \"local\" reads it".into()
        });
        rules.check(self.slots != Some(0), "federation.slots", || "found 0; allowed: 1 or more".into());
    }

    /// The section. What has no federation has one client in each round.
    pub(super) fn resolve(&self, rules: &mut Rules) -> Option<FederationSection> {
        let sampler = match self.sampler {
            SamplerName::Seeded => CohortSampler::Seeded,
            SamplerName::Openfedllm => CohortSampler::OpenFedLlm,
        };
        let (mode, clients, cohort, quorum, sampler) = match self.mode {
            ModeName::Federated => (FederationMode::Federated, self.clients, self.cohort, self.quorum, sampler),
            ModeName::Centralised => {
                let only = CohortSampler::Only(ClientId(0));
                (FederationMode::Centralised { holders: self.clients }, 1, 1, 1, only)
            }
            ModeName::Local => {
                let client = self.local_client.unwrap_or_default();
                (FederationMode::Local { client }, self.clients, 1, 1, CohortSampler::Only(ClientId(client)))
            }
        };
        Some(FederationSection {
            mode,
            clients,
            cohort,
            rounds: self.rounds,
            quorum,
            max_attempts: self.max_attempts,
            client_timeout_seconds: self.client_timeout_seconds,
            server_timeout_seconds: self.server_timeout_seconds,
            strategy: self.strategy_settings.resolve(&self.strategy, rules)?,
            sampler,
            slots: self.slots,
        })
    }

    /// How many times `training.local_steps` a client takes in a round.
    pub(super) fn steps_factor(&self) -> usize {
        match self.mode {
            ModeName::Federated | ModeName::Local => 1,
            ModeName::Centralised => self.cohort as usize,
        }
    }
}

impl FederationSection {
    /// Returns how many clients the scenario spreads rows over.
    pub fn holders(&self) -> u32 {
        match self.mode {
            FederationMode::Centralised { holders } => holders,
            FederationMode::Federated | FederationMode::Local { .. } => self.clients,
        }
    }

    /// Returns the clients that may be selected.
    pub fn selectable(&self) -> Range<u32> {
        match self.mode {
            FederationMode::Local { client } => client..client + 1,
            FederationMode::Federated | FederationMode::Centralised { .. } => 0..self.clients,
        }
    }

    /// What a run with this section takes for granted, where clients take so many steps a round.
    pub(super) fn assumptions(&self, steps: usize) -> Option<String> {
        match self.mode {
            FederationMode::Federated => None,
            FederationMode::Centralised { holders } => Some(format!(
                "a control without a federation: one client holds the rows of all {holders} (a row that several hold as often), and takes \
                 {steps} steps a round, as many as a cohort takes together; they follow one another, where a federation averages"
            )),
            FederationMode::Local { client } => Some(format!(
                "a control without a federation: client {client} alone trains in every round, on its own rows and from its own adapter; \
                 nothing is aggregated"
            )),
        }
    }
}
