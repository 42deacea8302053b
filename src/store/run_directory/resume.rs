//! Where an interrupted run goes on, once it is certain that everything that belongs to that state is there.

use std::{collections::BTreeSet, fs, path::Path};

use fedward_actors::{
    protocol::RoundId,
    records::{ClientRecord, RoundRecord},
};
use serde_json::Value;

use super::{CLIENTS, KEPT_CHECKPOINTS, ROUNDS, RunDirectory, begun::CodeChange};
use crate::store::{Checkpoint, StoreError, checkpoint::Belongings, rows::Rows};

/// The rows of a run, in an order that a run leaves.
struct StoredRows {
    rounds: Rows<RoundRecord>,
    clients: Rows<ClientRecord>,
}

/// A state that a run can go on from.
struct ResumePoint {
    checkpoint: Checkpoint,
    /// Unknown in runs of earlier versions.
    belongings: Option<Belongings>,
}

impl RunDirectory {
    /// Takes up the run in `path`, if it was begun there and has stored a round. `manifest` is what it would be begun with
    /// now: all that results depend on must be the same. What is missing of the state, or is not what its checkpoint names, is
    /// an error, and then nothing in the directory changes.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the directory holds another run, or files that are missing, changed or cannot be read; it says what
    /// is left and how to go on.
    pub fn resume(path: &Path, manifest: &Value, code: CodeChange) -> Result<Option<(Self, Checkpoint)>, StoreError> {
        let directory = Self::at(path);
        if !directory.manifest_path().exists() {
            return Ok(None);
        }
        directory.check_scenario(manifest)?;
        let rows = StoredRows::read(&directory).map_err(|error| directory.with_advice(error))?;
        directory.check_begun(&rows)?;
        if rows.rounds.iter().len() == 0 {
            return Ok(None);
        }
        directory.check_begun_with(manifest, code)?;
        let ResumePoint { checkpoint, belongings } = directory.resume_point(&rows)?;
        let round = checkpoint.round;
        if belongings.is_none() {
            tracing::warn!(
                run = %path.display(),
                "the run's checkpoints are of an earlier version and do not name what belongs to them: rows and client states \
                 are taken as they are"
            );
        }
        // A crash between two files, or inside a line, leaves rows and states of a round that is not stored.
        rows.keep_until(round)?;
        directory.memories().go_back_to(round, belongings.as_ref().map(|it| &it.states))?;
        directory.remove_abandoned()?;
        directory.record_change(manifest, round)?;
        Ok(Some((directory, checkpoint)))
    }

    /// Refuses a directory whose rows are not in the order that a run leaves.
    ///
    /// # Errors
    ///
    /// [`StoreError`] names the file and the line.
    pub fn check_rows(&self) -> Result<(), StoreError> {
        StoredRows::read(self).map(drop).map_err(|error| self.with_advice(error))
    }

    /// Returns whether there is something to lose: rounds that are stored, or what is left of them.
    pub(super) fn has_stored_rounds(&self) -> bool {
        // Rows that cannot be read, or that are gone, are something to lose, too.
        let rows = StoredRows::read(self);
        rows.is_err() || rows.is_ok_and(|rows| rows.rounds.iter().len() > 0 || self.check_begun(&rows).is_err())
    }

    /// Refuses a directory that has states of later rounds than its rows, or a summary of rounds without a round's row. Clients' rows of
    /// the round after the last are what a crash in the moment between the two files leaves: that round was never stored.
    fn check_begun(&self, rows: &StoredRows) -> Result<(), StoreError> {
        let last = rows.rounds.iter().next_back().map_or(RoundId::START, |last| last.round);
        let newest = self.checkpointed()?.last().copied().unwrap_or(RoundId::START);
        // The checkpoint comes before the rows of its round, the clients' rows before the round's.
        let known = rows.clients.iter().next_back().map_or(RoundId::START, |last| last.round);
        let beyond = if newest.0 > last.0 + 1 {
            Checkpoint::path(&self.checkpoints(), newest).display().to_string()
        } else if known.0 > last.0.max(newest.0) {
            format!("rows of {known} in {}", self.path().join(CLIENTS).display())
        } else if last == RoundId::START && self.is_summed_up().map_err(|error| self.with_advice(error))? {
            format!("the summary of a run with rounds, {}", self.path().join("summary.json").display())
        } else {
            return Ok(());
        };
        let problem = format!("rows are missing: its last one is of {last}, but there is {beyond}");
        Err(self.with_advice(StoreError::Invalid { path: self.path().join(ROUNDS), problem }))
    }

