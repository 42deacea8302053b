//! Files of records, whatever the records mean: JSON arrays, JSON lines, CSV, each also compressed.

mod quotes;
mod strict;

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value, value::RawValue};

pub use self::strict::ExactNumbers;
use self::strict::StrictValue;
use crate::data::{DataError, Place};

/// One record and where it stands in its file.
pub(crate) struct Record {
    pub(crate) place: Place,
    pub(crate) fields: Map<String, Value>,
    /// The text of fields whose numbers [`Value`] may change.
    pub(crate) exact: ExactNumbers,
}

/// Whether a CSV file may hold lines, between records, that begin with `#` and are not data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CsvComments {
    Allowed,
    None,
}

/// Reads every record of a `.json`, `.jsonl` (or `.ndjson`) or `.csv` file, each also `.gz`. No object may have a key twice, no
/// header a name, and every quote of a CSV file must be closed.
///
/// # Errors
///
/// [`DataError`] names the file, and the line or item where one is at fault.
pub(crate) fn read_records(path: &Path, comments: CsvComments) -> Result<Vec<Record>, DataError> {
    match extension(path).as_str() {
        "json" => json_array(path),
        "jsonl" | "ndjson" => json_lines(path),
        "csv" => csv_rows(path, comments),
        other => {
            let found = if other.is_empty() { "no extension".to_owned() } else { format!("extension .{other}") };
            Err(DataError::bad_file(
                path,
                format!("found {found}, expected .json, .jsonl (or .ndjson) or .csv, each also with .gz"),
            ))
        }
    }
}

/// The extension in lower case, that before `.gz` for compressed files.
fn extension(path: &Path) -> String {
    let lower = |path: &Path| path.extension().map(|text| text.to_string_lossy().to_lowercase()).unwrap_or_default();
    match lower(path).as_str() {
        "gz" => lower(Path::new(path.file_stem().unwrap_or_default())),
        other => other.to_owned(),
    }
}

/// Opens a file; whether it is compressed is told by its first bytes, not by its name. A byte-order mark is skipped.
fn open(path: &Path) -> Result<Box<dyn BufRead>, DataError> {
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let mut magic = [0; 2];
    let mut length = 0;
    while length < magic.len() {
        match file.read(&mut magic[length..]).map_err(DataError::io(path))? {
            0 => break,
            n => length += n,
        }
    }
    file.rewind().map_err(DataError::io(path))?;
    let mut reader: Box<dyn BufRead> = if magic == [0x1f, 0x8b] {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    if reader.fill_buf().map_err(DataError::io(path))?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(reader)
}

fn json_array(path: &Path) -> Result<Vec<Record>, DataError> {
    let bytes = read_to_end(path)?;
    let document: &RawValue = serde_json::from_slice(&bytes).map_err(|error| {
        let hint = if error.is_syntax() && error.to_string().starts_with("trailing characters") {
            "; if each line is an object of its own, name the file .jsonl"
        } else {
            ""
        };
        DataError::bad_file(path, format!("not valid JSON: {error}{hint}"))
    })?;
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(document.get()) else {
        let found = serde_json::from_str::<StrictValue>(document.get());
        let found = found.map_or_else(|_| "something else".to_owned(), |found| super::rows::describe(&found.0));
        return Err(DataError::bad_file(path, format!("found {found}, expected an array of objects")));
    };
    let record = |(item, raw): (u64, &RawValue)| record(path, Place::Item(item), raw.get().as_bytes());
    (1..).zip(items).map(record).collect()
}

fn read_to_end(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(DataError::io(path))?;
    Ok(bytes)
}

fn json_lines(path: &Path) -> Result<Vec<Record>, DataError> {
    let mut records = Vec::new();
    let mut reader = open(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(DataError::io(path))? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        records.push(record(path, Place::Line(number), &line)?);
    }
    Ok(records)
}

/// A record that is an object in JSON.
fn record(path: &Path, place: Place, json: &[u8]) -> Result<Record, DataError> {
    let value: StrictValue = serde_json::from_slice(json).map_err(|error| {
        let problem = without_line(&error);
        let problem = if error.is_data() { problem } else { format!("not valid JSON: {problem}") };
        DataError::bad_record(path, place, problem)
    })?;
    let exact = value.exact_numbers(json);
    match value.0 {
        Value::Object(fields) => Ok(Record { place, fields, exact }),
        other => {
            let found = super::rows::describe(&other);
            Err(DataError::bad_record(path, place, format!("found {found}, expected an object")))
        }
    }
}

/// The parser's complaint; its own line number would count from the start of the record.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((problem, place)) = text.rsplit_once(" at line ") else { return text };
    match place.split_once(" column ") {
        Some(("1", column)) if error.is_syntax() || error.is_eof() => format!("{problem} at column {column}"),
        _ => problem.to_owned(),
    }
}

fn csv_rows(path: &Path, comments: CsvComments) -> Result<Vec<Record>, DataError> {
    let comment = (comments == CsvComments::Allowed).then_some(b'#');
    let bytes = read_to_end(path)?;
    quotes::check(&bytes, comment).map_err(|open| open.complain(path))?;
    let mut reader = csv::ReaderBuilder::new().comment(comment).from_reader(bytes.as_slice());
    let headers = reader.headers().map_err(|error| csv_error(path, error))?.clone();
    let mut seen = HashSet::new();
    if let Some(twice) = headers.iter().map(str::trim).find(|name| !seen.insert(*name)) {
        let line = headers.position().map_or(1, csv::Position::line);
        let twice = strict::shown(twice);
        let problem = format!("header: found {twice} twice, expected each column once; rename or remove one");
        return Err(DataError::bad_record(path, Place::Line(line), problem));
    }
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| csv_error(path, error))?;
        let line = row.position().map_or(0, csv::Position::line);
        let fields = headers.iter().zip(&row).map(|(key, cell)| (key.trim().to_owned(), Value::from(cell))).collect();
        records.push(Record { place: Place::Line(line), fields, exact: ExactNumbers::default() });
    }
    Ok(records)
}

fn csv_error(path: &Path, error: csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    let problem = match error.into_kind() {
        csv::ErrorKind::Io(source) => return DataError::Io { path: path.to_owned(), source },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!(
                "found {len} cells, expected {expected_len} as in the header; quote cells that hold commas or line breaks"
            )
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8; convert the file".to_owned(),
        _ => "not valid CSV".to_owned(),
    };
    DataError::bad_record(path, Place::Line(line), problem)
}
