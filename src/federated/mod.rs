//! Federated algorithms: what the server does, and what clients do beside training.
//!
//! The server's side is a [`Pipeline`]: pre-aggregators and an aggregator from `fedward-aggregation`, then a server optimizer.
//! The named algorithms are presets of it ([`FederatedAlgorithm::preset`]), of which a scenario's `[server]` replaces parts.

mod aggregate;
mod flavour;
mod lora;
mod optimizer;
mod pipeline;
mod scaffold;
mod state;

use std::sync::Arc;

use fedward_actors::{
    StrategyFactory,
    ports::{ClientAlgorithm, PlainClients},
    protocol::ClientRanks,
};
use fedward_aggregation::{
    AggregatorSettings,
    aggregators::{Mean, MeanWeights},
};
use serde::Serialize;

pub use flavour::Flavour;
pub use lora::LoraRule;
pub use optimizer::{AdaptiveSettings, Adaptivity, MomentumSettings, OptimizerSettings};
pub use pipeline::{Pipeline, PipelineSettings};
pub use scaffold::{Scaffold, ScaffoldClients};

/// A federated algorithm with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum FederatedAlgorithm {
    /// The mean of the adapters.
    FedAvg,
    /// The mean of adapters that are kept near the global one.
    FedProx {
        /// μ.
        proximal_mu: f64,
    },
    /// Momentum on the server.
    FedAvgM(MomentumSettings),
    /// Adagrad on the server.
    FedAdagrad(AdaptiveSettings),
    /// Yogi on the server.
    FedYogi(AdaptiveSettings),
    /// Adam on the server.
    FedAdam(AdaptiveSettings),
    /// Control variates on server and clients.
    Scaffold {
        /// Whose form.
        flavour: Flavour,
    },
}

/// The names of all algorithms, as scenarios have them.
pub const NAMES: [&str; 7] = ["fedavg", "fedprox", "fedavgm", "fedadagrad", "fedyogi", "fedadam", "scaffold"];

impl FederatedAlgorithm {
    /// Its name in scenarios and records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::FedAvg => NAMES[0],
            Self::FedProx { .. } => NAMES[1],
            Self::FedAvgM(_) => NAMES[2],
            Self::FedAdagrad(_) => NAMES[3],
            Self::FedYogi(_) => NAMES[4],
            Self::FedAdam(_) => NAMES[5],
            Self::Scaffold { .. } => NAMES[6],
        }
    }

    /// The pipeline that it is the name of: a mean of all updates, and a step.
    pub fn preset(self) -> PipelineSettings {
        let (weights, optimizer) = match self {
            Self::FedAvg | Self::FedProx { .. } | Self::Scaffold { flavour: Flavour::OpenFedLlm } => {
                (MeanWeights::Rows, OptimizerSettings::Plain)
            }
            Self::Scaffold { flavour: Flavour::Paper | Flavour::Flower } => {
                (MeanWeights::Uniform, OptimizerSettings::Plain)
            }
            Self::FedAvgM(settings) => (MeanWeights::Rows, OptimizerSettings::Momentum(settings)),
            Self::FedAdagrad(settings) => (settings.mean_weights(), OptimizerSettings::Adagrad(settings)),
            Self::FedYogi(settings) => (settings.mean_weights(), OptimizerSettings::Yogi(settings)),
            Self::FedAdam(settings) => (settings.mean_weights(), OptimizerSettings::Adam(settings)),
        };
        let aggregator = AggregatorSettings::Mean(Mean { weights });
        PipelineSettings { pre: Vec::new(), aggregator, optimizer, lora: LoraRule::default() }
    }

    /// Makes its server's side in a federation of `clients`, each time in its starting state.
    pub fn server(self, clients: u32) -> StrategyFactory {
        self.server_with(clients, self.preset(), None, 0)
    }

    /// As [`FederatedAlgorithm::server`], with a pipeline of other parts and clients of these ranks; what is drawn comes from `seed`.
    pub fn server_with(
        self,
        clients: u32,
        settings: PipelineSettings,
        ranks: Option<ClientRanks>,
        seed: u64,
    ) -> StrategyFactory {
        Arc::new(move || {
            let pipeline = Pipeline::new(self.name(), settings.clone(), seed).with_ranks(ranks.clone());
            match self {
                Self::FedProx { proximal_mu } => Box::new(pipeline.with_proximal_mu(proximal_mu)),
                Self::Scaffold { .. } => Box::new(Scaffold::new(clients, pipeline)),
                _ => Box::new(pipeline),
            }
        })
    }

    /// Its clients' side.
    pub fn clients(self) -> Arc<dyn ClientAlgorithm> {
        match self {
            Self::Scaffold { .. } => Arc::new(ScaffoldClients),
            _ => Arc::new(PlainClients),
        }
    }
}

/// What a server makes of an adapter with nothing frozen beneath it.
#[cfg(test)]
fn step(
    server: &mut dyn fedward_actors::ports::Strategy,
    round: fedward_actors::protocol::RoundId,
    global: &fedward_actors::protocol::Adapter,
    updates: &[fedward_actors::protocol::ClientUpdate],
) -> fedward_actors::ports::PortResult<fedward_actors::protocol::Adapter> {
    Ok(server.aggregate(round, &global.clone().into(), updates)?.trainable().clone())
}

#[cfg(test)]
mod fedavg_tests;
#[cfg(test)]
mod pipeline_tests;
#[cfg(test)]
mod preset_tests;
#[cfg(test)]
mod tests;
