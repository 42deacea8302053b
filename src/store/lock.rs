//! One program at a time in a folder.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::ErrorKind,
    path::Path,
};

use super::StoreError;

/// The file that is locked. It stays when the lock is given up: to remove it would race with whoever waits for it.
pub(super) const LOCK_FILE: &str = "fedward.lock";

/// Keeps other runs and grids out of a folder until it is dropped, or the process ends.
#[derive(Debug)]
#[must_use = "the folder is free again once the lock is dropped"]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of `folder`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if somebody else holds it, or the file cannot be made.
    pub fn take(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(|source| StoreError::Io { path: folder.to_owned(), source })?;
        let path = folder.join(LOCK_FILE);
        let file = File::create(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        Self::of(file, folder)
    }

    /// As [`FolderLock::take`] where there has been a lock before; leaves another folder as it is.
    ///
    /// # Errors
    ///
    /// As [`FolderLock::take`].
    pub fn take_if_known(folder: &Path) -> Result<Option<Self>, StoreError> {
        let path = folder.join(LOCK_FILE);
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => Self::of(file, folder).map(Some),
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    fn of(file: File, folder: &Path) -> Result<Self, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let problem =
                    "is in use by another fedward run or grid; wait for it, or choose another --out".to_owned();
                Err(StoreError::Invalid { path: folder.to_owned(), problem })
            }
            Err(TryLockError::Error(source)) => Err(StoreError::Io { path: folder.join(LOCK_FILE), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_again_once_its_lock_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        assert!(FolderLock::take_if_known(&path).unwrap().is_none());
        assert!(!path.exists());
        let lock = FolderLock::take(&path).unwrap();
        for refused in [FolderLock::take(&path).err(), FolderLock::take_if_known(&path).err()] {
            let refused = refused.expect("two at once").to_string();
            assert!(refused.contains("out: is in use by another fedward"), "{refused}");
        }
        drop(lock);
        assert!(FolderLock::take_if_known(&path).unwrap().is_some());
    }
}
