//! `federation.strategy` and `[federation.strategy_settings]`: the federated algorithm and its constants.

use serde::Deserialize;

use super::rules::Rules;
use crate::federated::{self, AdaptiveSettings, FederatedAlgorithm, Flavour, MomentumSettings};

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

/// The strategies that more than one form of is known, and the forms of each.
const FORMS: [(&str, &[Flavour]); 5] = [
    ("fedavgm", &Flavour::ALL),
    ("fedadagrad", &Flavour::ALL),
    ("fedyogi", &Flavour::ALL),
    ("fedadam", &Flavour::ALL),
    ("scaffold", &[Flavour::Paper, Flavour::OpenFedLlm]),
];

impl RawStrategySettings {
    /// The algorithm of this name with these constants, or with its form's own.
    pub(super) fn resolve(&self, strategy: &str, rules: &mut Rules) -> Option<FederatedAlgorithm> {
        let flavour = self.flavour(strategy, rules);
        self.check(strategy, flavour, rules);
        let momentum = MomentumSettings {
            flavour,
            server_learning_rate: self.server_learning_rate.unwrap_or(1.0),
            beta1: self.beta1.unwrap_or(0.9),
        };
        let adaptive = AdaptiveSettings {
            flavour,
            server_learning_rate: self.server_learning_rate.unwrap_or(match (flavour, strategy) {
                (Flavour::Flower, "fedyogi") => 1e-2,
                (Flavour::Flower, _) => 1e-1,
                _ => 1e-3,
            }),
            beta1: self.beta1.unwrap_or(0.9),
            beta2: self.beta2.unwrap_or(0.99),
            tau: self.tau.unwrap_or(1e-3),
        };
        Some(match strategy {
            "fedavg" => FederatedAlgorithm::FedAvg,
            "fedprox" => FederatedAlgorithm::FedProx { proximal_mu: self.proximal_mu.unwrap_or(0.01) },
            "fedavgm" => FederatedAlgorithm::FedAvgM(momentum),
            "fedadagrad" => FederatedAlgorithm::FedAdagrad(adaptive),
            "fedyogi" => FederatedAlgorithm::FedYogi(adaptive),
            "fedadam" => FederatedAlgorithm::FedAdam(adaptive),
            "scaffold" => FederatedAlgorithm::Scaffold { flavour },
            other => {
                let known = federated::NAMES.join(", ");
                rules.complain("federation.strategy", format!("found {other:?}; allowed: {known}"));
                return None;
            }
        })
    }

    /// The form that is asked for. Strategies of one form take any: a grid's strategies share the key.
    fn flavour(&self, strategy: &str, rules: &mut Rules) -> Flavour {
        let Some(text) = &self.flavour else { return Flavour::default() };
        let known = FORMS.iter().find(|(name, _)| *name == strategy).map_or(&Flavour::ALL as &[_], |(_, known)| known);
        match text.parse() {
            Ok(flavour) if known.contains(&flavour) => flavour,
            _ => {
                let known: Vec<_> = known.iter().map(|flavour| format!("{:?}", flavour.name())).collect();
                let message = format!("found {text:?}; allowed with {strategy}: {}", known.join(", "));
                rules.complain(&format!("{KEY}.flavour"), message);
                Flavour::default()
            }
        }
    }

    fn check(&self, strategy: &str, flavour: Flavour, rules: &mut Rules) {
        let adaptive: &[&str] = &["fedyogi", "fedadam", "fedadagrad"];
        // OpenFedLLM's momentum is its own step.
        let stepping: &[&str] =
            if flavour == Flavour::OpenFedLlm { adaptive } else { &["fedyogi", "fedadam", "fedadagrad", "fedavgm"] };
        for (name, value, readers) in [
            ("proximal_mu", self.proximal_mu, &["fedprox"] as &[&str]),
            ("beta1", self.beta1, &["fedavgm", "fedyogi", "fedadam"]),
            ("beta2", self.beta2, &["fedyogi", "fedadam"]),
            ("tau", self.tau, adaptive),
            ("server_learning_rate", self.server_learning_rate, stepping),
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
