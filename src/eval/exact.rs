//! Questions whose answer is a number (the form of GSM8K; Cobbe et al., 2021): how often the last number of a response is it.
//!
//! Numbers are compared by value: `1,200`, `$1200` and `1200.00` are the same, where lm-evaluation-harness compares texts without commas
//! and dollar signs and tells `1200.00` from `1200`.

use std::path::Path;

use fedward_actors::ports::{BenchmarkScore, PortError, PortResult};
use serde_json::{Map, Value, json};

use super::{
    BenchId, Benchmark, Finding, Measurement, RateInterval, Subject,
    bench::{Values, item_scores, yes_or_no},
};
use crate::{
    data::{
        DataError,
        formats::records::{CsvComments, Record, read_records},
    },
    model::{Decoding, FinishReason},
};

/// A question whose answer is a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactItem {
    /// Its subject where the file names one, else its number.
    pub item: String,
    /// What is asked.
    pub question: String,
    /// The answer, as [`last_number`] writes it.
    pub answer: String,
}

/// The benchmark.
pub struct Exact {
    /// Which it is.
    pub id: BenchId,
    /// Questions in evaluation order.
    pub items: Vec<ExactItem>,
    /// How responses are decoded.
    pub decoding: Decoding,
}

impl ExactItem {
    /// Reads questions: `question` (or `prompt`) and `answer` (or `target`), a number or a text of which the last number counts.
    ///
    /// # Errors
    ///
    /// [`DataError`] names the file, the record and the key that is wrong; no message repeats a text.
    pub fn load(path: &Path) -> Result<Vec<Self>, DataError> {
        let records = read_records(path, CsvComments::None)?;
        if records.is_empty() {
            return Err(DataError::bad_file(path, "found no questions, expected at least one"));
        }
        let item = |(number, record): (usize, &Record)| {
            Self::of_record(number, record).map_err(|problem| DataError::bad_record(path, record.place, problem))
        };
        (1..).zip(&records).map(item).collect()
    }

    fn of_record(number: usize, record: &Record) -> Result<Self, String> {
        let fields = &record.fields;
        let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let question = text("question").or_else(|| text("prompt"));
        let question = question.ok_or("question: found no text under this key, expected what is asked")?;
        let key = if fields.contains_key("answer") { "answer" } else { "target" };
        let answer = match fields.get(key) {
            Some(Value::String(text)) => last_number(text),
            Some(Value::Number(number)) => {
                last_number(record.exact.get(key).map_or_else(|| number.to_string(), str::to_owned).as_str())
            }
            _ => None,
        };
        let answer = answer.ok_or("answer: found no number, expected one, or a text that ends with one")?;
        let item = text("subject").or_else(|| text("category")).map_or_else(|| number.to_string(), str::to_owned);
        Ok(Self { item, question: question.to_owned(), answer })
    }
}

/// Returns the last number of a text without separators, signs of currency and what says nothing about its value; `None` if there
/// is none.
pub fn last_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let is_part = |at: usize| {
        let (byte, next) = (bytes[at], bytes.get(at + 1));
        byte.is_ascii_digit() || (matches!(byte, b',' | b'.') && next.is_some_and(u8::is_ascii_digit))
    };
    let mut start = end;
    while start > 0 && is_part(start - 1) {
        start -= 1;
    }
    // One full stop at most: 1.2.3 is no number, its last one is 2.3. Separators stand between three digits each.
    let number = one_number(&text[start..end]);
    let begins = end - number.len();
    let before = text[..begins].trim_end_matches('$');
    // A hyphen behind a word or a number is none of its own.
    let is_negative =
        before.strip_suffix(['-', '−']).is_some_and(|rest| !rest.ends_with(|last: char| last.is_alphanumeric()));
    let digits: String = number.chars().filter(|character| *character != ',').collect();
    let (whole, decimals) = digits.split_once('.').unwrap_or((&digits, ""));
    let whole = whole.trim_start_matches('0');
    let decimals = decimals.trim_end_matches('0');
    let mut value = if whole.is_empty() { "0".to_owned() } else { whole.to_owned() };
    if !decimals.is_empty() {
        value = format!("{value}.{decimals}");
    }
    Some(if is_negative && value != "0" { format!("-{value}") } else { value })
}

