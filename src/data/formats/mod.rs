//! Reading chat rows and prompts from files in the formats that data sets come in.

mod labelled;
mod pairs;
pub(crate) mod records;
mod rows;

use std::{fmt, path::Path, str::FromStr};

use fedward_actors::protocol::{ChatMessage, ChatRow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::{
    labelled::{LabelledFields, LabelledRow, Labels, load_labelled},
    pairs::{PreferencePair, Revision, Revisions, load_pairs, load_revisions},
};
use self::{
    records::{CsvComments, Record, read_records},
    rows::{Wanted, chat_row},
};
use super::{DataError, Place};

/// How a record says a conversation. Every format may come as `.json` (an array), `.jsonl` or `.csv`, each also gzipped;
/// `topic` and `label` (`safe` or `unsafe`) are taken from any of them.
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
        return Err(DataError::bad_file(path, "found no row with a response, expected at least one"));
    }
    if rows.len() < n_records {
        tracing::warn!(file = %path.display(), left_out = n_records - rows.len(), "rows without a response were left out");
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
    /// What they mean.
    pub meaning: T,
}

/// Every record of a file, with its chat row as [`load_rows`] reads it; `None` where there is no response.
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
    let prompt = |ReadRecord { place, fields, meaning }: ReadRecord<Option<ChatRow>>| {
        Some(ReadRecord { place, fields, meaning: meaning?.messages })
    };
    Ok(load(path, RowFormat::Auto, Wanted::Prompt)?.into_iter().filter_map(prompt).collect())
}

fn load(path: &Path, format: RowFormat, wanted: Wanted) -> Result<Vec<ReadRecord<Option<ChatRow>>>, DataError> {
    let records = read_records(path, CsvComments::None)?;
    if records.is_empty() {
        return Err(DataError::bad_file(path, "found no rows, expected at least one"));
    }
    let read = |Record { place, fields }: Record| {
        let meaning =
            chat_row(&fields, format, wanted).map_err(|problem| DataError::bad_record(path, place, problem))?;
        Ok(ReadRecord { place, fields, meaning })
    };
    records.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests;
