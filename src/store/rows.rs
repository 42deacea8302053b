//! Files of JSON lines, one object a row, that grow row by row.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use fedward_actors::protocol::hex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{StoreError, files};

/// A file's rows, with the bytes that they are in.
pub(super) struct Rows<T> {
    path: PathBuf,
    text: String,
    /// Each with the place in the text where its line ends.
    lines: Vec<(T, usize)>,
}

impl<T: DeserializeOwned> Rows<T> {
    /// Reads all rows, none where there is no file; an unfinished last line is left out, any other broken line is an error.
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let text = match files::read_regular_text(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
        };
        let (mut lines, mut end) = (Vec::new(), 0);
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let Some(line) = line.strip_suffix('\n') else { break };
            end += line.len() + 1;
            if line.is_empty() {
                continue;
            }
            let row = serde_json::from_str(line).map_err(|error| StoreError::Invalid {
                path: path.to_owned(),
                problem: format!("line {}: {error}", index + 1),
            })?;
            lines.push((row, end));
        }
        Ok(Self { path: path.to_owned(), text, lines })
    }
}

impl<T> Rows<T> {
    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The rows in their order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.lines.iter().map(|(row, _)| row)
    }

    /// The rows alone.
    pub(super) fn into_rows(self) -> Vec<T> {
        self.lines.into_iter().map(|(row, _)| row).collect()
    }

    /// Whether the file begins with the rows that an extent is of.
    pub(super) fn begins_with(&self, extent: &Extent) -> bool {
        let beginning = usize::try_from(extent.bytes).ok().and_then(|bytes| self.text.as_bytes().get(..bytes));
        beginning.is_some_and(|beginning| hex(&Sha256::digest(beginning)) == extent.sha256)
    }

    /// Leaves the first `count` rows in the file, in the bytes that they have.
    pub(super) fn keep_first(&self, count: usize) -> Result<(), StoreError> {
        let end = count.checked_sub(1).map_or(0, |last| self.lines.get(last).map_or(self.text.len(), |(_, end)| *end));
        if end == self.text.len() {
            return Ok(());
        }
        files::write_atomically(&self.path, &self.text.as_bytes()[..end])
    }
}

/// The beginning of a file of rows: how many, and their checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    /// Rows.
    pub(super) rows: u64,
    /// Bytes of their lines.
    pub(super) bytes: u64,
    /// SHA-256 of these bytes.
    pub(super) sha256: String,
}

/// The extent of a file that grows: what is added costs, what is there does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Growing {
    rows: u64,
    bytes: u64,
    hash: Sha256,
}

impl Growing {
    /// That of a file as it is; of none where there is no file.
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        let mut growing = Self::default();
        match files::read_regular(path) {
            Ok(bytes) => growing.add(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
        }
        Ok(growing)
    }

    /// Takes lines in that were added to the file.
    pub(super) fn add(&mut self, lines: &[u8]) {
        self.rows += lines.split_inclusive(|&byte| byte == b'\n').count() as u64;
        self.bytes += lines.len() as u64;
        self.hash.update(lines);
    }

    /// All that there is so far.
    pub(super) fn extent(&self) -> Extent {
        Extent { rows: self.rows, bytes: self.bytes, sha256: hex(&self.hash.clone().finalize()) }
    }
}

/// Adds rows, durably: a new file's folder is synced, too. Gives the lines.
pub(super) fn append<T: Serialize>(path: &Path, rows: &[T]) -> Result<String, StoreError> {
    let lines = to_lines(rows, path)?;
    let append = || {
        let is_new = !path.exists();
        let mut file = files::open_own(OpenOptions::new().create(true).append(true), path)?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
        if is_new { files::sync_folder(path.parent().unwrap_or(Path::new(""))) } else { Ok(()) }
    };
    append().map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    Ok(lines)
}

/// Rows as they stand in a file.
pub(super) fn to_lines<T: Serialize>(rows: &[T], path: &Path) -> Result<String, StoreError> {
    let mut lines = String::new();
    for row in rows {
        let line = serde_json::to_string(row)
            .map_err(|error| StoreError::Invalid { path: path.to_owned(), problem: error.to_string() })?;
        lines.push_str(&line);
        lines.push('\n');
    }
    Ok(lines)
}
