//! The server's step: what becomes of the global adapter once updates are combined.

mod adaptive;
mod momentum;

use std::collections::BTreeMap;

use fedward_actors::{
    ports::{PortError, PortResult},
    protocol::RoundId,
};
use serde::Serialize;

pub use adaptive::{AdaptiveSettings, Adaptivity};
pub use momentum::MomentumSettings;

use adaptive::Adaptive;
use momentum::Momentum;

/// What the updates of a round are combined into.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Combined {
    /// An adapter: the mean of the clients' adapters.
    Adapter(Vec<f32>),
    /// A change of the global adapter.
    Delta(Vec<f32>),
}

impl Combined {
    /// Returns Δ, the change of the global adapter, number by number.
    fn change(&self, global: &[f32]) -> Vec<f64> {
        match self {
            Self::Adapter(mean) => {
                mean.iter().zip(global).map(|(&mean, &global)| f64::from(mean) - f64::from(global)).collect()
            }
            Self::Delta(delta) => delta.iter().copied().map(f64::from).collect(),
        }
    }
}

/// A server optimizer: moves the global adapter by what the updates are combined into.
pub(super) trait ServerOptimizer: Send {
    /// Returns the values of the next global adapter.
    fn step(&mut self, round: RoundId, global: &[f32], combined: Combined) -> Vec<f32>;

    /// Returns what it remembers.
    fn state(&self) -> Vec<u8>;

    /// Takes up what [`ServerOptimizer::state`] gave.
    fn restore(&mut self, state: &[u8]) -> PortResult<()>;

    /// Returns what it says of itself, by name.
    fn report(&self) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }
}

/// A server optimizer with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimizerSettings {
    /// The global adapter becomes what the updates are combined into.
    Plain,
    /// Steps along a running sum of changes.
    Momentum(MomentumSettings),
    /// Steps over the root of all squares so far.
    Adagrad(AdaptiveSettings),
    /// Steps over the root of squares that move by a constant share.
    Yogi(AdaptiveSettings),
    /// Steps over the root of the mean square.
    Adam(AdaptiveSettings),
}

impl OptimizerSettings {
    /// Its name in scenarios.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Momentum(_) => "momentum",
            Self::Adagrad(_) => "adagrad",
            Self::Yogi(_) => "yogi",
            Self::Adam(_) => "adam",
        }
    }

    /// Makes it before its first round.
    pub(super) fn optimizer(self) -> Box<dyn ServerOptimizer> {
        match self {
            Self::Plain => Box::new(Plain),
            Self::Momentum(settings) => Box::new(Momentum::new(settings)),
            Self::Adagrad(settings) => Box::new(Adaptive::new(Adaptivity::Adagrad, settings)),
            Self::Yogi(settings) => Box::new(Adaptive::new(Adaptivity::Yogi, settings)),
            Self::Adam(settings) => Box::new(Adaptive::new(Adaptivity::Adam, settings)),
        }
    }
}

/// `w ← w + Δ`, without rounding where the updates are combined into an adapter.
struct Plain;

impl ServerOptimizer for Plain {
    fn step(&mut self, _: RoundId, global: &[f32], combined: Combined) -> Vec<f32> {
        match combined {
            Combined::Adapter(adapter) => adapter,
            Combined::Delta(delta) => {
                let moved = global.iter().zip(delta).map(|(&w, delta)| (f64::from(w) + f64::from(delta)) as f32);
                moved.collect()
            }
        }
    }

    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        if state.is_empty() {
            return Ok(());
        }
        Err(PortError::Failed(format!("a plain step keeps no state, found {} bytes", state.len())))
    }
}
