//! Checksums beside what is kept for later commands, so that damage to it is found and not believed.

use std::path::{Path, PathBuf};

use fedward_actors::protocol::hex;
use sha2::{Digest, Sha256};

use super::{StoreError, files};

/// The checksums of some files of a folder, as `sha256sum` prints and checks them. It is written after them.
pub(crate) struct Seal(PathBuf);

/// How files are found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// All as they were sealed.
    Whole,
    /// There is none of them.
    Absent,
    /// What is wrong, in words.
    Damaged(String),
}

impl Seal {
    /// The seal in the file at `path`.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Seals files of its folder by their names, as they are.
    pub(crate) fn set(&self, names: &[&str]) -> Result<(), StoreError> {
        let mut text = String::new();
        for name in names {
            let path = self.file(name);
            let bytes = files::read_regular(&path).map_err(|source| StoreError::Io { path, source })?;
            text.extend([hex(&Sha256::digest(bytes)).as_str(), "  ", name, "\n"]);
        }
        files::write_atomically(&self.0, text.as_bytes())
    }

    /// Looks whether files are those that were sealed.
    pub(crate) fn check(&self, names: &[&str]) -> Sealed {
        let sealed = match files::read_regular_text(&self.0) {
            Ok(text) => text,
            Err(_) if !self.0.exists() && names.iter().all(|name| !self.file(name).exists()) => return Sealed::Absent,
            Err(error) => return Sealed::Damaged(format!("{}: {error}", self.0.display())),
        };
        for name in names {
            let path = self.file(name);
            let found = match files::read_regular(&path) {
                Ok(bytes) => format!("{}  {name}", hex(&Sha256::digest(bytes))),
                Err(error) => return Sealed::Damaged(format!("{}: {error}", path.display())),
            };
            if !sealed.lines().any(|line| line == found) {
                return Sealed::Damaged(format!("{} does not have its checksum", path.display()));
            }
        }
        Sealed::Whole
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.parent().unwrap_or(Path::new("")).join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_seal_knows_its_files_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (seal, names) = (Seal::at(at("SHA256SUMS")), ["a", "b"]);
        assert_eq!(seal.check(&names), Sealed::Absent);
        fs::write(at("a"), "one").unwrap();
        assert!(matches!(seal.check(&names), Sealed::Damaged(_)), "a file that nobody sealed");
        fs::write(at("b"), "two").unwrap();
        seal.set(&names).unwrap();
        assert_eq!(seal.check(&names), Sealed::Whole);
        for damaged in ["twp", ""] {
            fs::write(at("b"), damaged).unwrap();
            let Sealed::Damaged(problem) = seal.check(&names) else { panic!("{damaged:?} is believed") };
            assert!(problem.ends_with("b does not have its checksum"), "{problem}");
        }
        fs::remove_file(at("b")).unwrap();
        assert!(matches!(seal.check(&names), Sealed::Damaged(_)));
        // Names in another order of contents are other files.
        fs::write(at("a"), "two").unwrap();
        fs::write(at("b"), "one").unwrap();
        assert!(matches!(seal.check(&names), Sealed::Damaged(_)));
    }
}
