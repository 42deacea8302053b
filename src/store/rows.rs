//! Files of JSON lines, one object a row, that grow row by row.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{StoreError, files};

/// Reads all rows, none where there is no file; an unfinished last line is left out, any other broken line is an error.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StoreError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
    };
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| StoreError::Invalid {
            path: path.to_owned(),
            problem: format!("line {}: {error}", index + 1),
        })
    };
    complete.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(parse).collect()
}

/// Writes these rows in place of all others.
pub(super) fn rewrite<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), StoreError> {
    files::write_atomically(path, to_lines(rows, path)?.as_bytes())
}

/// Adds rows, durably: a new file's folder is synced, too.
pub(super) fn append<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), StoreError> {
    let lines = to_lines(rows, path)?;
    let append = || {
        let is_new = !path.exists();
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
        if is_new { files::sync_folder(path.parent().unwrap_or(Path::new(""))) } else { Ok(()) }
    };
    append().map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

fn to_lines<T: Serialize>(rows: &[T], path: &Path) -> Result<String, StoreError> {
    let mut lines = String::new();
    for row in rows {
        let line = serde_json::to_string(row)
            .map_err(|error| StoreError::Invalid { path: path.to_owned(), problem: error.to_string() })?;
        lines.push_str(&line);
        lines.push('\n');
    }
    Ok(lines)
}
