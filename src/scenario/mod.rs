//! Scenario files: the TOML as written, checked and resolved into what a run does.
//!
//! [`load`] reads a file into one [`Scenario`] a variant. Nothing is checked twice later: a [`Scenario`] that exists is
//! consistent. Every complaint names file, line, key, what was found and what is allowed, and all of them come at once.
//!
//! Each section of the file has a module: its keys as written, the rules that they obey, what they resolve to, and what
//! a run with them takes for granted.

mod attack;
mod axes;
mod cai;
mod data;
mod document;
mod endpoint;
mod evaluation;
mod faults;
mod federation;
mod grid;
mod guard;
mod lora;
mod model;
mod raw;
mod rules;
mod schedule;
mod screen;
mod seeds;
mod server;
mod start;
mod strategy;
mod time;
mod training;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use cai::CaiSection;
pub use data::{DataSection, HarmfulClients, PartitionName, RowSource};
pub use evaluation::{EvaluationSection, JudgeGuard};
pub use federation::{FederationMode, FederationSection};
pub use grid::{GridFile, load_grid, load_grid_if_any};
pub use guard::{GuardSection, GuardSource, HeadRows, PolicyName};
pub use model::{DeviceName, ModelSection, PrecisionName};
pub use screen::ScreenSection;
pub use seeds::Seeds;
pub use start::StartSection;
pub use training::TrainingSection;

use fedward_actors::{DeviceProfile, Gather, faults::FaultPlan, protocol::ClientRanks};

use crate::{attacks::AttackPlan, federated::PipelineSettings, lora::LoraConfig};

/// A setting that is as it was before there was one does not tell runs apart.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One run: a variant of a scenario file with every default filled in and every rule checked.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    /// The file's name for itself.
    pub name: String,
    /// The question that the file answers.
    pub question: String,
    /// The variant's name; empty for a file without variants.
    pub variant: String,
    /// What it is on each axis of the file, in their order: nothing in a file without axes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub point: Vec<(String, String)>,
    /// What all random streams come from, but for those with a seed of their own.
    pub seed: u64,
    /// Seeds of their own.
    #[serde(skip_serializing_if = "is_default")]
    pub seeds: Seeds,
    /// The base model.
    pub model: ModelSection,
    /// The adapter's size and place.
    pub lora: LoraConfig,
    /// The ranks that clients train, where they are not all of the adapter's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ranks: Option<ClientRanks>,
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
    /// The update-level defence, if there is one.
    pub screen: Option<ScreenSection>,
    /// Who works against the federation.
    #[serde(rename = "attack", skip_serializing_if = "is_default")]
    pub attacks: Vec<AttackPlan>,
    /// The server's pipeline, where it is not the strategy's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<PipelineSettings>,
    /// What goes wrong on purpose.
    #[serde(skip_serializing_if = "is_default")]
    pub faults: FaultPlan,
    /// What clients run on, where time is simulated.
    #[serde(skip_serializing_if = "is_default")]
    pub devices: Option<DeviceProfile>,
    /// When a round stops waiting for clients.
    #[serde(skip_serializing_if = "is_default")]
    pub gather: Gather,
    /// Constitutional AI, if there is any.
    pub cai: Option<CaiSection>,
    /// What is measured, and when.
    pub evaluation: EvaluationSection,
    /// What had to be assumed, in words: printed when a run starts.
    pub assumptions: Vec<String>,
    /// What the file, its variant and `--set` say, under their own keys.
    #[serde(skip)]
    pub written: serde_json::Value,
}

/// A scenario file: its runs, in the order of its variants.
#[derive(Clone, Debug)]
pub struct ScenarioFile {
    /// The file.
    pub path: PathBuf,
    /// One scenario a variant, or a single one.
    pub scenarios: Vec<Scenario>,
    /// Whether it has a `[grid]`, which only `fedward grid` reads.
    pub has_grid: bool,
}

/// Where what the paths of a scenario lead to must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// On this machine, which is to run it.
    Here,
    /// On another one.
    Elsewhere,
}

impl Scenario {
    /// What tells this run from others: the variant's name, or the scenario's where it has no variants.
    pub fn label(&self) -> &str {
        if self.variant.is_empty() { &self.name } else { &self.variant }
    }

    /// Returns the seed of rows.
    pub fn data_seed(&self) -> u64 {
        self.seeds.data.unwrap_or(self.seed)
    }

    /// Returns the seed of training.
    pub fn training_seed(&self) -> u64 {
        self.seeds.training.unwrap_or(self.seed)
    }

    /// Returns the seed of evaluation.
    pub fn evaluation_seed(&self) -> u64 {
        self.seeds.evaluation.unwrap_or(self.seed)
    }

    /// Returns the seed of what goes wrong on purpose.
    pub fn attack_seed(&self) -> u64 {
        self.seeds.attack.unwrap_or(self.seed)
    }

