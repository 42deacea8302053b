//! Server momentum ("Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019).

use std::collections::BTreeMap;

use fedward_actors::{ports::PortResult, protocol::RoundId};
use serde::Serialize;

use super::{Combined, ServerOptimizer};
use crate::federated::{
    Flavour,
    aggregate::l2_norm,
    state::{from_bytes, to_bytes},
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

/// Momentum on the server, Δ being the combined change.
///
/// | form | momentum | step |
/// |---|---|---|
/// | paper, Flower | `m ← β m + Δ`, from 0 | `w ← w + η m` |
/// | `OpenFedLLM` | `m ← β m + (1 − β) Δ`, in the first round Δ | `w ← w + m` |
///
/// In `OpenFedLLM`'s form the first cohort counts `1 / (1 − β)` times as much as any later one.
#[derive(Clone, Debug)]
pub(super) struct Momentum {
    settings: MomentumSettings,
    /// m; empty before the first round.
    momentum: Vec<f32>,
}

impl Momentum {
    pub(super) const fn new(settings: MomentumSettings) -> Self {
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

impl ServerOptimizer for Momentum {
    fn step(&mut self, _: RoundId, global: &[f32], combined: Combined) -> Vec<f32> {
        let delta = combined.change(global);
        let MomentumSettings { server_learning_rate, beta1, .. } = self.settings;
        let share = self.share_of_change();
        self.momentum.resize(delta.len(), 0.0);
        let moved = self.momentum.iter().zip(delta).map(|(&m, delta)| (beta1 * f64::from(m) + share * delta) as f32);
        self.momentum = moved.collect();
        let steps = global.iter().zip(&self.momentum);
        steps.map(|(&w, &m)| (f64::from(w) + server_learning_rate * f64::from(m)) as f32).collect()
    }

    fn state(&self) -> Vec<u8> {
        to_bytes(&[&self.momentum])
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        let [momentum] = from_bytes("momentum", state)?;
        self.momentum = momentum;
        Ok(())
    }

    fn report(&self) -> BTreeMap<String, f64> {
        BTreeMap::from([("momentum_norm".to_owned(), l2_norm(&self.momentum))])
    }
}
