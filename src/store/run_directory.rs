//! One run's directory, as `fedward run` writes and resumes it.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use fedward_actors::{
    ports::{NewMemories, PortError, PortResult, RunStore},
    protocol::{Adapter, RoundId},
    records::{ClientRecord, RoundRecord},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Checkpoint, MemoryFolder, StoreError, files, lock::LOCK_FILE};

/// Checkpoints kept: the last, and the one before it, which counts if the last round's rows were cut off.
const KEPT_CHECKPOINTS: u32 = 2;

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

/// What a resumed run takes up.
#[derive(Debug)]
pub struct Resumed {
    /// The state to go on from.
    pub checkpoint: Checkpoint,
    /// The rows of the rounds up to it.
    pub rounds: Vec<RoundRecord>,
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
                let is_lock = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|it| it.file_name() == LOCK_FILE);
                if entries.into_iter().all(is_lock) {
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
    pub fn resume(path: &Path, manifest: &Value) -> Result<Option<(Self, Resumed)>, StoreError> {
        let directory = Self { path: path.to_owned() };
        if !directory.manifest_path().exists() {
            return Ok(None);
        }
        directory.check_begun_with(manifest)?;
        let rounds: Vec<RoundRecord> = directory.read_rows("rounds.jsonl")?;
        let Some(last) = rounds.last() else { return Ok(None) };
        let checkpoint = Checkpoint::read(&directory.checkpoints(), last.round)?;
        if checkpoint.global.sha256() != last.adapter_sha256 {
            let path = Checkpoint::path(&directory.checkpoints(), last.round);
            let problem = format!("is not the adapter that rounds.jsonl records for {}", last.round);
            return Err(StoreError::Invalid { path, problem });
        }
        // A crash between the two files, or inside a line, leaves rows of a round that is not stored.
        let clients: Vec<ClientRecord> = directory.read_rows("clients.jsonl")?;
        let clients: Vec<_> = clients.into_iter().filter(|client| client.round <= last.round).collect();
        directory.rewrite_rows("rounds.jsonl", &rounds)?;
        directory.rewrite_rows("clients.jsonl", &clients)?;
        directory.memories().forget_after(last.round)?;
        Ok(Some((directory, Resumed { checkpoint, rounds })))
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
        self.read_rows("clients.jsonl")
    }

    /// The rows of all stored rounds.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn rounds(&self) -> Result<Vec<RoundRecord>, StoreError> {
        self.read_rows("rounds.jsonl")
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

    /// Refuses a run that was begun with another scenario.
    ///
    /// # Errors
    ///
    /// [`StoreError`] names the first key that differs.
    pub fn check_scenario(&self, scenario: &Value) -> Result<(), StoreError> {
        let Some(difference) = first_difference(&self.manifest()?["scenario"], scenario, "") else { return Ok(()) };
        let problem = format!("was begun with another scenario ({difference}); run without --resume, or elsewhere");
        Err(StoreError::Invalid { path: self.manifest_path(), problem })
    }

    /// Refuses a run that was begun with another scenario, program, model or other rows.
    fn check_begun_with(&self, manifest: &Value) -> Result<(), StoreError> {
        self.check_scenario(&manifest["scenario"])?;
        let begun = self.manifest()?;
        for pointer in RESULTS_DEPEND_ON {
            let value = |manifest: &Value| manifest.pointer(pointer).cloned().unwrap_or_default();
            let key = pointer.trim_start_matches('/').replace('/', ".");
            if let Some(difference) = first_difference(&value(&begun), &value(manifest), &key) {
                let problem = format!(
                    "its results would not be those of an uninterrupted run ({difference}); run without --resume, or \
                     elsewhere"
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

    /// Reads JSON lines; an unfinished last line is left out, any other broken line is an error.
    fn read_rows<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, StoreError> {
        let path = self.path.join(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |(index, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| StoreError::Invalid {
                path: path.clone(),
                problem: format!("line {}: {error}", index + 1),
            })
        };
        complete.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(parse).collect()
    }

    fn rewrite_rows<T: Serialize>(&self, name: &str, rows: &[T]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        files::write_atomically(&path, to_lines(rows, &path)?.as_bytes())
    }

    fn append_rows<T: Serialize>(&self, name: &str, rows: &[T]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let lines = to_lines(rows, &path)?;
        let failed = |source| StoreError::Io { path: path.clone(), source };
        let is_new = !path.exists();
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).map_err(failed)?;
        if is_new { files::sync_folder(&self.path).map_err(failed) } else { Ok(()) }
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
        self.append_rows("clients.jsonl", clients).map_err(to_port_error)?;
        self.append_rows("rounds.jsonl", std::slice::from_ref(record)).map_err(to_port_error)
    }
}

/// What a run shares with the one that it goes on with, beside the scenario: the places in the manifest.
const RESULTS_DEPEND_ON: [&str; 5] = ["/versions", "/device", "/precision", "/checksums", "/guard/version"];

/// What a run writes into its directory beside the manifest, which tells that it is one.
const OWN_FILES: [&str; 8] = [
    "rounds.jsonl",
    "clients.jsonl",
    "checkpoints",
    "clients",
    "adapter",
    "summary.json",
    "report.html",
    "metrics.prom",
];

fn to_port_error(error: impl std::fmt::Display) -> PortError {
    PortError::Failed(error.to_string())
}

fn to_lines<T: Serialize>(rows: &[T], path: &Path) -> Result<String, StoreError> {
    let mut lines = String::new();
    for row in rows {
        let line = serde_json::to_string(row)
            .map_err(|error| StoreError::Invalid { path: path.to_owned(), problem: error.to_string() })?;
        lines.push_str(&line);
        lines.push('\n');
    }
    Ok(lines)
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

/// The first key whose values differ, in words.
fn first_difference(found: &Value, expected: &Value, key: &str) -> Option<String> {
    match (found, expected) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            keys.into_iter().find_map(|name| {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                first_difference(&found[name], &expected[name], &key)
            })
        }
        _ => (found != expected).then(|| format!("{key} was {found}, is {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fedward_actors::{
        protocol::{AdapterLayout, ClientId},
        records::RoundOutcome,
    };
    use serde_json::json;

    use super::*;

    fn adapter(value: f32) -> Adapter {
        let layout = Arc::new(AdapterLayout::new([("a".to_owned(), [2, 3])]));
        Adapter::new(layout, vec![value; 6]).unwrap()
    }

    fn record(round: u32, global: &Adapter) -> RoundRecord {
        serde_json::from_value(json!({
            "round": round, "outcome": RoundOutcome::Committed, "cohort": [0], "accepted": 1, "clipped": 0, "rejected": 0,
            "dropped": 0, "rows_kept": 1, "rows_filtered": 0, "rows_kept_unsafe": 0, "rows_filtered_safe": 0,
            "train_loss": 1.0, "train_tokens": 1, "trainings_reused": 0,
            "train_tokens_per_second": 1.0, "update_norm": 1.0,
            "adapter_bytes_up": 24, "adapter_bytes_down": 24,
            "seconds": {"select": 0.0, "broadcast": 0.0, "train": 0.0, "screen": 0.0, "aggregate": 0.0, "align": 0.0,
                        "evaluate": 0.0, "commit": 0.0},
            "align": null, "eval": {}, "warnings": [], "adapter_sha256": global.sha256(),
        }))
        .unwrap()
    }

    fn manifest(seed: u64) -> Value {
        json!({"scenario": {"seed": seed}, "versions": {"fedward": "0"}, "checksums": {"model_sha256": "m"}})
    }

    fn begun(folder: &Path) -> RunDirectory {
        let directory = RunDirectory::create(folder, Unfinished::Keep).unwrap();
        directory.write_manifest(&manifest(1)).unwrap();
        let mut store = directory.share();
        for round in 1..=3 {
            let global = adapter(round as f32);
            let memories = [(ClientId(0), Arc::from([round as u8]))];
            store.checkpoint(RoundId(round), &global, &[round as u8], &memories).unwrap();
            store.append(&record(round, &global), &[]).unwrap();
        }
        directory
    }

    #[test]
    fn c1_resume_takes_up_the_last_stored_round_and_drops_what_a_crash_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let directory = begun(folder.path());
        // A crash after the checkpoint of round 4, in the middle of its row.
        let memories = [(ClientId(0), Arc::from([4]))];
        directory.share().checkpoint(RoundId(4), &adapter(4.0), &[], &memories).unwrap();
        let rows = folder.path().join("rounds.jsonl");
        let mut file = OpenOptions::new().append(true).open(&rows).unwrap();
        file.write_all(b"{\"round\": 4, \"outc").unwrap();
        drop(file);

        let (_, resumed) = RunDirectory::resume(folder.path(), &manifest(1)).unwrap().unwrap();
        assert_eq!(resumed.checkpoint, Checkpoint { round: RoundId(3), global: adapter(3.0), strategy_state: vec![3] });
        assert_eq!(resumed.rounds.len(), 3);
        let remembered = directory.memories().read(ClientId(0), RoundId(9)).unwrap();
        assert_eq!(remembered.as_deref(), Some(&[3][..]));
        assert_eq!(fs::read_to_string(&rows).unwrap().lines().count(), 3);
    }

    #[test]
    fn c1_a_changed_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        let path = Checkpoint::path(&folder.path().join("checkpoints"), RoundId(3));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = RunDirectory::resume(folder.path(), &manifest(1)).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
    }

    #[test]
    fn another_scenario_is_refused_and_the_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        let error = RunDirectory::resume(folder.path(), &manifest(2)).unwrap_err().to_string();
        assert!(error.contains("seed was 1, is 2"), "{error}");
    }

    #[test]
    fn c1_another_model_guard_or_program_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        let mut other = manifest(1);
        other["checksums"]["model_sha256"] = json!("n");
        let mut guarded = manifest(1);
        guarded["guard"] = json!({"version": "g"});
        let mut newer = manifest(1);
        newer["versions"]["fedward"] = json!("1");
        for (manifest, expected) in [
            (other, r#"(checksums.model_sha256 was "m", is "n")"#),
            (guarded, r#"(guard.version was null, is "g")"#),
            (newer, r#"(versions.fedward was "0", is "1")"#),
        ] {
            let error = RunDirectory::resume(folder.path(), &manifest).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let kept = ["thesis.tex", "summary.json"].map(|name| folder.path().join(name));
        for path in &kept {
            fs::write(path, "{\"status\": \"completed\"}").unwrap();
        }
        for manifest in [None, Some("{\"name\": \"an extension\"}"), Some("no JSON")] {
            if let Some(text) = manifest {
                fs::write(folder.path().join("manifest.json"), text).unwrap();
            }
            let error = RunDirectory::create(folder.path(), Unfinished::Replace).unwrap_err().to_string();
            assert!(error.contains("holds no run of fedward's; choose another --out"), "{manifest:?}: {error}");
            assert!(kept.iter().all(|path| path.exists()), "{manifest:?}");
        }
    }

    #[test]
    fn a_run_that_has_not_completed_gives_way_only_if_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let directory = begun(folder.path());
        let interrupted = json!({"status": "interrupted"});
        for summary in [None, Some(interrupted)] {
            if let Some(summary) = summary {
                directory.write_summary(&summary).unwrap();
            }
            let error = RunDirectory::create(folder.path(), Unfinished::Keep).unwrap_err().to_string();
            assert!(error.contains("--resume") && error.contains("--overwrite"), "{error}");
            assert_eq!(directory.rounds().unwrap().len(), 3);
        }
        RunDirectory::create(folder.path(), Unfinished::Replace).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        begun(folder.path()).write_summary(&json!({"status": "completed"})).unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        RunDirectory::create(folder.path(), Unfinished::Keep).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }

    #[test]
    fn only_the_last_checkpoints_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        assert_eq!(fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 2);
    }
}
