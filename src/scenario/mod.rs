//! Scenario files: the TOML as written, checked and resolved into what a run does.
//!
//! [`load`] reads a file into one [`Scenario`] a variant. Nothing is checked twice later: a [`Scenario`] that exists is
//! consistent. Every complaint names file, line, key, what was found and what is allowed, and all of them come at once.

mod document;
mod raw;
mod resolve;
mod rules;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use fedward_actors::{CohortSampler, Schedule};
use serde::Serialize;

pub use raw::{DeviceName, HarmfulClients, MatcherName, PartitionName, PrecisionName};

use crate::{
    data::{PartitionScheme, RowFormat},
    lora::LoraConfig,
    train::SftSettings,
};

/// One run: a variant of a scenario file with every default filled in and every rule checked.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    /// The file's name for itself.
    pub name: String,
    /// The question that the file answers.
    pub question: String,
    /// The variant's name; empty for a file without variants.
    pub variant: String,
    /// What all random streams come from.
    pub seed: u64,
    /// The base model.
    pub model: ModelSection,
    /// The adapter's size and place.
    pub lora: LoraConfig,
    /// The adapter that round 1 starts from.
    pub start: StartSection,
    /// Clients, cohort and rounds.
    pub federation: FederationSection,
    /// What clients hold.
    pub data: DataSection,
    /// Local training.
    pub training: TrainingSection,
    /// The row filter, if there is one.
    pub guard: Option<GuardSection>,
    /// Constitutional AI, if there is any.
    pub cai: Option<CaiSection>,
    /// What is measured, and when.
    pub evaluation: EvaluationSection,
    /// What had to be assumed, in words: printed when a run starts.
    pub assumptions: Vec<String>,
}

/// The base model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSection {
    /// A name of the catalogue, a `.gguf` file or a Hugging Face directory.
    pub base: String,
    /// Where it is computed.
    pub device: DeviceName,
    /// In which numbers it is computed.
    pub precision: PrecisionName,
}

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

/// Clients, cohort and rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FederationSection {
    /// Simulated clients.
    pub clients: u32,
    /// Clients selected a round.
    pub cohort: u32,
    /// Rounds.
    pub rounds: u32,
    /// Updates below which a round is skipped.
    pub quorum: u32,
    /// How often a client whose actor died is asked in one round.
    pub max_attempts: u32,
    /// Seconds after which a client is taken for hung.
    pub client_timeout_seconds: u64,
    /// The server's algorithm.
    pub strategy: String,
    /// How the cohort is drawn.
    #[serde(serialize_with = "as_debug")]
    pub sampler: CohortSampler,
    /// Clients that compute at the same time; `None` means as many as the device serves well.
    pub slots: Option<usize>,
}

/// What clients hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataSection {
    /// Rows of each client.
    pub rows_per_client: usize,
    /// Share of harmful rows where clients hold any.
    pub harmful_share: f64,
    /// Which clients hold harmful rows.
    pub harmful_clients: HarmfulClients,
    /// Where benign rows come from.
    pub benign: RowSource,
    /// Where harmful rows come from.
    pub harmful: RowSource,
    /// How rows are spread over clients.
    #[serde(serialize_with = "as_debug")]
    pub partition: PartitionScheme,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RowSource {
    /// The seeded generator of everyday instructions.
    Everyday,
    /// AdvBench's goals with an affirmative opening as the answer, from the part set aside for clients.
    AdvBench,
    /// A file of the user's.
    File {
        /// The file.
        path: PathBuf,
        /// Its form.
        #[serde(serialize_with = "as_debug")]
        format: RowFormat,
    },
}

/// Local training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingSection {
    /// The optimizer's settings.
    pub sft: SftSettings,
    /// Tokens after which a row is cut.
    pub max_length: usize,
}

