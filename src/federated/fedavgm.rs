//! Server momentum ("Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019).

use std::collections::BTreeMap;

use fedward_actors::{
    ports::{ClientUpdate, PortResult, Strategy},
    protocol::{Adapter, RoundId},
};
use serde::Serialize;

use super::{
    Flavour,
    aggregate::{change, l2_norm, mean_by_examples},
    state::{adapter_like, from_bytes, to_bytes},
};

/// Constants of server momentum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MomentumSettings {
    /// Whose form.
    pub flavour: Flavour,
    /// η; `OpenFedLLM` has none, so it is 1 there.
    pub server_learning_rate: f64,
    /// β.
    pub beta1: f64,
}

/// Momentum on the server, Δ being the mean change of the clients' adapters weighted by rows.
///
/// | form | momentum | step |
/// |---|---|---|
/// | paper, Flower | `m ← β m + Δ`, from 0 | `w ← w + η m` |
/// | `OpenFedLLM` | `m ← β m + (1 − β) Δ`, in the first round Δ | `w ← w + m` |
///
/// In `OpenFedLLM`'s form the first cohort counts `1 / (1 − β)` times as much as any later one.
#[derive(Clone, Debug)]
pub struct FedAvgM {
    settings: MomentumSettings,
    /// m; empty before the first round.
    momentum: Vec<f32>,
}

impl FedAvgM {
    /// Its name in scenarios and records.
    pub const NAME: &'static str = "fedavgm";

    /// An optimizer before its first round.
    pub const fn new(settings: MomentumSettings) -> Self {
        Self { settings, momentum: Vec::new() }
    }

    /// The share of Δ that enters the momentum.
    fn share_of_change(&self) -> f64 {
        match self.settings.flavour {
            Flavour::OpenFedLlm if !self.momentum.is_empty() => 1.0 - self.settings.beta1,
            _ => 1.0,
        }
    }
}

impl Strategy for FedAvgM {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn aggregate(&mut self, _: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
        let delta = change(global, &mean_by_examples(global, updates)?);
        let MomentumSettings { server_learning_rate, beta1, .. } = self.settings;
        let share = self.share_of_change();
        self.momentum.resize(delta.len(), 0.0);
        let moved = self.momentum.iter().zip(delta).map(|(&m, delta)| (beta1 * f64::from(m) + share * delta) as f32);
        self.momentum = moved.collect();
        let steps = global.values().iter().zip(&self.momentum);
        let next = steps.map(|(&w, &m)| (f64::from(w) + server_learning_rate * f64::from(m)) as f32);
        adapter_like(global, next.collect())
    }

    fn state(&self) -> Vec<u8> {
        to_bytes(&[&self.momentum])
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        let [momentum] = from_bytes(Self::NAME, state)?;
        self.momentum = momentum;
        Ok(())
    }

    fn report(&self) -> BTreeMap<String, f64> {
        BTreeMap::from([("momentum_norm".to_owned(), l2_norm(&self.momentum))])
    }
}
