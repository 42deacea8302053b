//! `[lora]`: the adapter's size and place.

use fedward_actors::protocol::ClientRanks;
use serde::Deserialize;

use super::rules::Rules;
use crate::lora::{LoraConfig, MOST_RANK, Target};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLora {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: Vec<Target>,
    pub use_rslora: bool,
    pub client_ranks: Vec<usize>,
}

impl Default for RawLora {
    fn default() -> Self {
        let targets = vec![Target::QProj, Target::VProj];
        Self { rank: 16, alpha: 32.0, dropout: 0.0, targets, use_rslora: false, client_ranks: Vec::new() }
    }
}

impl RawLora {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.check((1..=MOST_RANK).contains(&self.rank), "lora.rank", || {
            format!("found {}; allowed: 1 to {MOST_RANK}", self.rank)
        });
        rules.positive("lora.alpha", self.alpha);
        rules.below_one("lora.dropout", self.dropout);
        if let Some(other) = self.client_ranks.iter().find(|rank| !(1..=self.rank).contains(rank)) {
            rules.complain("lora.client_ranks", format!("found {other}; allowed: 1 to lora.rank = {}", self.rank));
        }
        rules.check(!self.targets.is_empty(), "lora.targets", || "found none; allowed: one or more layers".into());
    }

    /// The ranks that clients train, where they are not all of the adapter's.
    pub(super) fn client_ranks(&self) -> Option<ClientRanks> {
        ClientRanks::new(self.client_ranks.clone())
    }

    pub(super) fn resolve(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            targets: self.targets.iter().copied().collect(),
            use_rslora: self.use_rslora,
        }
    }
}
