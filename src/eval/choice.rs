//! Questions with options: how often the right one is the likeliest.
//!
//! In the form of MMLU (Hendrycks et al., 2021) the options stand in the question under letters, and letters are compared; in
//! that of ARC and `HellaSwag` the question stands alone and the options' texts are compared. An option's likelihood is the sum of its
//! tokens' log-probabilities as the answer of the chat template, the token that closes the turn left out. `accuracy` takes the largest
//! sum, `accuracy_norm` the largest sum divided by the option's length in characters: `acc` and `acc_norm` of lm-evaluation-harness.

use std::path::Path;

use fedward_actors::{
    ports::{BenchmarkScore, PortError, PortResult},
    protocol::ChatRow,
};
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
    model::RowScore,
};

/// A question with options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceItem {
    /// Its subject where the file names one, else its number.
    pub item: String,
    /// What is asked, without the options.
    pub question: String,
    /// The options, of which there are at least two.
    pub options: Vec<String>,
    /// Which of them is right.
    pub right: usize,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// Letters, the options standing in the question.
    Letters,
    /// The options' texts.
    Texts,
}

/// The benchmark.
pub struct Choice {
    /// Which it is.
    pub id: BenchId,
    /// Questions in evaluation order.
    pub items: Vec<ChoiceItem>,
    /// What is compared.
    pub candidates: Candidates,
}

/// Options have the letters from A on.
const MOST_OPTIONS: usize = 26;

impl ChoiceItem {
    /// Reads questions: `question` (or `prompt`), `choices` (or `options`), an array of texts, and `answer`: the place of the right
    /// one from 0, its letter or its text. ARC's form is read, too: `choices` with `text` and `label`, and `answerKey`.
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
            Self::of_record(number, &record.fields)
                .map_err(|problem| DataError::bad_record(path, record.place, problem))
        };
        (1..).zip(&records).map(item).collect()
    }

    fn of_record(number: usize, fields: &Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let question = text("question").or_else(|| text("prompt"));
        let question = question.ok_or("question: found no text under this key, expected what is asked")?;
        let choices = fields.get("choices").or_else(|| fields.get("options"));
        let (texts, labels) = match choices {
            Some(Value::Object(arc)) => (arc.get("text"), arc.get("label")),
            other => (other, None),
        };
        let options = texts.and_then(texts_of).ok_or("choices: found no array of texts, expected the options")?;
        if !(2..=MOST_OPTIONS).contains(&options.len()) {
            return Err(format!("choices: found {} options, expected 2 to {MOST_OPTIONS}", options.len()));
        }
        let labels = labels.and_then(texts_of).filter(|labels| labels.len() == options.len());
        let (key, answer) = ["answer", "answerKey", "label"]
            .iter()
            .find_map(|key| Some((*key, fields.get(*key).filter(|value| !value.is_null())?)))
            .ok_or("answer: is missing, expected the place of the right option from 0, its letter or its text")?;
        let right = right_option(answer, &options, labels.as_deref()).ok_or_else(|| {
            format!(
                "{key}: found nothing that says which of the {} options is right, expected its place from 0, its letter or its text",
                options.len()
            )
        })?;
        let item = text("subject").or_else(|| text("category")).map_or_else(|| number.to_string(), str::to_owned);
        Ok(Self { item, question: question.to_owned(), options, right })
    }

    /// What is asked, and what may be answered.
    fn asked(&self, candidates: Candidates) -> (String, Vec<String>) {
        match candidates {
            Candidates::Texts => (self.question.clone(), self.options.clone()),
            Candidates::Letters => {
                let letters: Vec<String> =
                    (b'A'..).take(self.options.len()).map(|letter| char::from(letter).into()).collect();
                let listed: Vec<_> =
                    letters.iter().zip(&self.options).map(|(letter, option)| format!("{letter}. {option}\n")).collect();
                (format!("{}\n{}Answer:", self.question, listed.concat()), letters)
            }
        }
    }
}

fn texts_of(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    value.as_array()?.iter().map(text).collect()
}

