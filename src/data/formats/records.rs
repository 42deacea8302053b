//! Files of records, whatever the records mean: JSON arrays, JSON lines, CSV, each also compressed.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::data::{DataError, Place};

/// One record and where it stands in its file.
pub(crate) struct Record {
    pub(crate) place: Place,
    pub(crate) fields: Map<String, Value>,
}

/// Whether a CSV file may hold lines, between records, that begin with `#` and are not data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CsvComments {
    Allowed,
    None,
}

/// Reads every record of a `.json`, `.jsonl` or `.csv` file, each also `.gz`.
///
/// # Errors
///
/// [`DataError`] names the file, and the line or item where one is at fault.
pub(crate) fn read_records(path: &Path, comments: CsvComments) -> Result<Vec<Record>, DataError> {
    match extension(path).as_str() {
        "json" => json_array(path),
        "jsonl" => json_lines(path),
        "csv" => csv_rows(path, comments),
        other => {
            let found = if other.is_empty() { "no extension".to_owned() } else { format!("extension .{other}") };
            Err(DataError::bad_file(path, format!("found {found}, allowed: .json, .jsonl, .csv, each also with .gz")))
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
    let document: Value = serde_json::from_reader(open(path)?).map_err(|error| {
        let hint = if error.is_syntax() && error.to_string().starts_with("trailing characters") {
            "; if each line is an object of its own, name the file .jsonl"
        } else {
            ""
        };
        DataError::bad_file(path, format!("not valid JSON: {error}{hint}"))
    })?;
    let Value::Array(items) = document else {
        let found = super::rows::describe(&document);
        return Err(DataError::bad_file(path, format!("found {found}, expected an array of objects")));
    };
    (1..).zip(items).map(|(item, value)| object(path, Place::Item(item), value)).collect()
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
        let place = Place::Line(number);
        let value = serde_json::from_slice(&line)
            .map_err(|error| DataError::bad_record(path, place, format!("not valid JSON: {}", without_line(&error))))?;
        records.push(object(path, place, value)?);
    }
    Ok(records)
}

/// The parser's complaint; its own line number would count from the start of our line.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((problem, column)) => format!("{problem} at column {column}"),
        None => text,
    }
}

fn object(path: &Path, place: Place, value: Value) -> Result<Record, DataError> {
    match value {
        Value::Object(fields) => Ok(Record { place, fields }),
        other => {
            let found = super::rows::describe(&other);
            Err(DataError::bad_record(path, place, format!("found {found}, expected an object")))
        }
    }
}

fn csv_rows(path: &Path, comments: CsvComments) -> Result<Vec<Record>, DataError> {
    let comment = (comments == CsvComments::Allowed).then_some(b'#');
    let mut reader = csv::ReaderBuilder::new().comment(comment).from_reader(open(path)?);
    let headers = reader.headers().map_err(|error| csv_error(path, error))?.clone();
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| csv_error(path, error))?;
        let line = row.position().map_or(0, csv::Position::line);
        let fields = headers.iter().zip(&row).map(|(key, cell)| (key.trim().to_owned(), Value::from(cell))).collect();
        records.push(Record { place: Place::Line(line), fields });
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
