//! Reading chat rows and prompts from files in the formats that data sets come in.

mod dialogue;
mod key_sets;
mod labelled;
mod pairs;
pub(crate) mod records;
mod rows;
mod turns;
mod verdicts;

use std::{fmt, path::Path, str::FromStr};

use fedward_actors::protocol::{ChatMessage, ChatRow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::records::ExactNumbers;
pub use self::{
    labelled::{LabelledFields, LabelledRow, Labels, SCORED_RESPONSES, load_labelled},
    pairs::{PreferencePair, Revision, Revisions, load_pairs, load_revisions},
};
use self::{
    records::{CsvComments, Record, read_records},
    rows::{Reading, Wanted, chat_row, column_value},
};
use super::{DataError, Place};

/// How a record says a conversation. Every format may come as `.json` (an array), `.jsonl` (or `.ndjson`) or `.csv`,
/// each also gzipped; `system`, `topic` and `label` (`safe` or `unsafe`) are taken from any of them.
///
/// A turn may say that it is not to be trained on (`weight` 0, `train` or `loss` false): where that is the response, the row is no
/// row to train on, and is left out and counted. Tools, tool calls and reasoning are refused, for they cannot be rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// Told by the keys of each record.
    #[default]
    Auto,
    /// `messages`: turns of `role` and `content`; the form in which fedward writes rows.
    Messages,
    /// `instruction`, maybe `input` or `context`, and `output` or `response`; `system` and `history` where present.
    Alpaca,
    /// `conversations`: turns of `from` (human, gpt) and `value`.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `prompt` (or `question`, `query`, `goal`, `forbidden_prompt`) and `response` (or `completion`, `answer`, `output`, `target`).
    PromptResponse,
    /// HH-RLHF's preferred dialogue, `chosen`. Rows whose last turn is empty are left out: the data set has some.
    HhRlhf,
    /// HH-RLHF's other dialogue, `rejected`.
    HhRlhfRejected,
}

impl RowFormat {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Auto,
        Self::Messages,
        Self::Alpaca,
        Self::ShareGpt,
        Self::PromptResponse,
        Self::HhRlhf,
        Self::HhRlhfRejected,
    ];

    /// Its name in scenarios and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Messages => "messages",
            Self::Alpaca => "alpaca",
            Self::ShareGpt => "sharegpt",
            Self::PromptResponse => "prompt_response",
            Self::HhRlhf => "hh_rlhf",
            Self::HhRlhfRejected => "hh_rlhf_rejected",
        }
    }
}

impl fmt::Display for RowFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RowFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let allowed: Vec<_> = Self::ALL.iter().map(|format| format.name()).collect();
            format!("unknown row format {text:?}; allowed: {}", allowed.join(", "))
        })
    }
}

/// A record's fields, as its file has them.
pub type Fields = Map<String, Value>;

/// Reads the chat rows of a file; each ends with the assistant's response.
///
/// # Errors
///
/// [`DataError`] names file, line or item, key, what was found and what is allowed. One bad row fails the file: training
/// on fewer rows than were asked for would not show.
pub fn load_rows(path: &Path, format: RowFormat) -> Result<Vec<ChatRow>, DataError> {
    Ok(load_placed_rows(path, format)?.into_iter().map(|(_, row)| row).collect())
}

/// As [`load_rows`], each row with where it stands.
///
/// # Errors
///
/// As [`load_rows`].
pub fn load_placed_rows(path: &Path, format: RowFormat) -> Result<Vec<(Place, ChatRow)>, DataError> {
    let records = load(path, format, Wanted::Row)?;
    let n_records = records.len();
    let rows: Vec<_> = records.into_iter().filter_map(|record| Some((record.place, record.meaning?))).collect();
    if rows.is_empty() {
        let problem = format!(
            "found no row with a response to train on, expected at least one; {n_records} rows have none, or say that it is not \
             to be trained on"
        );
        return Err(DataError::bad_file(path, problem));
    }
    Ok(rows)
}

/// As [`load_placed_rows`], the topic of each row being its value in a column, whatever that says: rows can be parted by it.
///
/// # Errors
///
/// As [`load_rows`], also for a row that has no such column, or neither a text, a number, true nor false in it.
pub fn load_rows_by(path: &Path, format: RowFormat, column: &str) -> Result<Vec<(Place, ChatRow)>, DataError> {
    let mut rows = Vec::new();
    for record in load_rows_with_records(path, format)? {
        let Some(mut row) = record.meaning else { continue };
        let exact = record.exact.get(column);
        let value = column_value(&record.fields, column, exact)
            .map_err(|problem| DataError::bad_record(path, record.place, problem))?;
        row.topic = Some(value);
        rows.push((record.place, row));
    }
    if rows.is_empty() {
        return Err(DataError::bad_file(path, "found no row with a response to train on, expected at least one"));
    }
    Ok(rows)
}

