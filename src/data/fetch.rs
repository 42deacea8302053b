//! Fetching a catalogue entry: download to a temporary folder, verify, unpack, verify, rename.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use fedward_actors::protocol::hex;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::{
    DataError,
    catalogue::{CatalogueEntry, PackageForm, PackagedFile, PipPackage},
};
use crate::store::{create_new, is_older};

/// What a fetch is doing, for progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchStep<'a> {
    /// Everything is there already.
    Present,
    /// A file is there and is not as it was fetched.
    Damaged(&'a Path),
    /// The package is being downloaded.
    Downloading(&'a PipPackage),
    /// The package's checksum is being computed.
    Verifying,
    /// A file is being unpacked.
    Unpacking(&'a PackagedFile),
}

impl fmt::Display for FetchStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("already there"),
            Self::Damaged(file) => write!(f, "{} does not have its checksum: fetching it anew", file.display()),
            Self::Downloading(package) => write!(f, "downloading {} {}", package.name, package.version),
            Self::Verifying => f.write_str("verifying"),
            Self::Unpacking(file) => write!(f, "unpacking {}", file.target),
        }
    }
}

/// Downloads a package's archive into a folder and says where it lies; problems are for people.
pub(super) type Download<'a> = dyn Fn(&PipPackage, &Path) -> Result<PathBuf, String> + 'a;

/// As [`super::catalogue::fetch`], with another home, another catalogue and another way to download.
pub(super) fn fetch_into(
    home: &Path,
    entry: &CatalogueEntry,
    catalogue: &[CatalogueEntry],
    download: &Download<'_>,
    progress: &dyn Fn(FetchStep<'_>),
) -> Result<PathBuf, DataError> {
    match state(home, entry) {
        EntryState::Whole => {
            progress(FetchStep::Present);
            return Ok(home.join(entry.path));
        }
        EntryState::Missing => {}
        EntryState::Damaged(file) => progress(FetchStep::Damaged(&file)),
    }
    let failed = |problem: String| DataError::Fetch { name: entry.name.to_owned(), problem };
    let scratch = Scratch::new(home, entry.name)?;
    progress(FetchStep::Downloading(&entry.package));
    let archive = download(&entry.package, &scratch.0).map_err(failed)?;
    progress(FetchStep::Verifying);
    let found = sha256_of(&archive).map_err(DataError::io(&archive))?;
    if found != entry.package.sha256 {
        return Err(failed(format!(
            "the archive of {} {} has SHA-256 {found}, expected {}; check which package index pip uses",
            entry.package.name, entry.package.version, entry.package.sha256
        )));
    }
    let unpack_all = |entry: &CatalogueEntry| {
        for file in entry.files {
            progress(FetchStep::Unpacking(file));
            unpack(&archive, entry.package.form, file, &scratch.0, &home.join(file.target)).map_err(failed)?;
        }
        Ok(())
    };
    unpack_all(entry)?;
    // Whoever wants the others of this archive later would download it once more.
    let is_beside = |other: &&CatalogueEntry| other.name != entry.name && other.package == entry.package;
    for other in catalogue.iter().filter(is_beside).filter(|other| state(home, other) != EntryState::Whole) {
        unpack_all(other)?;
    }
    Ok(home.join(entry.path))
}

/// How the files of an entry are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    /// All have their checksums.
    Whole,
    /// One is not there.
    Missing,
    /// This one is another one, or cannot be read.
    Damaged(PathBuf),
}

/// Hashes all files of an entry.
pub(super) fn state(home: &Path, entry: &CatalogueEntry) -> EntryState {
    for file in entry.files {
        let path = home.join(file.target);
        match sha256_of(&path) {
            Ok(found) if found == file.sha256 => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return EntryState::Missing,
            Ok(_) | Err(_) => return EntryState::Damaged(path),
        }
    }
    EntryState::Whole
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    copy(&mut File::open(path)?, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    Ok(hex(&hash.finalize()))
}

fn copy(from: &mut impl Read, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to(&buffer[..n])?,
        }
    }
}

/// Unpacks one file of a package so that its target is whole or absent.
fn unpack(archive: &Path, form: PackageForm, file: &PackagedFile, scratch: &Path, target: &Path) -> Result<(), String> {
    let partial = scratch.join("member");
    let found = extract(archive, form, file.member, &partial).map_err(|error| format!("{}: {error}", file.member))?;
    if found != file.sha256 {
        return Err(format!("{} has SHA-256 {found}, expected {}", file.member, file.sha256));
    }
    let folder = target.parent().unwrap_or(target);
    let place = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::rename(&partial, target)?;
        File::open(folder)?.sync_all()
    };
    place().map_err(|error| format!("{}: {error}", target.display()))
}

