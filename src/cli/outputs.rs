//! Places that commands write to, looked at before anything is computed.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use miette::{IntoDiagnostic, WrapErr};

use crate::{
    lora::peft,
    store::{OtherWriters, create_new, is_own_name, is_temporary, remove_abandoned, write_atomically},
};

/// A file that is as it was until the first lines are there, and whole after each.
pub(super) enum OutFile {
    /// A regular one, or none yet, with what it is to hold.
    Replaced(PathBuf, String),
    /// A device or a pipe.
    Stream(PathBuf, File),
}

impl OutFile {
    /// The file at `path`, or at the end of a link there.
    pub(super) fn new(path: &Path) -> miette::Result<Self> {
        if path.is_dir() {
            miette::bail!("{}: found a folder; name a file", path.display());
        }
        let at_path = || path.display().to_string();
        // Through these a file can be one that somebody has opened, standard output for example.
        let leads_elsewhere = ["/dev", "/proc"].iter().any(|place| path.starts_with(place));
        if path.exists() && (!path.is_file() || leads_elsewhere) {
            let stream = File::options().append(true).open(path).into_diagnostic().wrap_err_with(at_path)?;
            return Ok(Self::Stream(path.to_owned(), stream));
        }
        let path = if path.exists() { path.canonicalize().into_diagnostic()? } else { path.to_owned() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        check_writable(folder)?;
        let name = path.file_name().and_then(|name| name.to_str());
        remove_abandoned(folder, |left| Some(left) == name, OtherWriters::Possible);
        Ok(Self::Replaced(path, String::new()))
    }

    pub(super) fn add(&mut self, lines: &str) -> miette::Result<()> {
        match self {
            Self::Replaced(path, text) => {
                text.push_str(lines);
                write_atomically(path, text.as_bytes()).into_diagnostic()
            }
            Self::Stream(path, stream) => {
                stream.write_all(lines.as_bytes()).into_diagnostic().wrap_err_with(|| path.display().to_string())
            }
        }
    }
}

/// Whether an adapter or a guard, told by the file `mark`, can be written as the folder `path`: in place of another one, but
/// not among other things.
pub(super) fn check_folder(path: &Path, mark: &str) -> miette::Result<()> {
    if path.exists() && !path.is_dir() {
        miette::bail!("{}: found a file; name a folder", path.display());
    }
    // What a command that failed in writing has left is not somebody's: weights come before the file that tells of what.
    let is_left = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| is_temporary(&entry.path(), is_own_name) || entry.file_name() == peft::WEIGHTS)
    };
    let is_free = fs::read_dir(path).map_or(true, |mut entries| entries.all(is_left));
    if !is_free && !path.join(mark).exists() {
        miette::bail!("{}: is not empty and has no {mark}; choose another --out", path.display());
    }
    check_writable(path)?;
    remove_abandoned(path, is_own_name, OtherWriters::Possible);
    Ok(())
}

/// Makes a file for a moment in the folder, or in the nearest above it that is there.
fn check_writable(folder: &Path) -> miette::Result<()> {
    let nearest = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."));
    let probe = nearest.join(format!(".fedward.{}.tmp", std::process::id()));
    let written = create_new(&probe).and_then(|_| fs::remove_file(&probe));
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
        fs::create_dir(at("failed")).unwrap();
        fs::write(at("failed/adapter_model.safetensors.77.tmp"), "half").unwrap();

        let check_file = |name: &str| OutFile::new(&at(name)).map(|_| ());
        assert!(told(check_file("others")).contains("name a file"));
        assert!(told(check_file("notes.txt/below.jsonl")).contains("nothing can be written there"));
        assert_eq!(told(check_file("notes.txt")), "fine");
        assert_eq!(told(check_file("new/pairs.jsonl")), "fine");
        assert!(!at("new").exists(), "nothing is made before there is something to write");

        let mark = "adapter_config.json";
        assert!(told(check_folder(&at("notes.txt"), mark)).contains("name a folder"));
        assert!(told(check_folder(&at("others"), mark)).contains("is not empty and has no adapter_config.json"));
        assert_eq!(told(check_folder(&at("adapter"), mark)), "fine");
        assert!(told(check_folder(&at("adapter"), "guard.json")).contains("has no guard.json"));
        assert_eq!(told(check_folder(&at("failed"), mark)), "fine");
        assert_eq!(told(check_folder(&at("new/adapter"), mark)), "fine");
        assert_eq!(fs::read_to_string(at("notes.txt")).unwrap(), "mine");
    }

    #[test]
    fn only_old_leftovers_of_the_file_itself_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - std::time::Duration::from_hours(2);
        let names = ["pairs.jsonl.4194999.tmp", "draft.4194999.tmp", "summary.json.4194999.tmp"];
        for name in names {
            File::create(dir.path().join(name)).unwrap().set_modified(old).unwrap();
        }
        fs::write(dir.path().join("pairs.jsonl.4194998.tmp"), "half").unwrap();
        OutFile::new(&dir.path().join("pairs.jsonl")).unwrap();
        let left = ["pairs.jsonl.4194998.tmp", names[1], names[2]];
        assert!(left.iter().all(|name| dir.path().join(name).exists()));
        assert!(!dir.path().join(names[0]).exists());
    }

    #[test]
    fn a_file_is_whole_or_as_it_was_and_a_device_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("old.jsonl"), dir.path().join("link.jsonl"));
        fs::write(&file, "old\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut out = OutFile::new(&link).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old\n");
        out.add("one\n").unwrap();
        out.add("two\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
        assert!(link.is_symlink());
        let mut nowhere = OutFile::new(Path::new("/dev/null")).unwrap();
        nowhere.add("lost\n").unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }
}
