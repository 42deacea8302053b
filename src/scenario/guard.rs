//! `[guard]`: the row filter.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fedward_actors::policy::{Assessed, VerdictOrder};
use serde::{Deserialize, Serialize};

use super::{endpoint::RawEndpoint, is_default, model::RawModel, rules::Rules};
use crate::{
    data::catalogue,
    endpoint::EndpointSettings,
    model::Checkpoint,
    safety::guard::{Fitted, GuardFile, GuardProgram, part_read, program_problem},
};

/// The row filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardSection {
    /// What becomes of a row that the guard calls unsafe.
    pub policy: PolicyName,
    /// Which of a client's rows gets which verdict.
    #[serde(skip_serializing_if = "is_default")]
    pub verdicts: VerdictOrder,
    /// What of a row it is shown.
    pub assess: Assessed,
    /// A row is unsafe unless the probability that it is safe exceeds 1 less this.
    pub threshold: f64,
    /// What gives the verdicts.
    pub source: GuardSource,
}

/// What becomes of a row that the guard calls unsafe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// It is left out.
    #[default]
    Drop,
    /// A refusal takes the place of its response.
    Replace,
    /// Its loss counts `1 − P(unsafe)` times.
    Reweight,
}

/// Whose rows an embedded head is fitted on; the two share none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadRows {
    /// Those of a guard that filters rows and revisions.
    #[default]
    Guard,
    /// Those of a judge that looks at evaluated responses.
    Judge,
}