/// The row filter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardSection {
    /// Probability of harm from which a row is filtered.
    pub threshold: f64,
    /// Transformer blocks below the guard's head; `None` means half of them.
    pub layers: Option<usize>,
    /// Tokens of a row that it reads.
    pub max_length: usize,
    /// Rows that the head is trained on, at most.
    pub train_rows: usize,
}

/// Constitutional AI.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaiSection {
    /// In which rounds.
    #[serde(serialize_with = "as_debug")]
    pub schedule: Schedule,
    /// Red prompts a realignment.
    pub red_prompts: usize,
    /// Longest answer, critique and revision, in tokens.
    pub max_new_tokens: usize,
    /// Sampling temperature of all three turns; 0 is greedy.
    pub temperature: f64,
    /// Share of benign rows mixed into the fine-tuning, so that helpfulness is kept, from 0 to below 1.
    pub benign_share: f64,
    /// Fine-tuning on the revisions.
    pub training: SftSettings,
}

/// What is measured, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationSection {
    /// Between start and end, in which rounds.
    #[serde(serialize_with = "as_debug")]
    pub schedule: Schedule,
    /// AdvBench prompts of a full evaluation.
    pub prompts: usize,
    /// AdvBench prompts of an evaluation between rounds.
    pub interim_prompts: usize,
    /// Held-out benign rows whose likelihood is measured.
    pub utility_rows: usize,
    /// Longest response, in tokens.
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// What counts as a refusal.
    pub matcher: MatcherName,
}

/// A scenario file: its runs, in the order of its variants.
#[derive(Clone, Debug)]
pub struct ScenarioFile {
    /// The file.
    pub path: PathBuf,
    /// One scenario a variant, or a single one.
    pub scenarios: Vec<Scenario>,
}

impl ScenarioFile {
    /// Whether the file lists variants.
    pub fn has_variants(&self) -> bool {
        self.scenarios.iter().any(|scenario| !scenario.variant.is_empty())
    }
}

/// One complaint about a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the key is written: a line of the file, a `--set` on the command line, or nowhere (a default).
    pub place: String,
    /// The key, dotted.
    pub key: String,
    /// What was found, what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.message)
        } else {
            write!(f, "{}: {}: {}", self.place, self.key, self.message)
        }
    }
}

/// Why a scenario file cannot be run: every complaint.
#[derive(Debug, thiserror::Error)]
#[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ScenarioError {
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

/// Reads, checks and resolves a scenario file.
///
/// `sets` are `key=value` overrides, which win over the file and its variants. Relative paths in the file are relative
/// to its folder.
///
/// # Errors
///
/// [`ScenarioError`] with every complaint at once.
pub fn load(path: &Path, sets: &[String]) -> Result<ScenarioFile, ScenarioError> {
    let document = document::Document::read(path, sets)?;
    let mut scenarios = Vec::new();
    let mut problems = Vec::new();
    for variant in document.variants() {
        match document.deserialize(&variant).and_then(|raw| resolve::resolve(&raw, &document, &variant)) {
            Ok(scenario) => scenarios.push(scenario),
            Err(error) => problems.extend(error.problems),
        }
    }
    problems.dedup();
    if problems.is_empty() {
        Ok(ScenarioFile { path: path.to_owned(), scenarios })
    } else {
        Err(ScenarioError { problems })
    }
}

/// Counts of a scenario that people ask for first, by name.
pub fn headline(scenario: &Scenario) -> BTreeMap<&'static str, String> {
    let federation = &scenario.federation;
    let training = &scenario.training.sft;
    BTreeMap::from([
        ("clients", format!("{} ({} a round)", federation.clients, federation.cohort)),
        ("rounds", federation.rounds.to_string()),
        ("local work", format!("{} steps of {} rows", training.steps, training.batch_size)),
        ("harmful rows", format!("{:.0}%", 100.0 * scenario.data.harmful_share)),
    ])
}

/// Types of the actors crate that have no serialized form of their own enter the manifest in words.
fn as_debug<T: fmt::Debug, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{value:?}"))
}

#[cfg(test)]
mod tests;
