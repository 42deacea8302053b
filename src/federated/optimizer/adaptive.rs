//! Adaptive optimizers on the server ("Adaptive Federated Optimization", 2021, Algorithm 2), in three forms.

use std::collections::BTreeMap;

use fedward_actors::{ports::PortResult, protocol::RoundId};
use fedward_aggregation::aggregators::MeanWeights;
use serde::Serialize;

use super::{Combined, ServerOptimizer};
use crate::federated::{
    Flavour,
    aggregate::l2_norm,
    state::{from_bytes, to_bytes},
};

/// How the squares of an adaptive optimizer move, `g` being what the form squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adaptivity {
    /// `v ← v + g²`; it has no momentum, `m = Δ`.
    Adagrad,
    /// `v ← v − (1 − β₂) g² sign(v − g²)`.
    Yogi,
    /// `v ← β₂ v + (1 − β₂) g²`.
    Adam,
}

impl Adaptivity {
    /// Returns `v` after a round.
    fn next_square(self, beta2: f64, square: f64, g: f64) -> f64 {
        let power = g * g;
        match self {
            Self::Adagrad => square + power,
            Self::Yogi if square > power => square - (1.0 - beta2) * power,
            Self::Yogi if square < power => square + (1.0 - beta2) * power,
            Self::Yogi => square,
            Self::Adam => beta2 * square + (1.0 - beta2) * power,
        }
    }
}

/// Constants of the adaptive optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AdaptiveSettings {
    /// Whose form.
    pub flavour: Flavour,
    /// η.
    pub server_learning_rate: f64,
    /// Share of itself that the momentum keeps; Adagrad has none.
    pub beta1: f64,
    /// Share of themselves that the squares keep; Adagrad's keep all.
    pub beta2: f64,
    /// Added to the root of the squares.
    pub tau: f64,
}

impl AdaptiveSettings {
    /// What each update counts in this form's mean.
    pub(in crate::federated) const fn mean_weights(self) -> MeanWeights {
        match self.flavour {
            Flavour::Paper | Flavour::OpenFedLlm => MeanWeights::Uniform,
            Flavour::Flower => MeanWeights::Rows,
        }
    }
}

/// An adaptive optimizer on the server: `m ← β₁ m + (1 − β₁) Δ`, `w ← w + η m / (√v + τ)`.
///
/// | | paper | `OpenFedLLM` | Flower |
/// |---|---|---|---|
/// | Δ, unless an aggregator is named | each client counts the same | the same | weighted by rows |
/// | m in the first round | (1 − β₁) Δ | Δ | (1 − β₁) Δ |
/// | squared | Δ | m | Δ |
/// | v before the first round | τ² | τ² | 0 |
/// | η in Adam's round r | η | η | `η √(1 − β₂^(r+1)) / (1 − β₁^(r+1))` |
#[derive(Clone, Debug)]
pub(super) struct Adaptive {
    adaptivity: Adaptivity,
    settings: AdaptiveSettings,
    /// m; empty before the first round.
    momentum: Vec<f32>,
    /// v; empty before the first round.
    squares: Vec<f32>,
}

impl Adaptive {
    pub(super) const fn new(adaptivity: Adaptivity, settings: AdaptiveSettings) -> Self {
        Self { adaptivity, settings, momentum: Vec::new(), squares: Vec::new() }
    }

    /// Moves m and v by Δ.
    fn observe(&mut self, delta: &[f64]) {
        let AdaptiveSettings { flavour, beta1, beta2, tau, .. } = self.settings;
        let takes_all = flavour == Flavour::OpenFedLlm && self.momentum.is_empty();
        let kept = if takes_all || self.adaptivity == Adaptivity::Adagrad { 0.0 } else { beta1 };
        self.momentum.resize(delta.len(), 0.0);
        let moved = self.momentum.iter().zip(delta).map(|(&m, delta)| kept * f64::from(m) + (1.0 - kept) * delta);
        self.momentum = moved.map(|m| m as f32).collect();
        let first_square = if flavour == Flavour::Flower { 0.0 } else { tau * tau };
        self.squares.resize(delta.len(), first_square as f32);
        let squared = |m: f32, delta: f64| if flavour == Flavour::OpenFedLlm { f64::from(m) } else { delta };
        let steps = self.squares.iter().zip(&self.momentum).zip(delta);
        let next =
            steps.map(|((&v, &m), &delta)| self.adaptivity.next_square(beta2, f64::from(v), squared(m, delta)) as f32);
        self.squares = next.collect();
    }

    /// Returns η in `round`.
    fn rate(&self, round: RoundId) -> f64 {
        let AdaptiveSettings { flavour, server_learning_rate, beta1, beta2, .. } = self.settings;
        if flavour != Flavour::Flower || self.adaptivity != Adaptivity::Adam {
            return server_learning_rate;
        }
        let power = f64::from(round.0) + 1.0;
        server_learning_rate * (1.0 - beta2.powf(power)).sqrt() / (1.0 - beta1.powf(power))
    }
}

impl ServerOptimizer for Adaptive {
    fn step(&mut self, round: RoundId, global: &[f32], combined: Combined) -> Vec<f32> {
        let delta = combined.change(global);
        self.observe(&delta);
        let (rate, tau) = (self.rate(round), self.settings.tau);
        let steps = self.momentum.iter().zip(&self.squares);
        let next = global
            .iter()
            .zip(steps)
            .map(|(&value, (&m, &v))| (f64::from(value) + rate * f64::from(m) / (f64::from(v).sqrt() + tau)) as f32);
        next.collect()
    }

    fn state(&self) -> Vec<u8> {
        to_bytes(&[&self.momentum, &self.squares])
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        let name = match self.adaptivity {
            Adaptivity::Adagrad => "adagrad",
            Adaptivity::Yogi => "yogi",
            Adaptivity::Adam => "adam",
        };
        let [momentum, squares] = from_bytes(name, state)?;
        (self.momentum, self.squares) = (momentum, squares);
        Ok(())
    }

    fn report(&self) -> BTreeMap<String, f64> {
        let norms = [("momentum_norm", &self.momentum), ("squares_norm", &self.squares)];
        norms.into_iter().map(|(name, values)| (name.to_owned(), l2_norm(values))).collect()
    }
}