/// What gives a guard's verdicts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GuardSource {
    /// A head on the run's own base model, fitted when the run starts.
    Embedded {
        /// Transformer blocks below the head; `None` means half of them.
        layers: Option<usize>,
        /// Tokens of a row that it reads.
        max_length: usize,
        /// Rows that the head is trained on, at most.
        train_rows: usize,
        /// Whose rows it is fitted on.
        #[serde(skip_serializing_if = "is_default")]
        rows: HeadRows,
    },
    /// What `fedward guard train` has made.
    Trained {
        /// Its directory.
        path: PathBuf,
    },
    /// A Llama Guard checkpoint.
    LlamaGuard {
        /// Its directory.
        model: PathBuf,
        /// Tokens of the longest question, the model's instructions included.
        max_length: usize,
    },
    /// A program of the user's, which rows are piped to.
    Program {
        /// How it is started.
        program: GuardProgram,
    },
    /// A Llama Guard behind an OpenAI-compatible endpoint, which rows are sent to.
    Endpoint {
        /// Where it is.
        endpoint: EndpointSettings,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GuardName {
    #[default]
    Embedded,
    Trained,
    LlamaGuard,
    Program,
    Endpoint,
}

impl GuardName {
    const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Trained => "trained",
            Self::LlamaGuard => "llama_guard",
            Self::Program => "program",
            Self::Endpoint => "endpoint",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGuard {
    pub enabled: bool,
    pub kind: GuardName,
    pub policy: PolicyName,
    pub verdicts: VerdictOrder,
    pub assess: Assessed,
    pub threshold: Option<f64>,
    pub layers: Option<usize>,
    pub max_length: Option<usize>,
    pub train_rows: Option<usize>,
    pub path: Option<PathBuf>,
    pub model: Option<PathBuf>,
    pub program: Option<Vec<String>>,
    pub timeout_seconds: Option<f64>,
    pub endpoint: Option<RawEndpoint>,
}

/// Where nothing else is said.
const THRESHOLD: f64 = 0.5;
const EMBEDDED_MAX_LENGTH: usize = 96;
const EMBEDDED_TRAIN_ROWS: usize = 600;
const LLAMA_GUARD_MAX_LENGTH: usize = 1024;
const PROGRAM_TIMEOUT_SECONDS: f64 = 60.0;

impl RawGuard {
    pub(super) fn check(&self, rules: &mut Rules) {
        if let Some(threshold) = self.threshold {
            rules.share("guard.threshold", threshold);
        }
        if let Some(max_length) = self.max_length {
            rules.at_least_sixteen_tokens("guard.max_length", max_length);
        }
        if let Some(train_rows) = self.train_rows {
            rules.check(train_rows >= 100, "guard.train_rows", || {
                format!("found {train_rows}; allowed: 100 or more (fewer make no guard worth measuring)")
            });
        }
        let unread = |rules: &mut Rules, key: &str, is_set: bool, readers: &[GuardName]| {
            rules.check(!is_set || readers.contains(&self.kind), &format!("guard.{key}"), || {
                let readers: Vec<_> = readers.iter().map(|reader| format!("{:?}", reader.name())).collect();
                format!(
                    "is set, but guard.kind = {:?} does not read it; read by {}",
                    self.kind.name(),
                    readers.join(", ")
                )
            });
        };
        unread(rules, "layers", self.layers.is_some(), &[GuardName::Embedded]);
        unread(rules, "train_rows", self.train_rows.is_some(), &[GuardName::Embedded]);
        unread(rules, "max_length", self.max_length.is_some(), &[GuardName::Embedded, GuardName::LlamaGuard]);
        unread(rules, "path", self.path.is_some(), &[GuardName::Trained]);
        unread(rules, "model", self.model.is_some(), &[GuardName::LlamaGuard]);
        unread(rules, "program", self.program.is_some(), &[GuardName::Program]);
        unread(rules, "timeout_seconds", self.timeout_seconds.is_some(), &[GuardName::Program]);
        unread(rules, "endpoint", self.endpoint.is_some(), &[GuardName::Endpoint]);
        if let Some(seconds) = self.timeout_seconds {
            rules.positive("guard.timeout_seconds", seconds);
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.check("guard.endpoint", rules);
        }
        rules.check(self.threshold.is_none() || self.kind != GuardName::Endpoint, "guard.threshold", || {
            "is set, but guard.kind = \"endpoint\" gives words and no probabilities; remove it".into()
        });
    }

    /// The section; none if it is not enabled, or what it names is no guard. Paths are relative to `folder`.
    /// Waits of an endpoint's client are drawn with `seed`.
    pub(super) fn resolve(
        &self,
        (base, seed): (&RawModel, u64),
        folder: &Path,
        rules: &mut Rules,
    ) -> Option<GuardSection> {
        if !self.enabled {
            return None;
        }
        let (source, threshold) = match self.kind {
            GuardName::Embedded => (self.embedded(base, folder, rules), THRESHOLD),
            GuardName::Trained => self.trained(folder, rules)?,
            GuardName::LlamaGuard => (self.llama_guard(folder, rules)?, THRESHOLD),
            GuardName::Program => (self.program(folder, rules)?, THRESHOLD),
            GuardName::Endpoint => (self.endpoint(seed, rules)?, THRESHOLD),
        };
        let threshold = self.threshold.unwrap_or(threshold);
        Some(GuardSection { policy: self.policy, verdicts: self.verdicts, assess: self.assess, threshold, source })
    }

    fn embedded(&self, base: &RawModel, folder: &Path, rules: &mut Rules) -> GuardSource {
        if let (Some(layers), Some(allowed)) = (self.layers, self.layers.and_then(|_| layers_of(base, folder))) {
            rules.check((1..=allowed).contains(&layers), "guard.layers", || {
                format!("found {layers}; allowed: 1 to {allowed}, as many as the base model has")
            });
        }
        GuardSource::Embedded {
            layers: self.layers,
            max_length: self.max_length.unwrap_or(EMBEDDED_MAX_LENGTH),
            train_rows: self.train_rows.unwrap_or(EMBEDDED_TRAIN_ROWS),
            rows: HeadRows::Guard,
        }
    }

    /// With the threshold that it was made with.
    fn trained(&self, folder: &Path, rules: &mut Rules) -> Option<(GuardSource, f64)> {
        let Some(path) = self.path.as_ref().map(|path| folder.join(path)) else {
            rules
                .complain("guard.kind", "found \"trained\", which needs guard.path: what fedward guard train has made");
            return None;
        };
        match GuardFile::read(&path) {
            Ok(file) => {
                let is_shown = [Assessed::Both, self.assess].contains(&file.assess) || self.assess == Assessed::Both;
                rules.check(is_shown, "guard.assess", || {
                    format!("the guard in {} reads {} and nothing else", path.display(), part_read(file.assess))
                });
                Some((GuardSource::Trained { path }, file.threshold))
            }
            Err(error) if !path.exists() => {
                rules.lacks("guard.path", error.to_string());
                Some((GuardSource::Trained { path }, THRESHOLD))
            }
            Err(error) => {
                rules.complain("guard.path", error.to_string());
                None
            }
        }
    }

    fn llama_guard(&self, folder: &Path, rules: &mut Rules) -> Option<GuardSource> {
        let Some(model) = self.model.as_ref().map(|model| folder.join(model)) else {
            rules.complain("guard.kind", "found \"llama_guard\", which needs guard.model: the checkpoint's directory");
            return None;
        };
        if !model.join("config.json").is_file() {
            let message = format!("there is no file config.json in {}", model.display());
            if model.exists() {
                rules.complain("guard.model", message);
                return None;
            }
            rules.lacks("guard.model", message);
        }
        let max_length = self.max_length.unwrap_or(LLAMA_GUARD_MAX_LENGTH);
        Some(GuardSource::LlamaGuard { model, max_length })
    }

    fn program(&self, folder: &Path, rules: &mut Rules) -> Option<GuardSource> {
        let Some(command) = self.program.clone() else {
            let needs = "found \"program\", which needs guard.program: the program and its arguments, as a list";
            rules.complain("guard.kind", needs);
            return None;
        };
        // What runs in the working directory is not what runs in the scenario's.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if let Some(problem) = program_problem(&command, folder) {
            rules.lacks("guard.program", problem);
        }
        let seconds = self.timeout_seconds.unwrap_or(PROGRAM_TIMEOUT_SECONDS);
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Some(GuardSource::Program { program: GuardProgram { command, folder: folder.to_owned(), timeout } })
    }

    fn endpoint(&self, seed: u64, rules: &mut Rules) -> Option<GuardSource> {
        let Some(endpoint) = &self.endpoint else {
            rules.complain("guard.kind", "found \"endpoint\", which needs guard.endpoint: its base_url and model");
            return None;
        };
        Some(GuardSource::Endpoint { endpoint: endpoint.resolve(seed) })
    }
}

/// Layers of the base model, if it is there and can be read: what is wrong with it is for whoever loads it to say.
fn layers_of(base: &RawModel, folder: &Path) -> Option<usize> {
    let path = catalogue::model(&base.resolve(folder).base).ok()?;
    Some(Checkpoint::open(&path).ok()?.config.num_hidden_layers)
}

impl GuardSection {
    /// Returns a judge of evaluated responses that has nothing in common with any guard but the model that it sits on.
    pub fn independent_judge() -> Self {
        let source = GuardSource::Embedded {
            layers: None,
            max_length: EMBEDDED_MAX_LENGTH,
            train_rows: EMBEDDED_TRAIN_ROWS,
            rows: HeadRows::Judge,
        };
        Self {
            policy: PolicyName::Drop,
            verdicts: VerdictOrder::Own,
            assess: Assessed::Both,
            threshold: THRESHOLD,
            source,
        }
    }

    /// The same guard, whatever it is used for: what its verdicts and its quality depend on.
    #[must_use]
    pub fn classifier(&self) -> Self {
        Self { policy: PolicyName::Drop, verdicts: VerdictOrder::Own, assess: Assessed::Both, ..self.clone() }
    }

    /// What a run with this section takes for granted.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let mut assumptions = vec![self.source.assumption()];
        match self.source.fitted_on() {
            Some(Assessed::Both) if self.assess != Assessed::Both => assumptions
                .push("the guard is shown a part of each row, though it was fitted on whole conversations".to_owned()),
            Some(Assessed::Query) => assumptions.push(
                "the guard reads prompts alone: what it says of responses, in Constitutional AI and benchmarks, it says of \
                 their prompts"
                    .to_owned(),
            ),
            Some(Assessed::Response) => assumptions.push("the guard reads responses alone, not their prompts".to_owned()),
            Some(Assessed::Both) | None => {}
        }
        if self.verdicts == VerdictOrder::Shuffled {
            assumptions.push(
                "a control: the guard's verdicts are dealt to each client's rows at random, so that as many rows are filtered, but \
                 not those that it calls unsafe; Constitutional AI and the judge get its verdicts as they are"
                    .to_owned(),
            );
        }
        if self.policy == PolicyName::Reweight {
            assumptions.push(
                "a row that the guard calls unsafe counts 1 - P(unsafe) times: in the loss, which is a mean over the batch's \
                 tokens whatever they weigh, and as an example in the aggregation"
                    .to_owned(),
            );
        }
        assumptions
    }
}

