//! `federation.strategy` and `[federation.strategy_settings]`: the federated algorithm and its constants.

use serde::Deserialize;

use super::rules::Rules;
use crate::federated::{self, AdaptiveSettings, FederatedAlgorithm};

const KEY: &str = "federation.strategy_settings";

/// Constants of all algorithms; each reads its own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStrategySettings {
    flavour: Option<String>,
    proximal_mu: Option<f64>,
    beta1: Option<f64>,
    beta2: Option<f64>,
    tau: Option<f64>,
    server_learning_rate: Option<f64>,
}

impl RawStrategySettings {
    /// The algorithm of this name with these constants; the defaults are `OpenFedLLM`'s.
    pub(super) fn resolve(&self, strategy: &str, rules: &mut Rules) -> Option<FederatedAlgorithm> {
        self.check(strategy, rules);
        let adaptive = AdaptiveSettings {
            server_learning_rate: self.server_learning_rate.unwrap_or(1e-3),
            beta1: self.beta1.unwrap_or(0.9),
            beta2: self.beta2.unwrap_or(0.99),
            tau: self.tau.unwrap_or(1e-3),
        };
        Some(match strategy {
            "fedavg" => FederatedAlgorithm::FedAvg,
            "fedprox" => FederatedAlgorithm::FedProx { proximal_mu: self.proximal_mu.unwrap_or(0.01) },
            "fedavgm" => FederatedAlgorithm::FedAvgM { beta1: adaptive.beta1 },
            "fedadagrad" => FederatedAlgorithm::FedAdagrad(adaptive),
            "fedyogi" => FederatedAlgorithm::FedYogi(adaptive),
            "fedadam" => FederatedAlgorithm::FedAdam(adaptive),
            "scaffold" => FederatedAlgorithm::Scaffold,
            other => {
                let known = federated::NAMES.join(", ");
                rules.complain("federation.strategy", format!("found {other:?}; allowed: {known}"));
                return None;
            }
        })
    }

    fn check(&self, strategy: &str, rules: &mut Rules) {
        if let Some(flavour) = self.flavour.as_deref().filter(|&flavour| flavour != "openfedllm") {
            rules.complain(&format!("{KEY}.flavour"), format!("found {flavour:?}; allowed: \"openfedllm\""));
        }
        let adaptive: &[&str] = &["fedyogi", "fedadam", "fedadagrad"];
        for (name, value, readers) in [
            ("proximal_mu", self.proximal_mu, &["fedprox"] as &[&str]),
            ("beta1", self.beta1, &["fedavgm", "fedyogi", "fedadam"]),
            ("beta2", self.beta2, &["fedyogi", "fedadam"]),
            ("tau", self.tau, adaptive),
            ("server_learning_rate", self.server_learning_rate, adaptive),
        ] {
            let Some(value) = value else { continue };
            let key = format!("{KEY}.{name}");
            if !readers.contains(&strategy) && federated::NAMES.contains(&strategy) {
                let readers = readers.join(", ");
                rules.complain(&key, format!("is set, but {strategy} does not read it; read by {readers}"));
            }
            match name {
                "beta1" | "beta2" => rules.below_one(&key, value),
                "proximal_mu" => rules.not_negative(&key, value),
                _ => rules.positive(&key, value),
            }
        }
    }
}
