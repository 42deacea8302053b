//! Files that are whole or absent.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;

/// Writes a file so that it is whole or absent: beside its place, synced, renamed.
///
/// # Errors
///
/// [`StoreError::Io`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace(path, bytes).map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

/// As [`write_atomically`], for callers with errors of their own.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // A disk that is full wants its room back.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(folder)
}

/// Whether it is what a write that never ended has left.
pub(crate) fn is_temporary(path: &Path) -> bool {
    let writer = |name: &str| name.strip_suffix(".tmp")?.rsplit_once('.')?.1.parse::<u32>().ok();
    path.file_name().and_then(|name| name.to_str()).and_then(writer).is_some()
}

/// Writes a value as indented JSON, whole or absent.
///
/// # Errors
///
/// [`StoreError::Io`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| StoreError::Invalid { path: path.to_owned(), problem: error.to_string() })?;
    text.push(b'\n');
    write_atomically(path, &text)
}

/// Reads a value from JSON.
///
/// # Errors
///
/// [`StoreError::Io`], or [`StoreError::Invalid`] if the file is not that value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let text = fs::read(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&text)
        .map_err(|error| StoreError::Invalid { path: path.to_owned(), problem: error.to_string() })
}

/// A rename is durable once its folder is synced.
pub(super) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}
