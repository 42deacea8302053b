//! The embedded guard: features of the base model, logistic heads, a threshold.

use std::sync::Arc;

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult},
    protocol::{ChatRow, Hazard, Verdict, hex},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{LogisticHead, SafetyGuard};
use crate::{
    data::{LabelledRow, hazards},
    model::{ChatModel, Features, ModelError},
};

/// A hazard gets a head of its own from so many rows on.
const FEWEST_ROWS_OF_A_HAZARD: usize = 12;

/// A guard on a base model that the program has loaded anyway.
pub struct EmbeddedGuard {
    model: Arc<ChatModel>,
    heads: GuardHeads,
    reading: FeatureReading,
    threshold: f64,
    version: String,
}

/// Where a guard reads and how much of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureReading {
    /// Blocks of the base model below the heads.
    pub layers: usize,
    /// Tokens of a row that are read.
    pub max_length: usize,
}

/// What is fitted: one head that says unsafe, and one for each hazard that there were enough rows of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardHeads {
    verdict: LogisticHead,
    hazards: Vec<(Hazard, LogisticHead)>,
}

impl GuardHeads {
    /// Fits heads to rows.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if features cannot be computed, or with rows of one class only.
    pub fn fit(
        model: &ChatModel,
        rows: &[LabelledRow],
        reading: FeatureReading,
        cancel: &CancelFlag,
    ) -> Result<Self, ModelError> {
        let conversations: Vec<ChatRow> = rows.iter().map(|row| row.row.clone()).collect();
        let features = model.features(&conversations, reading.layers, reading.max_length, model.threads, cancel)?;
        let features: Vec<_> = features.into_iter().map(|features| features.mean).collect();
        let labels: Vec<bool> = rows.iter().map(|row| row.is_unsafe).collect();
        let verdict = LogisticHead::fit(&features, &labels).ok_or_else(|| ModelError::Invalid {
            path: "guard".into(),
            problem: "its training rows are all safe or all unsafe; it needs labelled rows of both kinds".into(),
        })?;
        let of_hazard = |hazard| Some((hazard, hazard_head(&features, rows, hazard)?));
        Ok(Self { verdict, hazards: hazards::all().filter_map(of_hazard).collect() })
    }

    /// Hazards that it can name.
    pub fn hazards(&self) -> impl Iterator<Item = Hazard> {
        self.hazards.iter().map(|(hazard, _)| *hazard)
    }

    /// Whether all heads read features of this width.
    pub(super) fn read(&self, width: usize) -> bool {
        [&self.verdict].into_iter().chain(self.hazards.iter().map(|(_, head)| head)).all(|head| head.width() == width)
    }

    fn assess(&self, features: &Features, threshold: f64) -> Verdict {
        let mut verdict = Verdict::of_probability(self.verdict.probability(&features.mean), threshold);
        verdict.is_cut = features.is_cut;
        if verdict.is_unsafe {
            let named = self.hazards.iter().filter(|(_, head)| head.probability(&features.mean) >= 0.5);
            verdict.hazards = named.map(|(hazard, _)| *hazard).collect();
        }
        verdict
    }
}

/// A head that tells rows of a hazard from all others whose hazards are known; `None` where there are too few.
fn hazard_head(features: &[Vec<f32>], rows: &[LabelledRow], hazard: Hazard) -> Option<LogisticHead> {
    let known = rows.iter().zip(features).filter_map(|(row, features)| Some((row.hazards.as_ref()?, features)));
    let (labels, features): (Vec<bool>, Vec<Vec<f32>>) =
        known.map(|(hazards, features)| (hazards.contains(&hazard), features.clone())).unzip();
    let enough = labels.iter().filter(|label| **label).count() >= FEWEST_ROWS_OF_A_HAZARD;
    enough.then(|| LogisticHead::fit(&features, &labels)).flatten()
}

impl EmbeddedGuard {
    /// A guard of fitted heads.
    pub fn new(model: Arc<ChatModel>, heads: GuardHeads, reading: FeatureReading, threshold: f64) -> Self {
        let mut hash = Sha256::new();
        hash.update(model.sha256.as_bytes());
        hash.update(serde_json::to_vec(&(&heads, reading, threshold)).unwrap_or_default());
        let version = format!("embedded-{}", &hex(&hash.finalize())[..12]);
        Self { model, heads, reading, threshold, version }
    }
}

impl GuardModel for EmbeddedGuard {
    fn version(&self) -> &str {
        &self.version
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let FeatureReading { layers, max_length } = self.reading;
        // One thread: the caller holds one compute slot, and clients train on the others meanwhile.
        let features = self.model.features(rows, layers, max_length, 1, cancel).map_err(PortError::from)?;
        Ok(features.iter().map(|features| self.heads.assess(features, self.threshold)).collect())
    }
}

impl SafetyGuard for EmbeddedGuard {}
