//! `[start]`: the adapter that round 1 starts from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{rules::Rules, training::RawTraining};
use crate::{lora::peft, train::SftSettings};

/// The adapter that round 1 starts from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StartSection {
    /// A fresh adapter: the base model as it is.
    Fresh,
    /// A PEFT directory.
    Adapter {
        /// The directory.
        path: PathBuf,
    },
    /// A fresh adapter, fine-tuned on refusals of harmful prompts and on benign rows, so that there is safety to lose.
    Aligned {
        /// How many rows of the set are refusals, from 0 to 1.
        refusal_share: f64,
        /// Fine-tuning.
        training: SftSettings,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartName {
    #[default]
    Fresh,
    Adapter,
    Aligned,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStart {
    pub kind: StartName,
    pub path: Option<PathBuf>,
    pub refusal_share: f64,
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

impl Default for RawStart {
    fn default() -> Self {
        Self { kind: StartName::Fresh, path: None, refusal_share: 0.5, steps: 60, batch_size: 16, learning_rate: 5e-4 }
    }
}

impl RawStart {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.at_least_one("start.steps", self.steps);
        rules.at_least_one("start.batch_size", self.batch_size);
        rules.share("start.refusal_share", self.refusal_share);
        rules.positive("start.learning_rate", self.learning_rate);
    }

    /// The section, unless kind and path contradict each other.
    pub(super) fn resolve(&self, training: &RawTraining, folder: &Path, rules: &mut Rules) -> Option<StartSection> {
        match (self.kind, &self.path) {
            (StartName::Fresh, None) => Some(StartSection::Fresh),
            (StartName::Aligned, None) => Some(StartSection::Aligned {
                refusal_share: self.refusal_share,
                training: training.server_sft(self.steps, self.batch_size, self.learning_rate),
            }),
            (StartName::Adapter, Some(path)) => {
                let path = folder.join(path);
                let message =
                    || format!("found no {} in {}; allowed: a PEFT directory", peft::CONFIG_FILE, path.display());
                if path.exists() {
                    rules.check(path.join(peft::CONFIG_FILE).is_file(), "start.path", message);
                } else {
                    rules.lacks("start.path", message());
                }
                Some(StartSection::Adapter { path })
            }
            (StartName::Adapter, None) => {
                rules.complain("start.kind", "found \"adapter\", which needs start.path: a PEFT directory");
                None
            }
            (_, Some(_)) => {
                rules.complain("start.path", "is set, but only start.kind = \"adapter\" reads it");
                None
            }
        }
    }
}