/// A record of a file with what it means.
#[derive(Clone, Debug)]
pub struct ReadRecord<T> {
    /// Where it stands.
    pub place: Place,
    /// Its fields, as the file has them.
    pub fields: Fields,
    /// The text of those whose numbers would be written in another way.
    pub exact: ExactNumbers,
    /// What they mean.
    pub meaning: T,
}

/// A record as it is handed on: its fields as the file has them, and what was added to them.
#[derive(Clone, Debug)]
pub struct PassedRecord {
    fields: Fields,
    exact: ExactNumbers,
}

impl<T> ReadRecord<T> {
    /// Returns the record without what it means.
    pub fn passed(self) -> PassedRecord {
        PassedRecord { fields: self.fields, exact: self.exact }
    }
}

impl PassedRecord {
    /// Adds a field, or puts another value in its place.
    pub fn set(&mut self, key: &str, value: Value) {
        self.exact.forget(key);
        self.fields.insert(key.to_owned(), value);
    }
}

/// Writes the record on one line, as JSON.
impl fmt::Display for PassedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (key, value)) in self.fields.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:", Value::from(key.as_str()))?;
            match self.exact.get(key) {
                Some(text) => f.write_str(text)?,
                None => write!(f, "{value}")?,
            }
        }
        f.write_str("}")
    }
}

/// Every record of a file, with its chat row as [`load_rows`] reads it; `None` where there is no response, or none that is to be
/// trained on.
///
/// # Errors
///
/// As [`load_rows`].
pub fn load_rows_with_records(path: &Path, format: RowFormat) -> Result<Vec<ReadRecord<Option<ChatRow>>>, DataError> {
    load(path, format, Wanted::Row)
}

/// Reads prompts: the turns before the response of every row, whether or not the file has responses, each with its
/// record as the file has it.
///
/// # Errors
///
/// As [`load_rows`].
pub fn load_prompts(path: &Path) -> Result<Vec<ReadRecord<Vec<ChatMessage>>>, DataError> {
    let prompt = |ReadRecord { place, fields, exact, meaning }: ReadRecord<Option<ChatRow>>| {
        Some(ReadRecord { place, fields, exact, meaning: meaning?.messages })
    };
    Ok(load(path, RowFormat::Auto, Wanted::Prompt)?.into_iter().filter_map(prompt).collect())
}

fn load(path: &Path, format: RowFormat, wanted: Wanted) -> Result<Vec<ReadRecord<Option<ChatRow>>>, DataError> {
    let records = read_records(path, CsvComments::None)?;
    if records.is_empty() {
        return Err(DataError::bad_file(path, "found no rows, expected at least one"));
    }
    let (mut no_response, mut not_trained, mut others, mut named, mut weighted) = (0, 0, 0, 0, 0);
    let mut read = |Record { place, fields, exact }: Record| {
        let meaning =
            chat_row(&fields, format, wanted).map_err(|problem| DataError::bad_record(path, place, problem))?;
        let meaning = match meaning {
            Reading::Row(row, unheeded) => {
                others += usize::from(unheeded.asks_for_others);
                named += usize::from(unheeded.has_names);
                weighted += usize::from(unheeded.is_weighted);
                Some(row)
            }
            Reading::NoResponse => {
                no_response += 1;
                None
            }
            Reading::NotTrained(_) => {
                not_trained += 1;
                None
            }
        };
        Ok(ReadRecord { place, fields, exact, meaning })
    };
    let records = records.into_iter().map(&mut read).collect::<Result<Vec<_>, _>>()?;
    if wanted == Wanted::Row {
        let notes = [
            (no_response, "rows without a response are left out"),
            (not_trained, "rows are left out whose response is not to be trained on (weight 0, train or loss false)"),
            (others, "rows ask for turns before the response to be trained on; only the response is"),
            (named, "rows have turns that name who speaks; names are not rendered"),
            (weighted, "rows have a weight of their own; all weigh the same"),
        ];
        for (rows, note) in notes.into_iter().filter(|(rows, _)| *rows > 0) {
            tracing::warn!(file = %path.display(), rows, "{note}");
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
