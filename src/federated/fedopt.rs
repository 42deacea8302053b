//! Server-side optimizers ("Adaptive Federated Optimization", 2021; "Measuring the Effects of Non-Identical Data
//! Distribution for Federated Visual Classification", 2019), in `OpenFedLLM`'s form: without bias correction, the first
//! round's momentum is its Δ, and the squares begin at τ².

use std::collections::BTreeMap;

use fedward_actors::{
    ports::{ClientUpdate, PortResult, Strategy},
    protocol::{Adapter, RoundId},
};
use serde::Serialize;

use super::{
    aggregate::{l2_norm, mean_by_examples, plain_mean},
    state::{adapter_like, from_bytes, to_bytes},
};

/// Momentum on the server: `m ← β₁ m + (1 − β₁) Δ`, `w ← w + m`, Δ being the mean change weighted by rows.
#[derive(Clone, Debug)]
pub struct FedAvgM {
    beta1: f64,
    /// m; empty before the first round.
    momentum: Vec<f32>,
}

impl FedAvgM {
    /// Its name in scenarios and records.
    pub const NAME: &'static str = "fedavgm";

    /// Momentum that keeps `beta1` of itself each round.
    pub const fn new(beta1: f64) -> Self {
        Self { beta1, momentum: Vec::new() }
    }
}

impl Strategy for FedAvgM {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn aggregate(&mut self, _: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
        let delta = deltas(&mean_by_examples(global, updates)?, global);
        self.momentum = moved(&self.momentum, &delta, self.beta1);
        let next = global.values().iter().zip(&self.momentum).map(|(value, momentum)| value + momentum);
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

/// How the squares of an adaptive optimizer move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adaptivity {
    /// `v ← v + m²`, and m is Δ.
    Adagrad,
    /// `v ← v − (1 − β₂) m² sign(v − m²)`.
    Yogi,
    /// `v ← β₂ v + (1 − β₂) m²`.
    Adam,
}

/// Constants of the adaptive optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AdaptiveSettings {
    /// η.
    pub server_learning_rate: f64,
    /// Share of itself that the momentum keeps; Adagrad has none.
    pub beta1: f64,
    /// Share of themselves that the squares keep; Adagrad's keep all.
    pub beta2: f64,
    /// Added to the root of the squares.
    pub tau: f64,
}

/// An adaptive optimizer on the server: `w ← w + η m / (√v + τ)`, Δ being the mean change with every client counting the
/// same.
#[derive(Clone, Debug)]
pub struct FedOpt {
    adaptivity: Adaptivity,
    settings: AdaptiveSettings,
    /// m; empty before the first round.
    momentum: Vec<f32>,
    /// v; empty before the first round, where it is τ².
    squares: Vec<f32>,
}

impl FedOpt {
    /// An optimizer before its first round.
    pub const fn new(adaptivity: Adaptivity, settings: AdaptiveSettings) -> Self {
        Self { adaptivity, settings, momentum: Vec::new(), squares: Vec::new() }
    }

    fn next_square(&self, square: f64, momentum: f64) -> f64 {
        let (beta2, power) = (self.settings.beta2, momentum * momentum);
        match self.adaptivity {
            Adaptivity::Adagrad => square + power,
            Adaptivity::Yogi if square > power => square - (1.0 - beta2) * power,
            Adaptivity::Yogi if square < power => square + (1.0 - beta2) * power,
            Adaptivity::Yogi => square,
            Adaptivity::Adam => beta2 * square + (1.0 - beta2) * power,
        }
    }
}

impl Strategy for FedOpt {
    fn name(&self) -> &'static str {
        match self.adaptivity {
            Adaptivity::Adagrad => "fedadagrad",
            Adaptivity::Yogi => "fedyogi",
            Adaptivity::Adam => "fedadam",
        }
    }

    fn aggregate(&mut self, _: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
        let delta = deltas(&plain_mean(global, updates)?, global);
        let AdaptiveSettings { server_learning_rate, beta1, tau, .. } = self.settings;
        let beta1 = if self.adaptivity == Adaptivity::Adagrad { 0.0 } else { beta1 };
        self.momentum = moved(&self.momentum, &delta, beta1);
        self.squares.resize(delta.len(), (tau * tau) as f32);
        let squares = self.squares.iter().zip(&self.momentum);
        self.squares = squares.map(|(&v, &m)| self.next_square(f64::from(v), f64::from(m)) as f32).collect();
        let steps = self.momentum.iter().zip(&self.squares);
        let next = global.values().iter().zip(steps).map(|(&value, (&m, &v))| {
            (f64::from(value) + server_learning_rate * f64::from(m) / (f64::from(v).sqrt() + tau)) as f32
        });
        adapter_like(global, next.collect())
    }

    fn state(&self) -> Vec<u8> {
        to_bytes(&[&self.momentum, &self.squares])
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        let [momentum, squares] = from_bytes(self.name(), state)?;
        (self.momentum, self.squares) = (momentum, squares);
        Ok(())
    }

    fn report(&self) -> BTreeMap<String, f64> {
        let norms = [("momentum_norm", &self.momentum), ("squares_norm", &self.squares)];
        norms.into_iter().map(|(name, values)| (name.to_owned(), l2_norm(values))).collect()
    }
}

/// By how much the clients' mean moved away from the global adapter.
fn deltas(mean: &Adapter, global: &Adapter) -> Vec<f64> {
    mean.values().iter().zip(global.values()).map(|(&mean, &global)| f64::from(mean) - f64::from(global)).collect()
}

/// The momentum after a round: in the first one, which finds none, all of Δ.
fn moved(momentum: &[f32], delta: &[f64], beta1: f64) -> Vec<f32> {
    if momentum.is_empty() {
        return delta.iter().map(|&delta| delta as f32).collect();
    }
    momentum.iter().zip(delta).map(|(&m, delta)| (beta1 * f64::from(m) + (1.0 - beta1) * delta) as f32).collect()
}
