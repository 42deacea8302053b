//! What the runs of an experiment share: what they are told, and what they make.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use fedward_actors::{CancelFlag, ports::Observer};
use serde_json::{Value, json};

use super::{Existing, ExperimentError, Extensions, PAGE, baseline::Evaluations, variants::COMPARISON};
use crate::{
    progress::Progress,
    scenario::{self, GuardSection, Scenario, ScenarioFile},
    store::{CodeChange, FolderLock, RunDirectory, Unfinished},
    telemetry::Telemetry,
    wiring::Workshop,
};

/// The code that computes, as manifests record it.
pub(super) const CODE: &str = env!("FEDWARD_CODE");

/// All runs of a scenario file.
pub(super) struct Context {
    pub(super) file: ScenarioFile,
    pub(super) out: PathBuf,
    pub(super) existing: Existing,
    /// Whether runs may go on that another build has begun.
    pub(super) code_change: CodeChange,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) telemetry: Telemetry,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) cancel: CancelFlag,
    pub(super) extensions: Extensions,
    /// Taken away as soon as the first run begins.
    pub(super) stale: Mutex<Stale>,
}

/// What runs make for one another: models, guards and trainings, and measurements of what they start from.
pub(super) struct Shared {
    pub(super) workshop: Workshop,
    pub(super) evaluations: Evaluations,
}

/// What an earlier command has completed where this one begins afresh: beside new runs it would pass for one of them.
#[derive(Default)]
pub(super) struct Stale {
    runs: Vec<PathBuf>,
    /// Made of those runs.
    files: Vec<PathBuf>,
}

/// What stands where a scenario's runs begin afresh.
pub(super) fn stale(file: &ScenarioFile, out: &Path) -> Stale {
    let runs = file.scenarios.iter().map(|scenario| out.join(&scenario.variant)).collect();
    let files = [COMPARISON, PAGE].map(|name| out.join(name));
    Stale { runs, files: if file.has_variants() { files.into() } else { Vec::new() } }
}

impl Stale {
    /// Takes it away, but for `own`, which whoever is going to run there sees to.
    fn clear(&self, own: &Path, unfinished: Unfinished, progress: &dyn Progress) -> Result<(), ExperimentError> {
        let runs: Vec<_> = self.runs.iter().filter(|run| *run != own && RunDirectory::is_at(run)).collect();
        // All or none.
        let _locks: Vec<_> = runs.iter().map(|run| FolderLock::take(run)).collect::<Result<_, _>>()?;
        for run in runs {
            progress.line(&format!("{}: an earlier run gives way, to be run again", run.display()));
            RunDirectory::create(run, unfinished)?;
        }
        for file in self.files.iter().filter(|file| file.exists()) {
            std::fs::remove_file(file).map_err(ExperimentError::io(file))?;
        }
        Ok(())
    }
}

impl Context {
    pub(super) fn shared(&self) -> Shared {
        let workshop = Workshop::new().with_benchmarks(self.extensions.benchmarks.clone());
        Shared { workshop, evaluations: Evaluations::new() }
    }

    /// Takes away what is stale as the run at `own` begins, once.
    pub(super) fn clear_stale(&self, own: &Path) -> Result<(), ExperimentError> {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        stale.clear(own, self.unfinished(), self.progress.as_ref())
    }

    /// Returns the guard that judges responses in all runs.
    pub(super) fn judge(&self) -> Option<GuardSection> {
        self.file.judge()
    }

    /// Whether runs go on where earlier ones have stopped.
    pub(super) fn resumes(&self) -> bool {
        self.existing == Existing::Resume
    }

    /// What becomes of runs that have not completed. Nothing is lost of one to be resumed that has stored no round.
    pub(super) fn unfinished(&self) -> Unfinished {
        if self.existing == Existing::Keep { Unfinished::Keep } else { Unfinished::Replace }
    }

    /// What a run's manifest says of a scenario, with what the program adds to it.
    pub(super) fn recorded(&self, scenario: &Scenario) -> Result<Value, ExperimentError> {
        let mut recorded = scenario.recorded()?;
        if !self.extensions.names.is_empty() {
            recorded["scenario"]["extensions"] = json!(self.extensions.names);
        }
        Ok(recorded)
    }

    /// Refuses a place that holds something that is to stay, before anything is computed.
    pub(super) fn refuse_what_is_taken(&self, scenario: &Scenario, out: &Path) -> Result<(), ExperimentError> {
        if self.resumes() && RunDirectory::is_at(out) {
            let recorded = self.recorded(scenario)?;
            let check = |run: RunDirectory| run.check_resumable(&recorded, CODE, self.code_change);
            Ok(RunDirectory::open(out).and_then(check)?)
        } else {
            Ok(RunDirectory::check_place(out, self.unfinished())?)
        }
    }

    /// Says what is going to be done and what is taken for granted.
    pub(super) fn announce(&self) {
        let Some(scenario) = self.file.scenarios.first() else { return };
        self.progress.line(&scenario.question);
        let headline: Vec<_> = scenario::headline(&self.file.scenarios)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        self.progress.line(&headline.join(" · "));
        if let Some(address) = self.metrics {
            self.progress.line(&format!("metrics: http://{address}/metrics"));
        }
        for name in &self.extensions.names {
            self.progress.line(&format!("added by the program: {name}"));
        }
        let mut assumptions: Vec<_> = self.file.scenarios.iter().flat_map(|scenario| &scenario.assumptions).collect();
        assumptions.sort();
        assumptions.dedup();
        for assumption in assumptions {
            self.progress.line(&format!("assumed: {assumption}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn runs_of_an_earlier_command_do_not_stand_beside_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let runs = vec![at("own"), at("other"), at("new")];
        for run in &runs[..2] {
            let directory = RunDirectory::create(run, Unfinished::Keep).unwrap();
            directory.write_manifest(&json!({"scenario": {}, "versions": {"fedward": "1"}})).unwrap();
        }
        std::fs::write(at("comparison.json"), "[]").unwrap();
        std::fs::write(at("other/notes.txt"), "mine").unwrap();
        let stale = Stale { runs, files: vec![at("comparison.json"), at("report.html")] };
        stale.clear(&at("own"), Unfinished::Keep, &Silent).unwrap();
        assert!(RunDirectory::is_at(&at("own")) && !RunDirectory::is_at(&at("other")));
        assert!(!at("comparison.json").exists() && !at("new").exists());
        assert_eq!(std::fs::read_to_string(at("other/notes.txt")).unwrap(), "mine");
    }
}