impl GuardSource {
    /// What of rows the guard was fitted on; `None` for one that was not fitted on rows of ours.
    fn fitted_on(&self) -> Option<Assessed> {
        match self {
            Self::Embedded { .. } => Some(Assessed::Both),
            Self::Trained { path } => Some(GuardFile::read(path).map_or(Assessed::Both, |file| file.assess)),
            Self::LlamaGuard { .. } | Self::Program { .. } | Self::Endpoint { .. } => None,
        }
    }

    fn assumption(&self) -> String {
        let is_tuned = |path: &Path| matches!(GuardFile::read(path), Ok(GuardFile { fitted: Fitted::Lora { .. }, .. }));
        let text = match self {
            Self::Embedded { .. } => {
                "the guard is a linear head on the frozen base model's hidden states, not Llama Guard 3"
            }
            Self::Trained { path } if is_tuned(path) => {
                "the guard is a fine-tuned chat model that answers in Llama Guard's form, not Llama Guard 3"
            }
            Self::Trained { .. } => "the guard is a linear head on a model's hidden states, not Llama Guard 3",
            Self::LlamaGuard { .. } => "the guard's score is the probability of \"unsafe\" over the whole vocabulary",
            Self::Program { .. } => {
                "the guard is a program of the user's, which all rows that it assesses are piped to"
            }
            Self::Endpoint { .. } => {
                "the guard is behind an endpoint, which all rows that it assesses are sent to; it gives words, no probabilities"
            }
        };
        text.to_owned()
    }
}
