//! Quotes of CSV files. The parser takes whatever comes: a quote that is not closed swallows all rows after it.

use std::path::Path;

use crate::data::{DataError, Place};

/// A quote that swallows rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenQuote {
    /// The line on which it opens.
    line: u64,
    /// The line on which the next quote ends it in the middle of a cell; `None` where the file ends before.
    ended: Option<u64>,
}

impl OpenQuote {
    pub(super) fn complain(self, path: &Path) -> DataError {
        let found = match self.ended {
            None => "found a quote that is never closed".to_owned(),
            Some(line) => format!("found a quote that the next one, on line {line}, ends in the middle of a cell"),
        };
        let problem =
            format!("{found}, expected one at the end of its cell; close it, or write quotes inside quotes twice");
        DataError::bad_record(path, Place::Line(self.line), problem)
    }
}

/// Where the text is, seen from the byte that comes.
enum State {
    /// At the start of a row.
    RowStart,
    /// At the start of another cell.
    CellStart,
    /// In a cell without quotes, or behind them.
    Plain,
    /// In a comment.
    Comment,
    /// Behind the quote that opens on a line.
    Quoted { line: u64 },
    /// Behind another quote: the end of the cell, or the first of two that mean one.
    Quote { line: u64 },
}

/// Finds the first quote that is never closed, or that runs over lines and is closed in the middle of a cell.
///
/// # Errors
///
/// [`OpenQuote`] says where.
pub(super) fn check(text: &[u8], comment: Option<u8>) -> Result<(), OpenQuote> {
    let mut state = State::RowStart;
    let mut line = 1;
    for &byte in text {
        state = match (state, byte) {
            (State::RowStart, byte) if Some(byte) == comment => State::Comment,
            (State::Comment, byte) if byte != b'\n' => State::Comment,
            (State::RowStart | State::CellStart, b'"') => State::Quoted { line },
            (State::Quoted { line: opened }, b'"') => State::Quote { line: opened },
            (State::Quoted { line: opened }, _) | (State::Quote { line: opened }, b'"') => {
                State::Quoted { line: opened }
            }
            (_, b',') => State::CellStart,
            (_, b'\n' | b'\r') => State::RowStart,
            (State::Quote { line: opened }, _) if opened < line => {
                return Err(OpenQuote { line: opened, ended: Some(line) });
            }
            _ => State::Plain,
        };
        line += u64::from(byte == b'\n');
    }
    match state {
        State::Quoted { line } => Err(OpenQuote { line, ended: None }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_that_swallow_rows_are_found_on_the_line_that_they_open_on() {
        let open = |line, ended| Err(OpenQuote { line, ended });
        for (text, expected) in [
            ("a,b\n1,2\n", Ok(())),
            ("a,b\r\n\"1\",\"two\r\nlines, \"\"quoted\"\"\"\r\n", Ok(())),
            ("a,b\n\"1\n2\"", Ok(())),
            // Not at the start of a cell, so it is one character of many.
            ("a,b\n5\" pipe,6\"\n", Ok(())),
            ("a,b\n\"one\" line,2\n", Ok(())),
            ("a,b\n1,2\n3,\"4\n5,6\n", open(3, None)),
            ("a,b\n\"1\"\"\n2", open(2, None)),
            ("a,b\n1,\"2\n3,\"4\"\n5,6\n", open(2, Some(3))),
            ("\"a,b\n", open(1, None)),
        ] {
            assert_eq!(check(text.as_bytes(), None), expected, "{text}");
        }
        let commented = b"# \"\na,b\n# 5\" \n1,#\"\n";
        assert_eq!(check(commented, Some(b'#')), Ok(()));
        assert_eq!(check(b"a\n\"#\n# \n", Some(b'#')), open(2, None));
    }
}