    /// What a run's manifest says of it: what it is, and what was written.
    ///
    /// # Errors
    ///
    /// What `serde_json` complains of.
    pub fn recorded(&self) -> serde_json::Result<serde_json::Value> {
        Ok(serde_json::json!({ "scenario": serde_json::to_value(self)?, "written": self.written }))
    }
}

impl ScenarioFile {
    /// What somebody should know who runs the variants of a file with a `[grid]`.
    pub fn grid_left_aside(&self) -> Option<String> {
        self.has_grid.then(|| {
            format!(
                "[grid] is left aside: each variant is taken once, with federation.strategy and seed as they are; fedward grid {} \
                 takes it with every strategy and seed of [grid]",
                self.path.display()
            )
        })
    }

    /// Returns the guard that judges responses in all runs of the file, which is one for all that are compared.
    pub fn judge(&self) -> Option<GuardSection> {
        let is_defended = |scenario: &Scenario| scenario.guard.is_some() || scenario.cai.is_some();
        match self.scenarios.first()?.evaluation.judge_guard {
            JudgeGuard::Independent => self.scenarios.iter().any(is_defended).then(GuardSection::independent_judge),
            JudgeGuard::Filter => self.scenarios.iter().find_map(|scenario| scenario.guard.clone()),
            JudgeGuard::Off => None,
        }
    }

    /// Whether the file lists variants.
    pub fn has_variants(&self) -> bool {
        self.scenarios.iter().any(|scenario| !scenario.variant.is_empty())
    }
}

/// One complaint about a scenario file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Section by section.
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
    load_for(path, sets, Paths::Here).map(|(file, _)| file)
}

/// As [`load`], also for another machine: then paths that lead to nothing here are no errors but are told beside the file.
///
/// # Errors
///
/// As [`load`].
pub fn load_for(path: &Path, sets: &[String], paths: Paths) -> Result<(ScenarioFile, Vec<Problem>), ScenarioError> {
    let document = document::Document::read(path, sets)?;
    let mut scenarios = Vec::new();
    let (mut problems, mut missing) = (Vec::new(), Vec::new());
    for variant in document.variants() {
        match document.deserialize(&variant) {
            Ok(raw) => {
                let resolved = raw.resolve(&document, &variant);
                scenarios.extend(resolved.scenario);
                problems.extend(resolved.broken);
                missing.extend(resolved.missing);
            }
            Err(error) => problems.extend(error.problems),
        }
    }
    if paths == Paths::Here {
        problems.append(&mut missing);
    }
    if problems.is_empty() {
        problems.extend(measured_otherwise(&document, &scenarios));
    }
    // Variants share most of the file, and so most of its faults.
    let mut told = HashSet::new();
    problems.retain(|problem| told.insert(problem.clone()));
    missing.retain(|problem| told.insert(problem.clone()));
    if problems.is_empty() {
        let has_grid = document.grid().is_some();
        Ok((ScenarioFile { path: path.to_owned(), scenarios, has_grid }, missing))
    } else {
        Err(ScenarioError { problems })
    }
}

/// Complains of variants that would be measured on other goals, or judged by another guard, than the first: they are compared.
fn measured_otherwise(document: &document::Document, scenarios: &[Scenario]) -> Vec<Problem> {
    let Some(first) = scenarios.first() else { return Vec::new() };
    let mut problems = Vec::new();
    for (variant, scenario) in document.variants().iter().zip(scenarios) {
        let (own, common) = (&scenario.evaluation, &first.evaluation);
        for (key, differs) in [
            ("evaluation.split", own.split != common.split),
            ("evaluation.advbench_goals", own.advbench_goals != common.advbench_goals),
            ("evaluation.judge_guard", own.judge_guard != common.judge_guard),
        ] {
            let message = "differs between variants, which are compared; set it once for all of them";
            problems.extend(differs.then(|| document.problem(variant, key, message.to_owned())));
        }
    }
    problems
}

/// Counts of scenarios that people ask for first, by name; where scenarios differ, all values in their order.
pub fn headline(scenarios: &[Scenario]) -> BTreeMap<&'static str, String> {
    let mut values: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for Scenario { federation, training: TrainingSection { sft, .. }, data, .. } in scenarios {
        for (name, value) in [
            ("clients", format!("{} ({} a round)", federation.clients, federation.cohort)),
            ("rounds", federation.rounds.to_string()),
            ("local work", format!("{} of {}", counted(sft.steps, "step"), counted(sft.batch_size, "row"))),
            ("harmful rows", format!("{:.0}%", 100.0 * data.harmful_share)),
        ] {
            let values = values.entry(name).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
    values.into_iter().map(|(name, values)| (name, values.join(" or "))).collect()
}

/// A number of things, in words for people.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod readme_tests;
#[cfg(test)]
mod tests;