/// A place, a label or letter, or a text that one option alone has.
fn right_option(answer: &Value, options: &[String], labels: Option<&[String]>) -> Option<usize> {
    if let Some(place) = answer.as_u64() {
        return usize::try_from(place).ok().filter(|place| *place < options.len());
    }
    let answer = answer.as_str()?.trim();
    let only = |texts: &[String]| {
        let mut places = texts.iter().enumerate().filter(|(_, text)| *text == answer).map(|(place, _)| place);
        places.next().filter(|_| places.next().is_none())
    };
    if let Some(labels) = labels {
        return only(labels);
    }
    only(options).or_else(|| match answer.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')).filter(|place| *place < options.len()),
        _ => answer.parse().ok().filter(|place| *place < options.len()),
    })
}

/// What became of one question.
struct Outcome {
    /// Log-probability of each option.
    sums: Vec<f64>,
    right: bool,
    right_norm: bool,
}

impl Benchmark for Choice {
    /// `accuracy` and `accuracy_norm` with bounds (Wilson's); `chance`; `skipped`, questions that are longer than the model's context.
    /// Items, of those that were not skipped: `right`, `right_norm`.
    fn measure(&self, subject: &Subject<'_>) -> PortResult<Measurement> {
        let chosen = subject.share(&self.items);
        let mut measured = Vec::new();
        for (item, scores) in chosen.iter().zip(self.scores(chosen, subject)?) {
            let Some(scores) = scores else { continue };
            let (_, candidates) = item.asked(self.candidates);
            measured.push((item, outcome(&scores, &candidates, item.right)));
        }
        if measured.is_empty() {
            return Err(PortError::Failed(format!("{}: no question fits the model's context", self.id.name())));
        }
        let mut values = Values::default();
        let right = |of: fn(&Outcome) -> bool| measured.iter().map(move |(_, outcome)| of(outcome));
        values.rate("accuracy", RateInterval::of(right(|outcome| outcome.right)));
        values.rate("accuracy_norm", RateInterval::of(right(|outcome| outcome.right_norm)));
        let chance = measured.iter().map(|(item, _)| 1.0 / item.options.len() as f64).sum::<f64>();
        values.number("chance", chance / measured.len() as f64);
        values.number("skipped", (chosen.len() - measured.len()) as f64);
        let items = item_scores(
            measured.iter().map(|(item, _)| item.question.as_str()),
            [
                ("right", yes_or_no(right(|outcome| outcome.right))),
                ("right_norm", yes_or_no(right(|outcome| outcome.right_norm))),
            ],
        );
        let score = BenchmarkScore { items: Some(items), ..values.score(measured.len()) };
        let findings = measured.iter().map(|(item, outcome)| finding(item, outcome)).collect();
        Ok(Measurement { name: self.id.name().to_owned(), score, findings, warnings: Vec::new() })
    }
}

impl Choice {
    /// The likelihood of each question's options; `None` for a question that does not fit the model's context.
    fn scores(&self, items: &[ChoiceItem], subject: &Subject<'_>) -> PortResult<Vec<Option<Vec<RowScore>>>> {
        let tokenizer = &subject.model.tokenizer;
        let (mut rows, mut counts) = (Vec::new(), Vec::new());
        for item in items {
            let (asked, candidates) = item.asked(self.candidates);
            let mut of_item = Vec::with_capacity(candidates.len());
            for candidate in &candidates {
                let row = ChatRow::single_turn(&asked, candidate);
                let Some(mut row) = tokenizer.row_ids(&row, usize::MAX)? else { continue };
                // The harness does not ask for an end either.
                row.ids.pop_if(|last| tokenizer.stop_ids().contains(last));
                of_item.push(row);
            }
            let fits = of_item.iter().all(|row| row.ids.len() <= subject.model.context());
            let is_whole =
                of_item.len() == candidates.len() && of_item.iter().all(|row| row.response_start < row.ids.len());
            counts.push((fits && is_whole).then_some(of_item.len()));
            rows.extend(of_item.into_iter().filter(|_| fits && is_whole));
        }
        let mut scores = subject.score(&self.id, &rows)?.into_iter();
        Ok(counts.into_iter().map(|count| count.map(|count| scores.by_ref().take(count).collect())).collect())
    }
}

