//! Files that are whole or absent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, SystemTime},
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

/// Opens somebody's file for reading. Links are followed, as folders of caches consist of them; a pipe, which one could wait on for
/// ever, and a device are refused.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(io::Error::from_raw_os_error(libc::EISDIR))
    } else {
        Err(io::Error::other("found a pipe or device, expected a regular file; put one in its place"))
    }
}

/// Reads a file that [`open_regular`] opens.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file that [`open_regular`] opens, as text.
pub(crate) fn read_regular_text(path: &Path) -> io::Result<String> {
    io::read_to_string(open_regular(path)?)
}

/// What fedward writes under fixed names into folders that it shares with people's own files.
const NAMES: [&str; 15] = [
    "manifest.json",
    "rounds.jsonl",
    "clients.jsonl",
    "states.jsonl",
    "summary.json",
    "report.html",
    "metrics.prom",
    "comparison.json",
    "grid.md",
    "grid.csv",
    "adapter_model.safetensors",
    "adapter_config.json",
    "guard.json",
    "SHA256SUMS",
    // Made for a moment, to see whether a folder can be written to.
    ".fedward",
];

/// How a grid's charts begin.
const CHARTS: [&str; 4] = ["safety-by-round-", "judged-safe-by-round-", "safety-against-", "cost-of-cai"];

/// After this time nobody is taken to be writing any more whose process is not seen here: it may be one of another container.
const LONGEST_WRITE: Duration = Duration::from_hours(1);

/// Whether writers that are not seen here can be at work in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherWriters {
    /// They cannot: whoever asks has locked what they would write.
    LockedOut,
    /// They can, in another container for example.
    Possible,
}

/// Whether fedward writes files of this name into runs, grids, adapters and guards.
pub(crate) fn is_own_name(name: &str) -> bool {
    let is_numbered = |before: &str, after: &str| {
        let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    NAMES.contains(&name)
        || is_numbered("round-", ".checkpoint")
        || is_numbered("", ".memory")
        || name.strip_suffix(".svg").is_some_and(|name| CHARTS.iter().any(|chart| name.starts_with(chart)))
}

/// Whether it is what a write of a file that `is_meant` by its name, and that never ended, has left.
pub(crate) fn is_temporary(path: &Path, is_meant: impl Fn(&str) -> bool) -> bool {
    written(path).is_some_and(|(name, _)| is_meant(name))
}

/// The file that a temporary one was to become, and the process that wrote it, by its name.
fn written(path: &Path) -> Option<(&str, u32)> {
    let (name, writer) = path.file_name()?.to_str()?.strip_suffix(".tmp")?.rsplit_once('.')?;
    Some((name, writer.parse().ok()?))
}

/// Removes temporary files in `folder` of files that `is_meant` by their names, whose writers no longer live: a write that was
/// killed leaves them.
pub(crate) fn remove_abandoned(folder: &Path, is_meant: impl Fn(&str) -> bool, others: OtherWriters) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_meant = written(&path).is_some_and(|(name, writer)| is_meant(name) && !may_live(writer));
        // Of a link, that is its own age.
        let is_old = || entry.metadata().is_ok_and(|metadata| is_older(&metadata, LONGEST_WRITE));
        let is_link_or_file = entry.file_type().is_ok_and(|kind| !kind.is_dir());
        if is_meant
            && is_link_or_file
            && (others == OtherWriters::LockedOut || is_old())
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(file = %path.display(), %error, "cannot remove what a killed write has left");
        }
    }
}

/// Whether a process lives here, or that cannot be known.
fn may_live(process: u32) -> bool {
    let processes = Path::new("/proc");
    !processes.join("self").exists() || processes.join(process.to_string()).exists()
}

/// Whether something was changed last before `age`.
pub(crate) fn is_older(metadata: &fs::Metadata, age: Duration) -> bool {
    let changed = metadata.modified().ok();
    changed.and_then(|changed| SystemTime::now().duration_since(changed).ok()).is_some_and(|passed| passed > age)
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
    let text = read_regular(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
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

    /// What of `names` is left in a folder, all changed `hours` ago.
    fn left(names: &[&str], hours: u64, others: OtherWriters) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_hours(hours)).unwrap();
        }
        remove_abandoned(folder.path(), is_own_name, others);
        let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.map(|name| name.into_string().unwrap()).collect();
        left.sort();
        left
    }

    #[test]
    fn only_leftovers_of_processes_that_no_longer_live_are_removed() {
        let alive = format!("rows.jsonl.{}.tmp", std::process::id());
        let alive_too = format!("rounds.jsonl.{}.tmp", std::process::id());
        let theirs = [
            "4194999.tmp",
            "draft.4194999.tmp",
            "kept.4194999.tmp2",
            "notes.tmp",
            &alive_too,
            "rows.jsonl.4194999.tmp",
        ];
        let own = [
            "rounds.jsonl.4194999.tmp",
            "round-00012.checkpoint.4194999.tmp",
            "00003.memory.4194999.tmp",
            "safety-by-round-fedavg.svg.4194999.tmp",
            ".fedward.4194999.tmp",
        ];
        let all: Vec<_> = theirs.into_iter().chain(own).chain([alive.as_str()]).collect();
        let mut expected: Vec<_> = theirs.map(str::to_owned).into_iter().chain([alive.clone()]).collect();
        expected.sort();
        assert_eq!(left(&all, 0, OtherWriters::LockedOut), expected);
        // Where others may write, what is young may be theirs.
        let mut everything = all.clone();
        everything.sort_unstable();
        assert_eq!(left(&all, 0, OtherWriters::Possible), everything);
        assert_eq!(left(&all, 2, OtherWriters::Possible), expected);
    }

    #[test]
    fn names_are_known_that_only_fedward_writes() {
        let own = crate::lora::peft::FILES.into_iter().chain([crate::safety::guard::GUARD_FILE, "00001.memory"]);
        assert!(own.chain(["cost-of-cai.svg", "round-00001.checkpoint"]).all(is_own_name));
        let others = ["draft", "round-.checkpoint", "round-1a.checkpoint", ".memory", "cost-of-cai.png", "safety.svg"];
        assert!(!others.into_iter().any(is_own_name));
    }

    #[test]
    fn files_are_read_through_links_and_pipes_are_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "content").unwrap();
        symlink(at("file"), at("link")).unwrap();
        assert_eq!(read_regular_text(&at("link")).unwrap(), "content");
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        for error in [
            read_regular(&at("pipe")).unwrap_err(),
            read_regular(Path::new("/dev/null")).unwrap_err(),
            fedward_native::MappedFile::open(&at("pipe")).unwrap_err(),
        ] {
            assert!(error.to_string().contains("found a pipe or device, expected a regular file"), "{error}");
        }
        assert_eq!(read_regular(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read_regular(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
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
