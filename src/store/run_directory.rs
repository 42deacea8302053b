//! One run's directory, as `fedward run` writes and resumes it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fedward_actors::{
    ports::{NewMemories, PortError, PortResult, RunStore},
    protocol::{Adapter, RoundId},
    records::{ClientRecord, RoundRecord},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Checkpoint, MemoryFolder, StoreError, files, lock::LOCK_FILE, rows};

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
    /// Starts a run afresh in `path`: a completed run that is there, or one that has stored no round, gives way, its manifest
    /// last, so that what a crash leaves is still known for a run. Another one gives way only to `unfinished`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the directory cannot be made, is in use for something else, or holds a run that is to stay.
    pub fn create(path: &Path, unfinished: Unfinished) -> Result<Self, StoreError> {
        Self::check_place(path, unfinished)?;
        let directory = Self { path: path.to_owned() };
        fs::create_dir_all(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        for name in OWN_FILES {
            remove_if_there(&path.join(name))?;
        }
        remove_if_there(&directory.manifest_path())?;
        Ok(directory)
    }

    /// Whether a run could start afresh in `path`; changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is in use for something else, or holds a run that is to stay.
    pub fn check_place(path: &Path, unfinished: Unfinished) -> Result<(), StoreError> {
        let directory = Self { path: path.to_owned() };
        match fs::read_dir(path) {
            Ok(entries) => {
                // An entry that cannot be read is there.
                let is_nothing = |entry: std::io::Result<fs::DirEntry>| {
                    entry.is_ok_and(|it| it.file_name() == LOCK_FILE || files::is_temporary(&it.path()))
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
        // Rows that cannot be read are something to lose, too.
        let has_rounds = !directory.rounds().is_ok_and(|rounds| rounds.is_empty());
        if unfinished == Unfinished::Keep && has_rounds && !directory.is_completed() {
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

    /// Takes up the run in `path`, if it was begun there and has stored a round. `manifest` is what it would be begun with
    /// now: all that results depend on must be the same.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the directory holds another run, or files that cannot be read.
    pub fn resume(path: &Path, manifest: &Value) -> Result<Option<(Self, Checkpoint)>, StoreError> {
        let directory = Self { path: path.to_owned() };
        if !directory.manifest_path().exists() {
            return Ok(None);
        }
        directory.check_begun_with(manifest)?;
        let mut rounds = directory.rounds()?;
        let Some(checkpoint) = directory.newest_checkpoint(&rounds)? else { return Ok(None) };
        rounds.retain(|round| round.round <= checkpoint.round);
        // A crash between the two files, or inside a line, leaves rows of a round that is not stored.
        let mut clients = directory.clients()?;
        clients.retain(|client| client.round <= checkpoint.round);
        rows::rewrite(&path.join(ROUNDS), &rounds)?;
        rows::rewrite(&path.join(CLIENTS), &clients)?;
        directory.memories().forget_after(checkpoint.round)?;
        Ok(Some((directory, checkpoint)))
    }

    /// The last round's checkpoint, or an earlier one that is kept where it cannot be read; none of no round.
    fn newest_checkpoint(&self, rounds: &[RoundRecord]) -> Result<Option<Checkpoint>, StoreError> {
        let mut damage = None;
        for round in rounds.iter().rev().take(KEPT_CHECKPOINTS as usize) {
            match self.checkpoint_of(round) {
                Ok(checkpoint) => {
                    if let Some(damage) = damage {
                        tracing::warn!(%damage, "a checkpoint cannot be read: going on from the one before it");
                    }
                    return Ok(Some(checkpoint));
                }
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    fn checkpoint_of(&self, round: &RoundRecord) -> Result<Checkpoint, StoreError> {
        let checkpoint = Checkpoint::read(&self.checkpoints(), round.round)?;
        if checkpoint.global.sha256() != round.adapter_sha256 {
            let path = Checkpoint::path(&self.checkpoints(), round.round);
            let problem = format!("is not the adapter that rounds.jsonl records for {}", round.round);
            return Err(StoreError::Invalid { path, problem });
        }
        Ok(checkpoint)
    }

    /// Opens the directory of a run that was begun, to read it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is not the directory of a run.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = Self { path: path.to_owned() };
        if directory.manifest_path().exists() {
            return Ok(directory);
        }
        let problem = "is not the directory of a run: it holds no manifest.json".to_owned();
        Err(StoreError::Invalid { path: path.to_owned(), problem })
    }

    /// Whether `path` is the directory of a run that was begun.
    pub fn is_at(path: &Path) -> bool {
        Self { path: path.to_owned() }.manifest_path().is_file()
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second handle, for the store port that the actors own.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { path: self.path.clone() }
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
        rows::read(&self.path.join(CLIENTS))
    }

    /// The rows of all stored rounds.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn rounds(&self) -> Result<Vec<RoundRecord>, StoreError> {
        rows::read(&self.path.join(ROUNDS))
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

    /// What its clients remember.
    pub fn memories(&self) -> MemoryFolder {
        MemoryFolder::of(&self.path)
    }

    /// Refuses a run that was begun with another scenario than `recorded`, which is as in a manifest.
    ///
    /// # Errors
    ///
    /// [`StoreError`] names keys that differ.
    pub fn check_scenario(&self, recorded: &Value) -> Result<(), StoreError> {
        let begun = self.manifest()?;
        let resolved = [&begun, recorded].map(|manifest| {
            let mut settings = manifest["scenario"].clone();
            // Assumptions are the settings in words, which another version may choose otherwise.
            settings.as_object_mut().map(|settings| settings.remove("assumptions"));
            without_base(settings)
        });
        let resolved = differences(&resolved[0], &resolved[1], "");
        if resolved.is_empty() {
            return Ok(());
        }
        // What people have written, they find again; what a key means may stand elsewhere.
        let written = [&begun, recorded].map(|manifest| without_base(manifest["written"].clone()));
        let written = if written[0].is_object() { differences(&written[0], &written[1], "") } else { Vec::new() };
        let told = if written.is_empty() { resolved } else { written };
        let problem = format!(
            "was begun with another scenario ({}); remove its folder, or choose another --out",
            told.join(", ")
        );
        Err(StoreError::Invalid { path: self.manifest_path(), problem })
    }

    /// Refuses a run that was begun with another scenario, program, model or other rows.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says what differs.
    pub fn check_begun_with(&self, manifest: &Value) -> Result<(), StoreError> {
        self.check_scenario(manifest)?;
        let begun = self.manifest()?;
        for pointer in RESULTS_DEPEND_ON {
            let value = |manifest: &Value| manifest.pointer(pointer).cloned().unwrap_or_default();
            let key = pointer.trim_start_matches('/').replace('/', ".");
            if let Some(difference) = differences(&value(&begun), &value(manifest), &key).first() {
                let problem = format!(
                    "its results would not be those of an uninterrupted run ({difference}); remove it, or \
                     choose another --out"
                );
                return Err(StoreError::Invalid { path: self.manifest_path(), problem });
            }
        }
        Ok(())
    }

    fn manifest_path(&self) -> PathBuf {
        self.path.join("manifest.json")
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
}

impl RunStore for RunDirectory {
    fn checkpoint(
        &mut self,
        round: RoundId,
        global: &Adapter,
        strategy_state: &[u8],
        memories: &NewMemories,
    ) -> PortResult<()> {
        self.memories().write(round, memories).map_err(to_port_error)?;
        let checkpoint = Checkpoint { round, global: global.clone(), strategy_state: strategy_state.to_vec() };
        checkpoint.write(&self.checkpoints()).map_err(to_port_error)?;
        if let Some(old) = round.0.checked_sub(KEPT_CHECKPOINTS) {
            remove_if_there(&Checkpoint::path(&self.checkpoints(), RoundId(old))).map_err(to_port_error)?;
        }
        Ok(())
    }

    fn append(&mut self, record: &RoundRecord, clients: &[ClientRecord]) -> PortResult<()> {
        // The round's row comes last: a round is stored once it is there.
        rows::append(&self.path.join(CLIENTS), clients).map_err(to_port_error)?;
        rows::append(&self.path.join(ROUNDS), std::slice::from_ref(record)).map_err(to_port_error)
    }
}

/// What a run shares with the one that it goes on with, beside the scenario: the places in the manifest.
const RESULTS_DEPEND_ON: [&str; 5] = ["/versions", "/device", "/precision", "/checksums", "/guard/version"];

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

/// A scenario but for whether the base model is measured, which has nothing to do with the run and can be done later.
fn without_base(mut scenario: Value) -> Value {
    let evaluation = scenario.pointer_mut("/evaluation").and_then(Value::as_object_mut);
    evaluation.map(|evaluation| evaluation.remove("base"));
    scenario
}

/// The keys whose values differ, in words.
fn differences(found: &Value, expected: &Value, key: &str) -> Vec<String> {
    // A table that is not there has no keys.
    let is_table = |value: &Value| value.is_object() || value.is_null();
    let are_equal_numbers = found.is_number() && expected.is_number() && found.as_f64() == expected.as_f64();
    if found == expected || are_equal_numbers {
        return Vec::new();
    }
    if !(is_table(found) && is_table(expected)) {
        return vec![format!("{key} was {}, is {}", in_words(found), in_words(expected))];
    }
    let names = |value| Value::as_object(value).into_iter().flat_map(|table| table.keys());
    let all: std::collections::BTreeSet<_> = names(found).chain(names(expected)).collect();
    let inside = |name: &String| {
        let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        differences(&found[name], &expected[name], &key)
    };
    all.into_iter().flat_map(inside).collect()
}

fn in_words(value: &Value) -> String {
    if value.is_null() { "not set".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests;
