//! Runs as their directories tell them, also those that have not ended.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fedward_actors::{
    ports::Evaluation,
    records::{ClientRecord, RoundRecord},
};
use serde_json::Value;

use super::{RunStatus, Summary, Totals};
use crate::store::{RunDirectory, StoreError};

/// What a run's directory holds.
#[derive(Clone, Debug)]
pub struct StoredRun {
    /// What tells it from the other runs on the same page.
    pub label: String,
    /// Its directory.
    pub path: PathBuf,
    /// The question that its scenario poses.
    pub question: String,
    /// What it came to, or has come to so far.
    pub summary: Summary,
    /// Whether it has ended as it should.
    pub state: RunState,
    /// Its rounds.
    pub rounds: Vec<RoundRecord>,
    /// What its clients did in them.
    pub clients: Vec<ClientRecord>,
    /// When it began, in seconds since 1970.
    started: u64,
}

/// Whether a run has ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// All rounds are done.
    Completed,
    /// Somebody stopped it.
    Interrupted,
    /// It has no summary: it runs still, or was killed.
    Unfinished,
}

impl RunState {
    /// The state of a run with a summary.
    const fn of(status: RunStatus) -> Self {
        match status {
            RunStatus::Completed => Self::Completed,
            RunStatus::Interrupted => Self::Interrupted,
        }
    }
}

impl StoredRun {
    /// Reads the run in `path`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if there is none, or if a file of it cannot be read.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let directory = RunDirectory::open(path)?;
        let (manifest, rounds) = (directory.manifest()?, directory.rounds()?);
        let stored: Option<Summary> = directory.summary()?;
        let state = stored.as_ref().map_or(RunState::Unfinished, |summary| RunState::of(summary.status));
        let summary = stored.unwrap_or_else(|| so_far(&manifest, &rounds));
        Ok(Self {
            label: summary.label().to_owned(),
            path: path.to_owned(),
            question: text(&manifest, "question"),
            summary,
            state,
            clients: directory.clients()?,
            rounds,
            started: manifest["started_unix_seconds"].as_u64().unwrap_or_default(),
        })
    }

    /// The run as it is with `summary`, which is not stored yet.
    #[must_use]
    pub fn ended_with(self, summary: Summary) -> Self {
        let state = RunState::of(summary.status);
        Self { label: summary.label().to_owned(), state, summary, ..self }
    }

    /// Reads the runs that `paths` mean: each the directory of a run, or a folder with such directories, as a scenario with
    /// variants leaves it. They come in the order of `paths`, those of a folder in the order in which they began.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says what is at a path where no run is.
    pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Self>, StoreError> {
        let mut runs = Vec::new();
        for path in paths {
            runs.extend(Self::read_in(path)?);
        }
        Self::tell_apart(&mut runs);
        Ok(runs)
    }

    fn read_in(path: &Path) -> Result<Vec<Self>, StoreError> {
        if RunDirectory::is_at(path) {
            return Ok(vec![Self::read(path)?]);
        }
        let invalid = |problem: &str| StoreError::Invalid { path: path.to_owned(), problem: problem.to_owned() };
        if path.is_file() {
            return Err(invalid("is a file; expected the directory of a run"));
        }
        let entries = fs::read_dir(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let folders = entries.filter_map(Result::ok).map(|entry| entry.path());
        let runs = folders.filter(|folder| RunDirectory::is_at(folder)).map(|folder| Self::read(&folder));
        let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
        if runs.is_empty() {
            return Err(invalid(
                "holds no run: neither a manifest.json nor a folder with one; expected what `fedward run` wrote",
            ));
        }
        runs.sort_by(|a, b| (a.started, &a.path).cmp(&(b.started, &b.path)));
        Ok(runs)
    }

    /// Gives runs of the same name the names of their directories.
    fn tell_apart(runs: &mut [Self]) {
        let labels: Vec<String> = runs.iter().map(|run| run.label.clone()).collect();
        for run in runs {
            if labels.iter().filter(|label| **label == run.label).count() > 1 {
                run.label = run.path.display().to_string();
            }
        }
    }

    /// What is to be said of a run that has not ended as it should.
    pub fn caveat(&self) -> Option<String> {
        let so_far = match self.rounds.last() {
            None => "before its first round".to_owned(),
            Some(last) => format!("after {}", last.round),
        };
        match self.state {
            RunState::Completed => None,
            RunState::Interrupted => Some(format!("interrupted {so_far}; --resume goes on from there")),
            RunState::Unfinished => Some(format!("no summary.json: it runs still, or was killed {so_far}")),
        }
    }
}

/// What is known of a run without a summary.
fn so_far(manifest: &Value, rounds: &[RoundRecord]) -> Summary {
    Summary {
        scenario: text(manifest, "name"),
        variant: text(manifest, "variant"),
        status: RunStatus::Interrupted,
        base_eval: None,
        start_eval: Evaluation::new(),
        eval: rounds.last().map(|last| last.eval.clone()).unwrap_or_default(),
        totals: Totals::of(rounds, 0),
        adapter_sha256: rounds.last().map(|last| last.adapter_sha256.clone()).unwrap_or_default(),
        assumptions: Vec::new(),
    }
}

fn text(manifest: &Value, key: &str) -> String {
    manifest["scenario"][key].as_str().unwrap_or_default().to_owned()
}
