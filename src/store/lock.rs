//! One program at a time in a folder.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::ErrorKind,
    path::Path,
    thread,
    time::Duration,
};

use fedward_actors::cancel::CancelFlag;

use super::{
    StoreError,
    files::{self, OtherWriters},
};

/// How soon a lock that was given up is noticed, and a raised flag.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

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
        Self::take_if_free(folder)?.ok_or_else(|| in_use(folder))
    }

    /// As [`FolderLock::take`] where there has been a lock before; leaves another folder as it is.
    ///
    /// # Errors
    ///
    /// As [`FolderLock::take`].
    pub fn take_if_known(folder: &Path) -> Result<Option<Self>, StoreError> {
        let path = folder.join(LOCK_FILE);
        match files::open_own(OpenOptions::new().write(true), &path) {
            Ok(file) => Self::if_free(file, folder)?.map_or_else(|| Err(in_use(folder)), |lock| Ok(Some(lock))),
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    /// As [`FolderLock::take`]; none if somebody else holds it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the file cannot be made or locked.
    pub fn take_if_free(folder: &Path) -> Result<Option<Self>, StoreError> {
        fs::create_dir_all(folder).map_err(|source| StoreError::Io { path: folder.to_owned(), source })?;
        let path = folder.join(LOCK_FILE);
        // Whatever is in the file stays: nobody but fedward need have made it.
        let file = files::open_own(OpenOptions::new().write(true).create(true).truncate(false), &path);
        let file = file.map_err(|source| StoreError::Io { path, source })?;
        Self::if_free(file, folder)
    }

    /// As [`FolderLock::take`], but waits while somebody else holds it, which `on_wait` hears; none if the flag is raised
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// As [`FolderLock::take_if_free`].
    pub fn wait_for(folder: &Path, cancel: &CancelFlag, mut on_wait: impl FnMut()) -> Result<Option<Self>, StoreError> {
        let mut lock = Self::take_if_free(folder)?;
        if lock.is_none() {
            on_wait();
        }
        while lock.is_none() && !cancel.is_cancelled() {
            thread::sleep(BETWEEN_TRIES);
            lock = Self::take_if_free(folder)?;
        }
        Ok(lock)
    }

    fn if_free(file: File, folder: &Path) -> Result<Option<Self>, StoreError> {
        match file.try_lock() {
            Ok(()) => {
                files::remove_abandoned(folder, files::is_own_name, OtherWriters::LockedOut);
                Ok(Some(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { path: folder.join(LOCK_FILE), source }),
        }
    }
}

fn in_use(folder: &Path) -> StoreError {
    let problem = "is in use by another fedward run or grid; wait for it, or choose another --out".to_owned();
    StoreError::Invalid { path: folder.to_owned(), problem }
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

    #[test]
    fn what_is_no_file_of_its_own_is_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (target, lock) = (folder.path().join("thesis.tex"), folder.path().join(LOCK_FILE));
        let refused = |found: &str| {
            for taken in [FolderLock::take(folder.path()).err(), FolderLock::take_if_known(folder.path()).err()] {
                let told = taken.expect("taken").to_string();
                assert!(told.contains(&format!("{LOCK_FILE}: expected a regular file, found {found}")), "{told}");
            }
            fs::remove_file(&lock).unwrap();
        };
        fs::write(&target, "mine").unwrap();
        std::os::unix::fs::symlink(&target, &lock).unwrap();
        refused("a symbolic link");
        assert_eq!(fs::read_to_string(&target).unwrap(), "mine");

        assert!(std::process::Command::new("mkfifo").arg(&lock).status().unwrap().success());
        refused("a pipe");

        fs::write(&lock, "somebody's").unwrap();
        drop(FolderLock::take(folder.path()).unwrap());
        assert_eq!(fs::read_to_string(&lock).unwrap(), "somebody's");
    }
}