/// The first of the likeliest counts, as numpy's `argmax` has it.
fn outcome(scores: &[RowScore], candidates: &[String], right: usize) -> Outcome {
    let sums: Vec<f64> = scores.iter().map(|score| score.log_likelihood).collect();
    let characters = candidates.iter().map(|candidate| candidate.chars().count().max(1) as f64);
    let norms: Vec<f64> = sums.iter().zip(characters).map(|(sum, characters)| sum / characters).collect();
    let is_right = |values: &[f64]| {
        let likeliest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        values.iter().position(|&value| value >= likeliest) == Some(right)
    };
    Outcome { right: is_right(&sums), right_norm: is_right(&norms), sums }
}

fn finding(item: &ChoiceItem, outcome: &Outcome) -> Finding {
    Finding {
        item: item.item.clone(),
        prompt: item.question.clone(),
        response: None,
        verdicts: Map::from_iter([
            ("right_option".to_owned(), json!(item.right)),
            ("log_likelihoods".to_owned(), json!(outcome.sums)),
            ("right".to_owned(), json!(outcome.right)),
            ("right_norm".to_owned(), json!(outcome.right_norm)),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(record: &str) -> Result<ChoiceItem, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("questions.jsonl");
        std::fs::write(&path, record).unwrap();
        ChoiceItem::load(&path).map(|mut items| items.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_right_option_is_a_place_a_letter_or_a_text() {
        for (record, right) in [
            (r#"{"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "sums"}"#, 1),
            (r#"{"question": "2+2?", "options": ["3", "4"], "answer": "B"}"#, 1),
            // A text counts before a place.
            (r#"{"question": "2-1?", "choices": ["1", "0"], "answer": "1"}"#, 0),
            (r#"{"question": "Which?", "choices": ["a cat", "a dog"], "answer": "a dog"}"#, 1),
            (
                r#"{"question": "Which?", "choices": {"text": ["cat", "dog"], "label": ["1", "2"]}, "answerKey": "2"}"#,
                1,
            ),
        ] {
            assert_eq!(read(record).unwrap().right, right, "{record}");
        }
        assert_eq!(
            read(r#"{"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "sums"}"#).unwrap().item,
            "sums"
        );
    }

    #[test]
    fn what_is_wrong_is_named_without_a_text() {
        for (record, problem) in [
            (r#"{"choices": ["secret", "b"], "answer": 0}"#, "question: found no text"),
            (r#"{"question": "secret", "choices": ["secret"], "answer": 0}"#, "choices: found 1 options"),
            (r#"{"question": "secret", "choices": "secret", "answer": 0}"#, "choices: found no array"),
            (r#"{"question": "secret", "choices": ["secret", "b"]}"#, "answer: is missing"),
            (r#"{"question": "secret", "choices": ["secret", "b"], "answer": 2}"#, "answer: found nothing"),
            (r#"{"question": "secret", "choices": ["secret", "secret"], "answer": "secret"}"#, "answer: found nothing"),
        ] {
            let error = read(record).unwrap_err();
            assert!(error.contains("line 1: ") && error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn letters_are_asked_as_mmlu_asks_them() {
        let item = read(r#"{"question": "2+2?", "choices": ["3", "4"], "answer": 1}"#).unwrap();
        let (asked, candidates) = item.asked(Candidates::Letters);
        assert_eq!((asked.as_str(), candidates), ("2+2?\nA. 3\nB. 4\nAnswer:", vec!["A".to_owned(), "B".to_owned()]));
        assert_eq!(item.asked(Candidates::Texts), ("2+2?".to_owned(), vec!["3".to_owned(), "4".to_owned()]));
    }

    /// By lm-evaluation-harness: `np.argmax(lls)` and `np.argmax(lls / [float(len(i)) for i in choices])`.
    #[test]
    fn the_norm_is_the_length_in_characters() {
        let score = |log_likelihood| RowScore { log_likelihood, response_tokens: 1 };
        let found = outcome(&[score(-4.0), score(-6.0)], &["no".into(), "ärger".into()], 1);
        assert!(!found.right && found.right_norm);
        let tie = outcome(&[score(-4.0), score(-4.0)], &["a".into(), "b".into()], 0);
        assert!(tie.right && tie.right_norm);
    }
}
