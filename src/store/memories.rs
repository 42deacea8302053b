//! What clients remember, on disk: `clients/<client>/<round>.memory`, a SHA-256 and the bytes that it is of.
//!
//! A client that took part has the memory of its last turn that counted, and the one before it, which counts if the last
//! round's row was cut off. Nothing of it is in memory but in the client's turn. `clients/states.jsonl` has a row of each that
//! was written, with its checksum; a checkpoint names how many of these rows belong to it, and their checksum.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use fedward_actors::protocol::hex;
use fedward_actors::{
    ports::{ClientMemories, NewMemories, PortError, PortResult},
    protocol::{ClientId, RoundId},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    StoreError,
    files::{self, OtherWriters},
    rows::{self, Extent, Rows},
    run_directory::remove_if_there,
};

/// Memories kept of each client.
const KEPT: usize = 2;

const EXTENSION: &str = "memory";

/// The name of the index.
const INDEX: &str = "states.jsonl";

/// What a client remembered after a round, as the index names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateRow {
    client: ClientId,
    round: RoundId,
    /// SHA-256 of what it remembered.
    sha256: String,
}

/// The folder of a run that holds what its clients remember.
#[derive(Clone, Debug)]
pub struct MemoryFolder(PathBuf);

impl MemoryFolder {
    /// The folder of a run in `directory`.
    pub(super) fn of(directory: &Path) -> Self {
        Self(directory.join("clients"))
    }

    /// Where the index lies.
    pub(super) fn index_path(&self) -> PathBuf {
        self.0.join(INDEX)
    }

    /// Writes what clients remember after `round`, each file whole or not at all, and gives their rows of the index.
    pub(super) fn write(&self, round: RoundId, memories: &NewMemories) -> Result<Vec<StateRow>, StoreError> {
        let mut written = Vec::with_capacity(memories.len());
        for (client, memory) in memories {
            let mut bytes = Sha256::digest(memory).to_vec();
            written.push(StateRow { client: *client, round, sha256: hex(&bytes) });
            bytes.extend_from_slice(memory);
            files::write_atomically(&self.path(*client, round), &bytes)?;
            let kept = self.rounds(*client)?;
            for old in &kept[..kept.len().saturating_sub(KEPT)] {
                remove_if_there(&self.path(*client, *old))?;
            }
        }
        Ok(written)
    }

    /// Adds rows to the index and gives their lines.
    pub(super) fn extend_index(&self, states: &[StateRow]) -> Result<String, StoreError> {
        // A run whose clients remember nothing has no such folder.
        if states.is_empty() { Ok(String::new()) } else { rows::append(&self.index_path(), states) }
    }

    /// Whether what clients remembered after `round` is what the index says, as far as `extent` goes; the problem names the file.
    pub(super) fn check(&self, round: RoundId, extent: &Extent) -> Result<(), StoreError> {
        let invalid = |path: PathBuf, problem: &str| StoreError::Invalid { path, problem: problem.to_owned() };
        let index = Rows::<StateRow>::read(&self.index_path())?;
        if !index.begins_with(extent) {
            return Err(invalid(self.index_path(), "is not the index of client states that belongs to the checkpoint"));
        }
        let mut current = BTreeMap::new();
        for row in index.iter().take(extent.rows as usize) {
            current.insert(row.client, row);
        }
        for row in current.values() {
            let path = self.path(row.client, row.round);
            match content(&path) {
                Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Err(invalid(path, "is missing: the state of a client that belongs to the checkpoint"));
                }
                Err(error) => return Err(error),
                Ok(memory) if hex(&Sha256::digest(&memory)) != row.sha256 => {
                    return Err(invalid(path, "is not the state of that client that belongs to the checkpoint"));
                }
                Ok(_) => {}
            }
        }
        for client in self.clients()? {
            let last = self.rounds(client)?.into_iter().rfind(|&of| of <= round);
            if let Some(last) = last.filter(|&last| current.get(&client).is_none_or(|row| row.round != last)) {
                return Err(invalid(self.path(client, last), "is no state of a client that belongs to the checkpoint"));
            }
        }
        Ok(())
    }

    /// Goes back to what was there after `round`: takes away what was written of rounds after it, which were not stored.
    pub(super) fn go_back_to(&self, round: RoundId, extent: Option<&Extent>) -> Result<(), StoreError> {
        self.forget_after(round)?;
        match extent {
            Some(extent) => Rows::<StateRow>::read(&self.index_path())?.keep_first(extent.rows as usize),
            // Earlier versions had no index: what is there is taken as it is.
            None => self.make_index(),
        }
    }

    /// Makes the index of what is there.
    fn make_index(&self) -> Result<(), StoreError> {
        let mut states = Vec::new();
        for client in self.clients()? {
            for round in self.rounds(client)? {
                let sha256 = hex(&Sha256::digest(content(&self.path(client, round))?));
                states.push(StateRow { client, round, sha256 });
            }
        }
        if states.is_empty() {
            return Ok(());
        }
        let path = self.index_path();
        files::write_atomically(&path, rows::to_lines(&states, &path)?.as_bytes())
    }

    /// Removes what writes that were killed have left. The run is locked.
    pub(super) fn remove_abandoned(&self) -> Result<(), StoreError> {
        let clients = self.clients()?.into_iter().map(|client| self.folder(client));
        for folder in clients.chain([self.0.clone()]) {
            files::remove_abandoned(&folder, files::is_own_name, OtherWriters::LockedOut);
        }
        Ok(())
    }

    /// Takes away what was written of rounds after `round`, which were not stored.
    fn forget_after(&self, round: RoundId) -> Result<(), StoreError> {
        for client in self.clients()? {
            for later in self.rounds(client)?.into_iter().filter(|&of| of > round) {
                remove_if_there(&self.path(client, later))?;
            }
        }
        Ok(())
    }

    /// What `client` remembered after `round`.
    pub(super) fn read(&self, client: ClientId, round: RoundId) -> Result<Option<Arc<[u8]>>, StoreError> {
        let Some(last) = self.rounds(client)?.into_iter().rfind(|&of| of <= round) else { return Ok(None) };
        Ok(Some(content(&self.path(client, last))?.into()))
    }

    /// The clients that have a folder, ascending.
    fn clients(&self) -> Result<Vec<ClientId>, StoreError> {
        let mut clients: Vec<_> = entries(&self.0)?.iter().filter_map(|folder| number(folder).map(ClientId)).collect();
        clients.sort_unstable();
        Ok(clients)
    }

    /// The rounds of which there is a memory of `client`, ascending.
    fn rounds(&self, client: ClientId) -> Result<Vec<RoundId>, StoreError> {
        let memories = entries(&self.folder(client))?.into_iter();
        let memories = memories.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        let mut rounds: Vec<RoundId> = memories.filter_map(|path| number(&path).map(RoundId)).collect();
        rounds.sort_unstable();
        Ok(rounds)
    }

    fn folder(&self, client: ClientId) -> PathBuf {
        self.0.join(format!("{:05}", client.0))
    }

    fn path(&self, client: ClientId, round: RoundId) -> PathBuf {
        self.folder(client).join(format!("{:05}.{EXTENSION}", round.0))
    }
}

