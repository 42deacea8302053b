//! A folder with one file of rows per client.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::DataError;

/// The files of a folder that clients hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// One per client, in the order of their names.
    pub files: Vec<PathBuf>,
    /// How many more there are, which no client holds.
    pub spare: usize,
}

/// Extensions of files of rows; each may be followed by `.gz`.
const EXTENSIONS: [&str; 4] = [".json", ".jsonl", ".ndjson", ".csv"];

/// Finds the files of the clients in a folder: the first ones by name. Hidden files, those that are no files of rows and folders
/// are passed over.
///
/// # Errors
///
/// [`DataError`] if the folder cannot be read or has fewer files than there are clients.
pub fn client_files(folder: &Path, clients: u32) -> Result<ClientFiles, DataError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(DataError::io(folder))?;
    let is_rows =
        |path: &PathBuf| path.is_file() && path.file_name().is_some_and(|name| names_rows(&name.to_string_lossy()));
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(is_rows).collect();
    files.sort();
    let found = files.len();
    let Some(spare) = found.checked_sub(clients as usize) else {
        return Err(DataError::bad_file(
            folder,
            format!(
                "found {found} files of rows (.json, .jsonl, .ndjson or .csv, each also with .gz), expected one for each of {clients} \
                 clients; add files or lower federation.clients"
            ),
        ));
    };
    files.truncate(clients as usize);
    Ok(ClientFiles { files, spare })
}

fn names_rows(name: &str) -> bool {
    let name = name.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    !name.starts_with('.') && EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_clients_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "c.JSON", "a.csv.gz", "README.md", ".hidden.json", "d.ndjson"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("e.json")).unwrap();
        let names = |found: &ClientFiles| {
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            found.files.iter().map(name).collect::<Vec<_>>()
        };
        let all = client_files(folder.path(), 4).unwrap();
        assert_eq!(
            (names(&all), all.spare),
            (["a.csv.gz", "b.jsonl", "c.JSON", "d.ndjson"].map(str::to_owned).to_vec(), 0)
        );
        let some = client_files(folder.path(), 3).unwrap();
        assert_eq!((names(&some).len(), some.spare), (3, 1));
        let error = client_files(folder.path(), 5).unwrap_err().to_string();
        assert!(error.contains("found 4 files of rows") && error.contains("each of 5 clients"), "{error}");
    }
}