/// The last number of a run of digits, full stops and commas that begins and ends with a digit (or begins with a full stop).
fn one_number(run: &str) -> &str {
    let run = run.trim_start_matches(',');
    let after_last_but_one_stop = match run.match_indices('.').rev().nth(1) {
        Some((at, _)) => &run[at + 1..],
        None => run,
    };
    let whole = after_last_but_one_stop.split('.').next().unwrap_or_default();
    let groups: Vec<&str> = whole.split(',').collect();
    let is_grouped = groups[1..].iter().all(|group| group.len() == 3) && groups[0].len() <= 3;
    match whole.rfind(',') {
        Some(comma) if !is_grouped => &after_last_but_one_stop[comma + 1..],
        _ => after_last_but_one_stop,
    }
}

impl Benchmark for Exact {
    /// `accuracy` with bounds (Wilson's); `without_number`, responses that hold none; `cut`, responses that were not over at the most
    /// tokens. Items: `right`.
    fn measure(&self, subject: &Subject<'_>) -> PortResult<Measurement> {
        let chosen = subject.share(&self.items);
        if chosen.is_empty() {
            return Err(PortError::Failed(format!("{}: no questions", self.id.name())));
        }
        let asked: Vec<_> = chosen.iter().enumerate().map(|(index, item)| (index, item.question.as_str())).collect();
        let replies = subject.reply(&self.id, &asked, self.decoding)?;
        let found: Vec<Option<String>> = replies.iter().map(|reply| last_number(&reply.text)).collect();
        let right: Vec<bool> =
            chosen.iter().zip(&found).map(|(item, found)| found.as_ref() == Some(&item.answer)).collect();
        let mut values = Values::default();
        values.rate("accuracy", RateInterval::of(right.iter().copied()));
        values.number("without_number", found.iter().filter(|found| found.is_none()).count() as f64);
        let cut = replies.iter().filter(|reply| reply.finish_reason == FinishReason::Length).count();
        values.number("cut", cut as f64);
        let texts = chosen.iter().map(|item| item.question.as_str());
        let items = item_scores(texts, [("right", yes_or_no(right.iter().copied()))]);
        let score = BenchmarkScore { items: Some(items), ..values.score(chosen.len()) };
        let findings =
            chosen.iter().zip(replies).zip(found.iter().zip(&right)).map(|((item, reply), (found, right))| Finding {
                item: item.item.clone(),
                prompt: item.question.clone(),
                response: Some(reply.text),
                verdicts: Map::from_iter([
                    ("answer".to_owned(), json!(item.answer)),
                    ("found".to_owned(), json!(found)),
                    ("right".to_owned(), json!(right)),
                ]),
            });
        let findings = findings.collect();
        Ok(Measurement { name: self.id.name().to_owned(), score, findings, warnings: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_counts_by_its_value() {
        for (text, number) in [
            ("She has 3 apples, then 12.", Some("12")),
            ("#### 1,200", Some("1200")),
            ("It costs $1,200.50.", Some("1200.5")),
            ("about 007.00 of them", Some("7")),
            ("-5", Some("-5")),
            ("minus: −$5", Some("-5")),
            ("3-5", Some("5")),
            ("pages 3, 4,5", Some("5")),
            ("version 1.2.3", Some("2.3")),
            ("12,34", Some("34")),
            (".5 of it", Some("0.5")),
            ("-0.0", Some("0")),
            ("1,234,567!", Some("1234567")),
            ("none", None),
            ("", None),
            ("½ ٣", None),
        ] {
            assert_eq!(last_number(text).as_deref(), number, "{text:?}");
        }
    }

    #[test]
    fn questions_are_read_with_their_numbers() {
        let read = |record: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("questions.jsonl");
            std::fs::write(&path, record).unwrap();
            ExactItem::load(&path).map(|mut items| items.remove(0)).map_err(|error| error.to_string())
        };
        let item = read(r#"{"question": "2+2?", "answer": "Two and two are 4.\n#### 4", "subject": "sums"}"#).unwrap();
        assert_eq!((item.item.as_str(), item.answer.as_str()), ("sums", "4"));
        assert_eq!(read(r#"{"prompt": "2+2?", "target": 4.0}"#).unwrap().answer, "4");
        for (record, problem) in [
            (r#"{"question": "secret", "answer": "secret"}"#, "answer: found no number"),
            (r#"{"answer": 4}"#, "question: found no text"),
        ] {
            let error = read(record).unwrap_err();
            assert!(error.contains("line 1: ") && error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }
}
