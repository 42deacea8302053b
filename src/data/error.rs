//! What can be wrong with data.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where in a file a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The line it begins on, from 1 (JSON lines, CSV).
    Line(u64),
    /// Which item of the array it is, from 1 (JSON).
    Item(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Item(item) => write!(f, "item {item}"),
        }
    }
}

/// Why data cannot be read, made or fetched. Messages never repeat a row's text, since that may be harmful.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file as a whole is not what it should be.
    #[error("{}: {problem}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Found, allowed, what to do.
        problem: String,
    },
    /// One record of a file is not what it should be.
    #[error("{}, {place}: {problem}", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// Key, found, allowed, what to do.
        problem: String,
    },
    /// Settings ask for what cannot be had.
    #[error("{0}")]
    BadSetting(String),
    /// Something of the catalogue cannot be fetched.
    #[error("cannot fetch {name}: {problem}")]
    Fetch {
        /// The catalogue's name for it.
        name: String,
        /// What is missing or wrong, and what to do.
        problem: String,
    },
}

impl DataError {
    /// Says which file an input or output error is about.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn bad_file(path: &Path, problem: impl Into<String>) -> Self {
        Self::BadFile { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn bad_record(path: &Path, place: Place, problem: impl Into<String>) -> Self {
        Self::BadRecord { path: path.to_owned(), place, problem: problem.into() }
    }
}