/// Writes a member of an archive to a file, through to the disk, and gives its SHA-256.
fn extract(archive: &Path, form: PackageForm, member: &str, to: &Path) -> io::Result<String> {
    let mut out = create_new(to)?;
    let mut hash = Sha256::new();
    let keep = |bytes: &[u8]| {
        hash.update(bytes);
        out.write_all(bytes)
    };
    let archive = File::open(archive)?;
    match form {
        PackageForm::Wheel => copy(&mut ZipArchive::new(archive)?.by_name(member)?, keep)?,
        PackageForm::Source => {
            let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(archive)));
            let mut entries = archive
                .entries()?
                .filter(|entry| entry.as_ref().map_or(true, |entry| entry.path_bytes().as_ref() == member.as_bytes()));
            let mut entry = entries.next().ok_or(io::ErrorKind::NotFound)??;
            copy(&mut entry, keep)?;
        }
    }
    out.sync_all()?;
    Ok(hex(&hash.finalize()))
}

/// A temporary folder below home, on the same file system as what is renamed out of it; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(home: &Path, name: &str) -> Result<Self, DataError> {
        let parent = home.join("tmp");
        remove_abandoned(&parent, name);
        let folder = parent.join(format!("{name}.{}", process::id()));
        fs::create_dir_all(&folder).map_err(DataError::io(&folder))?;
        // Absolute, since pip gets it as its folder for temporary files.
        let folder = fs::canonicalize(&folder).map_err(DataError::io(&folder))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove a temporary folder");
        }
    }
}

/// After this time nobody is taken to be fetching any more whose process is not seen here: it may be one of another container.
const LONGEST_DOWNLOAD: Duration = Duration::from_hours(24);

/// Removes what killed processes left behind.
fn remove_abandoned(parent: &Path, name: &str) {
    let processes = Path::new("/proc");
    let Ok(folders) = fs::read_dir(parent) else { return };
    for folder in folders.flatten() {
        let file_name = folder.file_name();
        let owner = file_name.to_str().and_then(|text| text.strip_prefix(name)?.strip_prefix('.'));
        let is_old = folder.metadata().is_ok_and(|metadata| is_older(&metadata, LONGEST_DOWNLOAD));
        let abandoned = is_old && owner.is_some_and(|pid| processes.is_dir() && !processes.join(pid).exists());
        if abandoned && let Err(error) = fs::remove_dir_all(folder.path()) {
            tracing::warn!(folder = %folder.path().display(), %error, "cannot remove an abandoned temporary folder");
        }
    }
}

/// Wheels for pure data, whatever Python runs pip.
const WHEEL_OF_ANY_PLATFORM: &[&str] = &[
    "--only-binary=:all:",
    "--ignore-requires-python",
    "--python-version",
    "3.12",
    "--implementation",
    "py",
    "--abi",
    "none",
    "--platform",
    "any",
];

/// Lets pip download an archive: it knows the machine's package index, mirrors and proxies.
pub(super) fn pip_download(package: &PipPackage, folder: &Path) -> Result<PathBuf, String> {
    // With a checksum beside the requirement pip verifies before it looks inside.
    let requirement = folder.join("requirement.txt");
    let text = format!("{}=={} --hash=sha256:{}\n", package.name, package.version, package.sha256);
    fs::write(&requirement, text).map_err(|error| format!("{}: {error}", requirement.display()))?;
    let (form, extension): (&[&str], _) = match package.form {
        PackageForm::Wheel => (WHEEL_OF_ANY_PLATFORM, "whl"),
        PackageForm::Source => (&["--no-binary", package.name], "gz"),
    };
    let output = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
        .args(form)
        .arg("--dest")
        .arg(folder)
        .arg("--requirement")
        .arg(&requirement)
        .env("TMPDIR", folder)
        .env("PIP_REQUIRE_VIRTUALENV", "false")
        .stdin(process::Stdio::null())
        .output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "python3 is missing; install Python 3.8 or later with pip (on Debian: apt install python3-pip)".to_owned()
        }
        _ => format!("python3 does not start: {error}"),
    })?;
    if !output.status.success() {
        return Err(pip_problem(&String::from_utf8_lossy(&output.stderr)));
    }
    let mut archives = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    archives
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .ok_or_else(|| format!("pip downloaded no archive of {} {}", package.name, package.version))
}

