//! One run's directory, as `fedward run` writes and resumes it.

mod begun;
mod resume;

use std::{
    fs,
    path::{Path, PathBuf},
};

use fedward_actors::{
    ports::{NewMemories, PortError, PortResult, RunStore, StateAfter},
    protocol::RoundId,
    records::{ClientRecord, RoundRecord},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Checkpoint, MemoryFolder, StoreError,
    checkpoint::Belongings,
    files::{self, OtherWriters},
    lock::LOCK_FILE,
    rows::{self, Growing, Rows},
};

pub use begun::CodeChange;

/// Checkpoints kept: the last, and the one before it, which counts if the last round's rows were cut off.
const KEPT_CHECKPOINTS: u32 = 2;

/// One object a round.
const ROUNDS: &str = "rounds.jsonl";

/// One object a client and round.
const CLIENTS: &str = "clients.jsonl";

/// The directory of one run.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// What it holds so far, for checkpoints to name; read when the first one is written.
    ledger: Option<Ledger>,
}

/// The extents of files that grow.
#[derive(Debug)]
struct Ledger {
    rounds: Growing,
    clients: Growing,
    states: Growing,
}

/// What becomes of a run that has not completed, where another is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It stays, and the other cannot begin.
    Keep,
    /// It is removed.
    Replace,
}