    /// Whether there is a summary of stored rounds. A run that was interrupted in its first round has one of none.
    fn is_summed_up(&self) -> Result<bool, StoreError> {
        let summary: Option<Value> = self.summary()?;
        let is_of_rounds = |summary: &Value| summary["totals"]["rounds"].as_u64().is_some_and(|rounds| rounds > 0);
        Ok(summary.is_some_and(|summary| summary["status"] == "completed" || is_of_rounds(&summary)))
    }

    /// The last round's state, or an earlier one that is kept where its checkpoint cannot be read.
    fn resume_point(&self, rows: &StoredRows) -> Result<ResumePoint, StoreError> {
        let mut damage = None;
        let mut candidates = rows.rounds.iter().rev().take(KEPT_CHECKPOINTS as usize).peekable();
        while let Some(round) = candidates.next() {
            match self.checkpoint_of(round) {
                Ok(point) => {
                    if let Err(error) = self.check_belongings(&point, rows) {
                        let earlier = candidates.find(|earlier| self.is_whole(earlier, rows));
                        return Err(self.with_way_back(error, round.round, earlier.map(|earlier| earlier.round)));
                    }
                    if let Some(damage) = damage {
                        tracing::warn!(%damage, "a checkpoint cannot be read: going on from the one before it");
                    }
                    return Ok(point);
                }
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        let none = || StoreError::Invalid { path: self.checkpoints(), problem: "holds no checkpoint".to_owned() };
        Err(self.with_advice(damage.unwrap_or_else(none)))
    }

    fn checkpoint_of(&self, round: &RoundRecord) -> Result<ResumePoint, StoreError> {
        let (checkpoint, belongings) = Checkpoint::read_whole(&self.checkpoints(), round.round)?;
        if checkpoint.global.sha256() != round.adapter_sha256 {
            let path = Checkpoint::path(&self.checkpoints(), round.round);
            let problem = format!("is not the adapter that rounds.jsonl records for {}", round.round);
            return Err(StoreError::Invalid { path, problem });
        }
        Ok(ResumePoint { checkpoint, belongings })
    }

    /// Whether a run could go on after a round.
    fn is_whole(&self, round: &RoundRecord, rows: &StoredRows) -> bool {
        self.checkpoint_of(round).is_ok_and(|point| self.check_belongings(&point, rows).is_ok())
    }

    /// Refuses a state without all that its checkpoint names.
    fn check_belongings(&self, point: &ResumePoint, rows: &StoredRows) -> Result<(), StoreError> {
        let Some(belongings) = &point.belongings else { return Ok(()) };
        let changed = |path: &Path, rows: u64| {
            let problem = format!(
                "its first {rows} rows are not those that belong to {}",
                Checkpoint::path(&self.checkpoints(), point.checkpoint.round).display()
            );
            Err(StoreError::Invalid { path: path.to_owned(), problem })
        };
        if !rows.rounds.begins_with(&belongings.rounds) {
            return changed(rows.rounds.path(), belongings.rounds.rows);
        }
        if !rows.clients.begins_with(&belongings.clients) {
            return changed(rows.clients.path(), belongings.clients.rows);
        }
        self.memories().check(point.checkpoint.round, &belongings.states)
    }

    /// Checks that the run could be gone on with as it is: everything that belongs to its last state is there. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says what is missing or changed.
    pub fn check_whole(&self) -> Result<(), StoreError> {
        let rows = StoredRows::read(self)?;
        self.check_begun(&rows)?;
        if rows.rounds.iter().len() == 0 { Ok(()) } else { self.resume_point(&rows).map(drop) }
    }

    /// Returns the rounds of which there is a checkpoint, ascending.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if their folder cannot be read.
    pub fn checkpointed(&self) -> Result<Vec<RoundId>, StoreError> {
        let folder = self.checkpoints();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Io { path: folder, source }),
        };
        let number = |name: &str| name.strip_prefix("round-")?.strip_suffix(".checkpoint")?.parse().ok();
        let mut rounds: Vec<_> =
            entries.flatten().filter_map(|entry| Some(RoundId(number(entry.file_name().to_str()?)?))).collect();
        rounds.sort_unstable();
        Ok(rounds)
    }

