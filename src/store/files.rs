//! Files that are whole or absent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
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
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = create_new(&temporary).and_then(|mut file| {
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

/// Makes a file for writing in place of whatever has its name: a link there is removed, and never followed.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Opens a file of fedward's own as `options` say. A symbolic link is not followed, a pipe is not waited for, and neither they
/// nor devices are taken for such a file.
pub(crate) fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let refused = |found: &str| {
        io::Error::other(format!("expected a regular file, found {found}; remove it, or choose another place"))
    };
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::ELOOP) => refused("a symbolic link"),
            Some(libc::ENXIO) => refused("a pipe"),
            _ => error,
        }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused("a pipe or device")) }
}

/// Whether it is what a write that never ended has left.
pub(crate) fn is_temporary(path: &Path) -> bool {
    writer(path).is_some()
}

/// The process that wrote a temporary file, by its name.
fn writer(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".tmp")?.rsplit_once('.')?.1.parse().ok()
}

/// Removes temporary files in `folder` whose writers no longer live: a write that was killed leaves them.
pub(crate) fn remove_abandoned(folder: &Path) {
    let processes = Path::new("/proc");
    // Where it is not known who lives, nothing is removed.
    if !processes.join("self").exists() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_abandoned = writer(&entry.path()).is_some_and(|pid| !processes.join(pid.to_string()).exists());
        let is_link_or_file = entry.file_type().is_ok_and(|kind| !kind.is_dir());
        if is_abandoned
            && is_link_or_file
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(file = %entry.path().display(), %error, "cannot remove what a killed write has left");
        }
    }
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
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_leftovers_of_processes_that_no_longer_live_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let alive = format!("rows.jsonl.{}.tmp", std::process::id());
        for name in ["rows.jsonl.4194999.tmp", &alive, "notes.tmp", "4194999.tmp", "kept.4194999.tmp2"] {
            fs::write(at(name), "half").unwrap();
        }
        remove_abandoned(folder.path());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["4194999.tmp", "kept.4194999.tmp2", "notes.tmp", &alive]);
    }

    #[test]
    fn a_link_in_the_way_of_a_write_is_replaced_and_its_target_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (target, path) = (folder.path().join("thesis.tex"), folder.path().join("summary.json"));
        fs::write(&target, "mine").unwrap();
        symlink(&target, folder.path().join(format!("summary.json.{}.tmp", std::process::id()))).unwrap();
        symlink(&target, &path).unwrap();
        write_atomically(&path, b"{}").unwrap();
        assert_eq!(
            (fs::read_to_string(&target).unwrap().as_str(), fs::read_to_string(&path).unwrap().as_str()),
            ("mine", "{}")
        );
        assert!(!path.is_symlink());
    }
}