impl RunDirectory {
    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), ledger: None }
    }

    /// Starts a run afresh in `path`: a completed run that is there, or one that has stored no round, gives way, its manifest
    /// last, so that what a crash leaves is still known for a run. Another one gives way only to `unfinished`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the directory cannot be made, is in use for something else, or holds a run that is to stay.
    pub fn create(path: &Path, unfinished: Unfinished) -> Result<Self, StoreError> {
        Self::check_place(path, unfinished)?;
        let directory = Self::at(path);
        fs::create_dir_all(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        for name in OWN_FILES {
            remove_if_there(&path.join(name))?;
        }
        remove_if_there(&directory.manifest_path())?;
        files::remove_abandoned(path, files::is_own_name, OtherWriters::LockedOut);
        Ok(directory)
    }

    /// Whether a run could start afresh in `path`; changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is in use for something else, or holds a run that is to stay.
    pub fn check_place(path: &Path, unfinished: Unfinished) -> Result<(), StoreError> {
        let directory = Self::at(path);
        match fs::read_dir(path) {
            Ok(entries) => {
                let is_left = |path: &Path| files::is_temporary(path, files::is_own_name);
                // An entry that cannot be read is there.
                let is_nothing = |entry: std::io::Result<fs::DirEntry>| {
                    entry.is_ok_and(|it| it.file_name() == LOCK_FILE || is_left(&it.path()))
                };
                if entries.into_iter().all(is_nothing) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
        }
        let stays = |problem: &str| Err(StoreError::Invalid { path: path.to_owned(), problem: problem.to_owned() });
        if !directory.holds_a_run() {
            return stays("is not empty and holds no run of fedward's; choose another --out");
        }
        if unfinished == Unfinished::Keep && !directory.is_completed() && directory.has_stored_rounds() {
            return stays(
                "holds a run that has not completed; --resume goes on with it, --overwrite begins afresh, another --out \
                 leaves it alone",
            );
        }
        Ok(())
    }

    /// Whether the manifest is one that `fedward run` writes: other programs have files of that name.
    fn holds_a_run(&self) -> bool {
        let manifest = self.manifest().unwrap_or_default();
        manifest["scenario"].is_object() && manifest["versions"]["fedward"].is_string()
    }

    fn is_completed(&self) -> bool {
        let summary: Option<Value> = self.summary().unwrap_or_default();
        summary.is_some_and(|summary| summary["status"] == "completed")
    }

    /// Opens the directory of a run that was begun, to read it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is not the directory of a run.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = Self::at(path);
        if directory.manifest_path().exists() {
            return Ok(directory);
        }
        let problem = "is not the directory of a run: it holds no manifest.json".to_owned();
        Err(StoreError::Invalid { path: path.to_owned(), problem })
    }

    /// Whether `path` is the directory of a run that was begun.
    pub fn is_at(path: &Path) -> bool {
        Self::at(path).manifest_path().is_file()
    }

    /// Whether `path` is the directory of a run, and not one of another program with a file of that name. A manifest that cannot be
    /// read is a run's where there are rows beside it.
    pub fn holds_a_run_at(path: &Path) -> bool {
        let directory = Self::at(path);
        let is_damaged = || directory.manifest().is_err() && path.join(ROUNDS).is_file();
        Self::is_at(path) && (directory.holds_a_run() || is_damaged())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second handle, for the store port that the actors own.
    #[must_use]
    pub fn share(&self) -> Self {
        Self::at(&self.path)
    }

    /// Writes `manifest.json`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn write_manifest<T: Serialize>(&self, manifest: &T) -> Result<(), StoreError> {
        files::write_json(&self.manifest_path(), manifest)
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn write_summary<T: Serialize>(&self, summary: &T) -> Result<(), StoreError> {
        files::write_json(&self.path.join("summary.json"), summary)
    }

    /// What the run is, as it was when it began.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn manifest(&self) -> Result<Value, StoreError> {
        files::read_json(&self.manifest_path())
    }

    /// What the run came to; `None` if it has not ended, or was killed.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn summary<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        let path = self.path.join("summary.json");
        if path.exists() { files::read_json(&path).map(Some) } else { Ok(None) }
    }

    /// The rows of all clients in stored rounds.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn clients(&self) -> Result<Vec<ClientRecord>, StoreError> {
        Ok(Rows::read(&self.path.join(CLIENTS))?.into_rows())
    }

    /// The rows of all stored rounds.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn rounds(&self) -> Result<Vec<RoundRecord>, StoreError> {
        Ok(Rows::read(&self.path.join(ROUNDS))?.into_rows())
    }

    /// The checkpoint of the last stored round, if a round is stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn last_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let rounds = self.rounds()?;
        rounds.last().map(|last| Checkpoint::read(&self.checkpoints(), last.round)).transpose()
    }

    /// Returns the checkpoint of a round.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is missing, cut off or changed.
    pub fn checkpoint_after(&self, round: RoundId) -> Result<Checkpoint, StoreError> {
        Checkpoint::read(&self.checkpoints(), round)
    }

    /// What its clients remember.
    pub fn memories(&self) -> MemoryFolder {
        MemoryFolder::of(&self.path)
    }

    fn manifest_path(&self) -> PathBuf {
        self.path.join("manifest.json")
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Removes what writes that were killed have left. The run is locked.
    fn remove_abandoned(&self) -> Result<(), StoreError> {
        for folder in [self.path.clone(), self.checkpoints(), self.path.join("adapter")] {
            files::remove_abandoned(&folder, files::is_own_name, OtherWriters::LockedOut);
        }
        self.memories().remove_abandoned()
    }

    fn ledger(&mut self) -> Result<&mut Ledger, StoreError> {
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => Ledger {
                rounds: Growing::of(&self.path.join(ROUNDS))?,
                clients: Growing::of(&self.path.join(CLIENTS))?,
                states: Growing::of(&self.memories().index_path())?,
            },
        };
        Ok(self.ledger.insert(ledger))
    }

    /// Writes the state after a round: what clients remember, its index, then the checkpoint that names what belongs to it.
    fn write_checkpoint(&mut self, checkpoint: &Checkpoint, memories: &NewMemories) -> Result<(), StoreError> {
        let folder = self.memories();
        // Before anything is added: what it counts is what the rounds before have left.
        self.ledger()?;
        let states = folder.extend_index(&folder.write(checkpoint.round, memories)?)?;
        let ledger = self.ledger()?;
        ledger.states.add(states.as_bytes());
        let belongings = Belongings {
            rounds: ledger.rounds.extent(),
            clients: ledger.clients.extent(),
            states: ledger.states.extent(),
        };
        checkpoint.write(&self.checkpoints(), Some(belongings))?;
        match checkpoint.round.0.checked_sub(KEPT_CHECKPOINTS) {
            Some(old) => remove_if_there(&Checkpoint::path(&self.checkpoints(), RoundId(old))),
            None => Ok(()),
        }
    }

    /// Adds a round's rows, its own last: a round is stored once it is there.
    fn append_rows(&mut self, record: &RoundRecord, clients: &[ClientRecord]) -> Result<(), StoreError> {
        let paths = [CLIENTS, ROUNDS].map(|name| self.path.join(name));
        let ledger = self.ledger()?;
        ledger.clients.add(rows::append(&paths[0], clients)?.as_bytes());
        ledger.rounds.add(rows::append(&paths[1], std::slice::from_ref(record))?.as_bytes());
        Ok(())
    }
}

impl RunStore for RunDirectory {
    fn checkpoint(&mut self, state: StateAfter<'_>) -> PortResult<()> {
        let checkpoint = Checkpoint {
            round: state.round,
            global: state.global.clone(),
            strategy_state: state.strategy.to_vec(),
            in_flight: state.in_flight.to_vec(),
        };
        self.write_checkpoint(&checkpoint, state.memories).map_err(to_port_error)
    }

    fn append(&mut self, record: &RoundRecord, clients: &[ClientRecord]) -> PortResult<()> {
        self.append_rows(record, clients).map_err(to_port_error)
    }
}

/// What a run writes into its directory beside the manifest, which tells that it is one.
const OWN_FILES: [&str; 8] =
    [ROUNDS, CLIENTS, "checkpoints", "clients", "adapter", "summary.json", "report.html", "metrics.prom"];

fn to_port_error(error: impl std::fmt::Display) -> PortError {
    PortError::Failed(error.to_string())
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