impl ClientMemories for MemoryFolder {
    fn memory(&self, client: ClientId, round: RoundId) -> PortResult<Option<Arc<[u8]>>> {
        self.read(client, round).map_err(|error| PortError::Failed(error.to_string()))
    }
}

/// What a client remembered, by its file.
fn content(path: &Path) -> Result<Vec<u8>, StoreError> {
    let bytes = files::read_regular(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    match bytes.split_first_chunk::<32>() {
        Some((digest, memory)) if digest[..] == Sha256::digest(memory)[..] => Ok(memory.to_vec()),
        _ => {
            let problem = "its content does not have its checksum".to_owned();
            Err(StoreError::Invalid { path: path.to_owned(), problem })
        }
    }
}

/// What a folder holds; nothing if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::Io { path: folder.to_owned(), source };
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(failed(source)),
    }
}

/// The number that a file or folder is named by.
fn number(path: &Path) -> Option<u32> {
    path.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(byte: u8) -> Arc<[u8]> {
        Arc::from([byte; 3])
    }

    #[test]
    fn a_client_remembers_its_last_turn_that_counted_as_of_any_stored_round() {
        let run = tempfile::tempdir().unwrap();
        let folder = MemoryFolder::of(run.path());
        assert_eq!(folder.read(ClientId(7), RoundId(9)).unwrap(), None);
        for (round, client) in [(1, 7), (2, 8), (3, 7), (6, 7)] {
            folder.write(RoundId(round), &[(ClientId(client), memory(round as u8))]).unwrap();
        }
        let read = |client, round| folder.read(ClientId(client), RoundId(round)).unwrap();
        assert_eq!((read(7, 9), read(7, 5), read(8, 2)), (Some(memory(6)), Some(memory(3)), Some(memory(2))));
        // Two at most are kept of each.
        assert_eq!(read(7, 2), None);
        assert_eq!(folder.rounds(ClientId(7)).unwrap(), [RoundId(3), RoundId(6)]);
    }

    #[test]
    fn what_was_not_stored_is_forgotten() {
        let run = tempfile::tempdir().unwrap();
        let folder = MemoryFolder::of(run.path());
        for round in [2, 4] {
            folder.write(RoundId(round), &[(ClientId(0), memory(round as u8))]).unwrap();
        }
        folder.forget_after(RoundId(3)).unwrap();
        assert_eq!(folder.read(ClientId(0), RoundId(9)).unwrap(), Some(memory(2)));
    }

    #[test]
    fn a_changed_memory_is_refused() {
        let run = tempfile::tempdir().unwrap();
        let folder = MemoryFolder::of(run.path());
        folder.write(RoundId(1), &[(ClientId(3), memory(1))]).unwrap();
        fs::write(folder.path(ClientId(3), RoundId(1)), [0; 40]).unwrap();
        let error = folder.memory(ClientId(3), RoundId(1)).unwrap_err().to_string();
        assert!(error.ends_with("00003/00001.memory: its content does not have its checksum"), "{error}");
    }
}
