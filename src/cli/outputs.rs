//! Places that commands write to, looked at before anything is computed.

use std::{
    fs::{self, File},
    path::Path,
};

use miette::{IntoDiagnostic, WrapErr};

/// Whether a file can be written at `path`. What is there stays.
pub(super) fn check_file(path: &Path) -> miette::Result<()> {
    if path.is_dir() {
        miette::bail!("{}: found a folder; name a file", path.display());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    check_writable(folder.unwrap_or(Path::new(".")))
}

/// Whether an adapter or a guard, told by the file `mark`, can be written as the folder `path`: in place of another one, but
/// not among other things.
pub(super) fn check_folder(path: &Path, mark: &str) -> miette::Result<()> {
    if path.exists() && !path.is_dir() {
        miette::bail!("{}: found a file; name a folder", path.display());
    }
    let is_empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && !path.join(mark).exists() {
        miette::bail!("{}: is not empty and has no {mark}; choose another --out", path.display());
    }
    check_writable(path)
}

/// Makes the folder, and a file in it for a moment.
fn check_writable(folder: &Path) -> miette::Result<()> {
    let probe = folder.join(format!(".fedward.{}.tmp", std::process::id()));
    let written = fs::create_dir_all(folder).and_then(|()| File::create(&probe)).and_then(|_| fs::remove_file(&probe));
    written.into_diagnostic().wrap_err_with(|| format!("{}: nothing can be written there", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(checked: miette::Result<()>) -> String {
        checked.map_or_else(|error| format!("{error:?}"), |()| "fine".to_owned())
    }

    #[test]
    fn places_are_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("notes.txt"), "mine").unwrap();
        fs::create_dir(at("others")).unwrap();
        fs::write(at("others/thesis.tex"), "mine").unwrap();
        fs::create_dir(at("adapter")).unwrap();
        fs::write(at("adapter/adapter_config.json"), "{}").unwrap();

        assert!(told(check_file(&at("others"))).contains("name a file"));
        assert!(told(check_file(&at("notes.txt/below.jsonl"))).contains("nothing can be written there"));
        assert_eq!(told(check_file(&at("notes.txt"))), "fine");
        assert_eq!(told(check_file(&at("new/pairs.jsonl"))), "fine");

        let mark = "adapter_config.json";
        assert!(told(check_folder(&at("notes.txt"), mark)).contains("name a folder"));
        assert!(told(check_folder(&at("others"), mark)).contains("is not empty and has no adapter_config.json"));
        assert_eq!(told(check_folder(&at("adapter"), mark)), "fine");
        assert_eq!(told(check_folder(&at("new/adapter"), mark)), "fine");
        assert_eq!(fs::read_to_string(at("notes.txt")).unwrap(), "mine");
    }
}
