//! Federated algorithms, one a file: what the server does, and what clients do beside training.

pub mod aggregate;
mod fedavg;
mod fedavgm;
mod fedopt;
mod fedprox;
mod flavour;
mod scaffold;
mod state;

use std::sync::Arc;

use fedward_actors::{
    StrategyFactory,
    ports::{ClientAlgorithm, PlainClients},
};
use serde::Serialize;

pub use fedavg::FedAvg;
pub use fedavgm::{FedAvgM, MomentumSettings};
pub use fedopt::{AdaptiveSettings, Adaptivity, FedOpt};
pub use fedprox::FedProx;
pub use flavour::Flavour;
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

    /// Makes its server's side in a federation of `clients`, each time in its starting state.
    pub fn server(self, clients: u32) -> StrategyFactory {
        Arc::new(move || match self {
            Self::FedAvg => Box::new(FedAvg),
            Self::FedProx { proximal_mu } => Box::new(FedProx { proximal_mu }),
            Self::FedAvgM(settings) => Box::new(FedAvgM::new(settings)),
            Self::FedAdagrad(settings) => Box::new(FedOpt::new(Adaptivity::Adagrad, settings)),
            Self::FedYogi(settings) => Box::new(FedOpt::new(Adaptivity::Yogi, settings)),
            Self::FedAdam(settings) => Box::new(FedOpt::new(Adaptivity::Adam, settings)),
            Self::Scaffold { flavour } => Box::new(Scaffold::new(flavour, clients)),
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

#[cfg(test)]
mod tests;