/// What pip complains about, in one line.
fn pip_problem(stderr: &str) -> String {
    if stderr.contains("No module named pip") {
        return "pip is missing; install it (on Debian: apt install python3-pip, elsewhere: python3 -m ensurepip)"
            .to_owned();
    }
    let mut errors = stderr.lines().filter(|line| line.starts_with("ERROR"));
    let line = errors.next_back().or_else(|| stderr.lines().last()).unwrap_or("no message").trim();
    format!("pip failed: {line}; check the network and pip's package index")
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;
    use crate::data::catalogue::EntryKind;

    const CONTENT: &str = "two words";

    fn wheel_bytes(content: &str) -> Vec<u8> {
        let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, text) in [("pack/a.txt", content), ("pack/b.txt", "b")] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn leaked_hash(bytes: &[u8]) -> &'static str {
        Box::leak(hex(&Sha256::digest(bytes)).into_boxed_str())
    }

    fn entry(wheel: &[u8]) -> CatalogueEntry {
        entry_in(wheel, PackageForm::Wheel)
    }

    fn entry_in(wheel: &[u8], form: PackageForm) -> CatalogueEntry {
        let file =
            |member, target, content: &str| PackagedFile { member, target, sha256: leaked_hash(content.as_bytes()) };
        let files =
            vec![file("pack/a.txt", "data/pack/a.txt", CONTENT), file("pack/b.txt", "data/pack/deep/b.txt", "b")];
        CatalogueEntry {
            name: "pack",
            kind: EntryKind::Dataset,
            description: "",
            licence: "",
            path: "data/pack",
            package: PipPackage { name: "pack-age", version: "1.2", form, sha256: leaked_hash(wheel) },
            files: Box::leak(files.into_boxed_slice()),
        }
    }

    /// A package index that counts downloads.
    struct Index {
        wheel: Vec<u8>,
        downloads: Cell<u32>,
        catalogue: Vec<CatalogueEntry>,
    }

    impl Index {
        fn new(wheel: Vec<u8>) -> Self {
            Self { wheel, downloads: Cell::new(0), catalogue: Vec::new() }
        }

        fn fetch(&self, home: &Path, entry: &CatalogueEntry) -> Result<(PathBuf, Vec<String>), DataError> {
            let steps = RefCell::new(Vec::new());
            let download = |_: &PipPackage, folder: &Path| {
                self.downloads.set(self.downloads.get() + 1);
                let path = folder.join("x.whl");
                fs::write(&path, &self.wheel).map_err(|error| error.to_string())?;
                Ok(path)
            };
            let log = |step: FetchStep<'_>| steps.borrow_mut().push(step.to_string());
            let path = fetch_into(home, entry, &self.catalogue, &download, &log)?;
            Ok((path, steps.into_inner()))
        }
    }

    #[test]
    fn files_are_fetched_once() {
        let home = tempfile::tempdir().unwrap();
        let index = Index::new(wheel_bytes(CONTENT));
        let entry = entry(&index.wheel);
        assert_eq!(state(home.path(), &entry), EntryState::Missing);
        let (path, steps) = index.fetch(home.path(), &entry).unwrap();
        assert_eq!(path, home.path().join("data/pack"));
        assert_eq!(
            steps,
            ["downloading pack-age 1.2", "verifying", "unpacking data/pack/a.txt", "unpacking data/pack/deep/b.txt"]
        );
        assert_eq!(fs::read_to_string(path.join("a.txt")).unwrap(), CONTENT);
        assert_eq!(index.fetch(home.path(), &entry).unwrap().1, ["already there"]);
        assert_eq!(index.downloads.get(), 1);
        assert_eq!(fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_package_that_holds_several_entries_is_downloaded_once() {
        let home = tempfile::tempdir().unwrap();
        let mut index = Index::new(wheel_bytes(CONTENT));
        let both = entry(&index.wheel);
        let part = |name: &'static str, files| CatalogueEntry { name, path: "data/pack", files, ..both };
        let (first, second) = both.files.split_at(1);
        let elsewhere = PipPackage { name: "another", ..both.package };
        let third = CatalogueEntry { package: elsewhere, ..part("third", both.files) };
        index.catalogue = vec![part("first", first), part("second", second), third];
        index.fetch(home.path(), &index.catalogue[0]).unwrap();
        assert_eq!(index.fetch(home.path(), &index.catalogue[1]).unwrap().1, ["already there"]);
        assert_eq!(index.downloads.get(), 1);
        assert!(!home.path().join("stamps/third").exists(), "it is in another package");
    }

    #[test]
    fn source_archives_are_unpacked_too() {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (name, text) in [("pack/other.txt", "-"), ("pack/b.txt", "b"), ("pack/a.txt", CONTENT)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        let index = Index::new(tar.into_inner().unwrap().finish().unwrap());
        let home = tempfile::tempdir().unwrap();
        let (path, _) = index.fetch(home.path(), &entry_in(&index.wheel, PackageForm::Source)).unwrap();
        assert_eq!(fs::read_to_string(path.join("a.txt")).unwrap(), CONTENT);
        assert_eq!(fs::read_to_string(path.join("deep/b.txt")).unwrap(), "b");
    }

    #[test]
    fn what_was_changed_or_lost_is_fetched_again() {
        let home = tempfile::tempdir().unwrap();
        let index = Index::new(wheel_bytes(CONTENT));
        let entry = entry(&index.wheel);
        let (path, _) = index.fetch(home.path(), &entry).unwrap();
        fs::write(path.join("a.txt"), "two wor").unwrap();
        index.fetch(home.path(), &entry).unwrap();
        assert_eq!(fs::read_to_string(path.join("a.txt")).unwrap(), CONTENT);
        fs::remove_file(path.join("deep/b.txt")).unwrap();
        index.fetch(home.path(), &entry).unwrap();
        assert_eq!(index.downloads.get(), 3);
        assert_eq!(index.fetch(home.path(), &entry).unwrap().1, ["already there"]);
        // Neither its size nor its time tells that a file is another one.
        let changed = path.join("a.txt");
        let time = fs::metadata(&changed).unwrap().modified().unwrap();
        fs::write(&changed, CONTENT.to_uppercase()).unwrap();
        File::options().write(true).open(&changed).unwrap().set_modified(time).unwrap();
        let (_, told) = index.fetch(home.path(), &entry).unwrap();
        assert!(told[0].ends_with("a.txt does not have its checksum: fetching it anew"), "{told:?}");
        assert_eq!(fs::read_to_string(&changed).unwrap(), CONTENT);
    }

    #[test]
    fn wrong_content_never_arrives() {
        let home = tempfile::tempdir().unwrap();
        let good = wheel_bytes(CONTENT);
        let forged = Index::new(wheel_bytes("two worms"));
        let message = forged.fetch(home.path(), &entry(&good)).unwrap_err().to_string();
        let (found, expected) = (leaked_hash(&forged.wheel), leaked_hash(&good));
        assert_eq!(
            message,
            format!(
                "cannot fetch pack: the archive of pack-age 1.2 has SHA-256 {found}, expected {expected}; check which \
                 package index pip uses"
            )
        );
        let message = forged.fetch(home.path(), &entry(&forged.wheel)).unwrap_err().to_string();
        assert!(message.starts_with("cannot fetch pack: pack/a.txt has SHA-256 "), "{message}");
        assert!(!home.path().join("data").exists());
        assert_eq!(fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_of_killed_processes_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let [dead, alive, young] =
            ["tmp/pack.4194999", "tmp/pack.1", "tmp/pack.4194998"].map(|name| home.path().join(name));
        let two_days_ago = std::time::SystemTime::now() - 2 * LONGEST_DOWNLOAD;
        for folder in [&dead, &alive, &young] {
            fs::create_dir_all(folder).unwrap();
            if *folder != young {
                File::open(folder).unwrap().set_modified(two_days_ago).unwrap();
            }
        }
        let index = Index::new(wheel_bytes(CONTENT));
        index.fetch(home.path(), &entry(&index.wheel)).unwrap();
        // Its process may be one of another container.
        assert!(!dead.exists() && alive.exists() && young.exists());
    }

    #[test]
    fn pip_is_quoted_in_one_line() {
        let stderr = "WARNING: x\nERROR: Could not find a version\nERROR: No matching distribution found for a==1\n";
        assert_eq!(
            pip_problem(stderr),
            "pip failed: ERROR: No matching distribution found for a==1; check the network and pip's package index"
        );
        assert!(pip_problem("/usr/bin/python3: No module named pip").starts_with("pip is missing; install it"));
    }
}
