//! A fitted guard as a directory: `guard.json`, and beside it the PEFT adapter of one that was fine-tuned.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use fedward_actors::{
    policy::Assessed,
    protocol::{Adapter, RowDigest, hex},
};
use serde::{Deserialize, Serialize};

use super::{
    ChatRespondent, EmbeddedGuard, FeatureReading, GuardHeads, GuardReport, Phrasing, ProtocolGuard, SafetyGuard,
    viewing,
};
use crate::{
    data::LabelledRow,
    lora::{LoraConfig, peft},
    model::{ChatModel, ModelError},
    store::{read_json, write_json},
};

/// Tells a folder that holds a guard.
pub const GUARD_FILE: &str = "guard.json";

/// What is in `guard.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardFile {
    /// The model under the guard: a name of the catalogue or a path.
    pub base_model: String,
    /// SHA-256 of its files.
    pub base_sha256: String,
    /// A row is called unsafe unless the probability that it is safe exceeds 1 less this.
    pub threshold: f64,
    /// What of rows it was fitted on, and reads.
    #[serde(default)]
    pub assess: Assessed,
    /// What was fitted.
    pub fitted: Fitted,
    /// What it is worth on rows that it was not fitted on.
    pub report: GuardReport,
    /// What it read of the rows that it was fitted on, each by the first half of its digest.
    pub fitted_on: BTreeSet<String>,
}

/// What was fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fitted {
    /// Heads on the model's hidden states.
    Head {
        /// Where they read.
        reading: FeatureReading,
        /// The heads.
        heads: GuardHeads,
    },
    /// An adapter, in the same directory.
    Lora {
        /// How the model is asked.
        #[serde(default)]
        phrasing: Phrasing,
        /// Tokens of the longest question.
        max_length: usize,
    },
}

impl GuardFile {
    /// Reads the file of a guard's directory.
    ///
    /// # Errors
    ///
    /// [`ModelError`] names the file and what is missing or wrong.
    pub fn read(directory: &Path) -> Result<Self, ModelError> {
        let path = path_in(directory);
        if !path.is_file() {
            let problem =
                format!("there is no {GUARD_FILE}: it is no guard's directory; fedward guard train makes one");
            return Err(ModelError::invalid(directory, problem));
        }
        let file: Self = read_json(&path).map_err(|error| ModelError::Unusable(error.to_string()))?;
        if !(0.0..=1.0).contains(&file.threshold) {
            let problem = format!("threshold: found {}; allowed: from 0 to 1", file.threshold);
            return Err(ModelError::invalid(&path, problem));
        }
        Ok(file)
    }

    /// Writes the directory; the file that says that there is a guard comes last.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if a file cannot be written.
    pub fn write(&self, directory: &Path, adapter: Option<(&LoraConfig, &Adapter)>) -> Result<(), ModelError> {
        if let Some((lora, adapter)) = adapter {
            peft::save(directory, lora, adapter, &self.base_model)?;
        }
        write_json(&path_in(directory), self).map_err(|error| ModelError::Unusable(error.to_string()))
    }

    /// The guard, on its base model.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if `model` is not the one that it was fitted on, or the directory is damaged.
    pub fn open(
        &self,
        directory: &Path,
        model: Arc<ChatModel>,
        threshold: f64,
    ) -> Result<Arc<dyn SafetyGuard>, ModelError> {
        let invalid = |problem: String| ModelError::invalid(&path_in(directory), problem);
        if model.sha256 != self.base_sha256 {
            return Err(invalid(format!(
                "it was fitted on a {} with SHA-256 {}…, but {} has {}…; fit it anew",
                self.base_model,
                &self.base_sha256.chars().take(12).collect::<String>(),
                model.name,
                &model.sha256.chars().take(12).collect::<String>(),
            )));
        }
        let adapter = match &self.fitted {
            Fitted::Head { .. } => None,
            Fitted::Lora { .. } => Some(peft::load(directory, model.base.config())?),
        };
        let guard = self.fitted.guard(model, adapter, threshold).map_err(|error| invalid(error.to_string()))?;
        Ok(viewing(guard, self.assess))
    }

    /// Takes the rows away that the guard was fitted on, or read the same of.
    pub fn without_fitted(&self, rows: Vec<LabelledRow>) -> Vec<LabelledRow> {
        let is_new = |row: &LabelledRow| !self.fitted_on.contains(&name_of(self.assess.part(&row.row).digest()));
        rows.into_iter().filter(is_new).collect()
    }
}

impl Fitted {
    /// The guard, on the model that it was fitted on; one that was fine-tuned needs its adapter.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if parts do not fit together.
    pub fn guard(
        &self,
        model: Arc<ChatModel>,
        adapter: Option<(LoraConfig, Adapter)>,
        threshold: f64,
    ) -> Result<Arc<dyn SafetyGuard>, ModelError> {
        match (self, adapter) {
            (Self::Head { reading, heads }, _) => {
                let (layers, width) = (model.base.config().num_hidden_layers, model.base.config().hidden_size as usize);
                if reading.layers > layers || !heads.read(width) {
                    let problem = format!("its heads do not fit a model of {layers} layers and width {width}");
                    return Err(ModelError::Unusable(problem));
                }
                Ok(Arc::new(EmbeddedGuard::new(model, heads.clone(), *reading, threshold)))
            }
            (Self::Lora { phrasing, max_length }, Some((_, adapter))) => {
                let respondent = ChatRespondent::tuned(model, adapter, *phrasing, *max_length)?;
                Ok(Arc::new(ProtocolGuard::new(respondent, threshold)))
            }
            (Self::Lora { .. }, None) => Err(ModelError::Unusable("the adapter is missing".into())),
        }
    }
}

/// Names of rows for [`GuardFile::fitted_on`].
pub fn names_of(rows: &[LabelledRow]) -> BTreeSet<String> {
    rows.iter().map(|row| name_of(row.row.digest())).collect()
}

fn name_of(RowDigest(digest): RowDigest) -> String {
    hex(&digest[..16])
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join(GUARD_FILE)
}