    /// An error with what is left of the run, and how to go on.
    fn with_advice(&self, error: StoreError) -> StoreError {
        let checkpoints: Vec<_> =
            self.checkpointed().unwrap_or_default().iter().map(|round| round.0.to_string()).collect();
        let left = match checkpoints.as_slice() {
            [] => "no checkpoint is left".to_owned(),
            [one] => format!("the checkpoint of round {one} is left"),
            several => format!("the checkpoints of rounds {} are left", several.join(" and ")),
        };
        let (path, problem) = match error {
            StoreError::Io { path, source } => (path, source.to_string()),
            StoreError::Invalid { path, problem } => (path, problem),
        };
        let problem = format!(
            "{problem}; {left}, nothing was changed; put the file back from a copy and resume, or begin afresh in another --out \
             (run --overwrite: in this one)"
        );
        StoreError::Invalid { path, problem }
    }

    /// As [`Self::with_advice`], with an earlier state that is whole, if there is one.
    fn with_way_back(&self, error: StoreError, damaged: RoundId, earlier: Option<RoundId>) -> StoreError {
        let error = self.with_advice(error);
        match (error, earlier) {
            (StoreError::Invalid { path, problem }, Some(earlier)) => {
                let checkpoint = Checkpoint::path(&self.checkpoints(), damaged);
                let problem = format!(
                    "{problem}; the state after {earlier} is whole: without {} it is resumed from there",
                    checkpoint.display()
                );
                StoreError::Invalid { path, problem }
            }
            (error, _) => error,
        }
    }
}

impl StoredRows {
    /// Reads the rows of a run: rounds from 1 on, each once, and of each a row of every client of its cohort.
    fn read(directory: &RunDirectory) -> Result<Self, StoreError> {
        let rounds = Rows::<RoundRecord>::read(&directory.path().join(ROUNDS))?;
        let clients = Rows::<ClientRecord>::read(&directory.path().join(CLIENTS))?;
        let invalid = |path: &Path, problem| Err(StoreError::Invalid { path: path.to_owned(), problem });
        for (row, expected) in rounds.iter().zip(1..) {
            if row.round != RoundId(expected) {
                let problem = format!(
                    "row {expected}: expected {}, found {}: rows are missing, there twice or in another order",
                    RoundId(expected),
                    row.round
                );
                return invalid(rounds.path(), problem);
            }
        }
        let mut left = clients.iter().peekable();
        for round in rounds.iter() {
            let mut expected: BTreeSet<_> = round.cohort.iter().collect();
            while let Some(row) = left.next_if(|row| row.round == round.round) {
                if !expected.remove(&row.client) {
                    let problem = format!("{} of {} has a row too many", row.client, round.round);
                    return invalid(clients.path(), problem);
                }
            }
            if let Some(missing) = expected.first() {
                let problem = format!("the row of {missing} in {} is missing, or in another place", round.round);
                return invalid(clients.path(), problem);
            }
        }
        let last = rounds.iter().len() as u32;
        // Those of rounds that follow are another matter: a crash may have left them.
        if let Some(row) = left.find(|row| row.round <= RoundId(last)) {
            let problem = format!("a row of {} follows those of {}", row.round, RoundId(last));
            return invalid(clients.path(), problem);
        }
        drop(left);
        Ok(Self { rounds, clients })
    }

    /// Takes the rows of later rounds away.
    fn keep_until(&self, round: RoundId) -> Result<(), StoreError> {
        let kept = self.clients.iter().take_while(|row| row.round <= round).count();
        self.rounds.keep_first(round.0 as usize)?;
        self.clients.keep_first(kept)
    }
}
