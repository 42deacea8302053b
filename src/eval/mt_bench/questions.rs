//! What MT-Bench asks, and how judges are asked about the answers.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use fedward_actors::protocol::{ChatMessage, Role};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    data::{
        DataError,
        formats::records::{CsvComments, Record, read_records},
    },
    endpoint::ChatRequest,
};

/// Longest verdict of a judge, in tokens.
const JUDGE_MAX_TOKENS: usize = 2048;

/// Where the reference answers may be, below the data set's folder.
const REFERENCES: [&str; 2] = ["reference_answer/gpt-4.jsonl", "reference_answer_gpt-4.jsonl"];

/// A question's first turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number.
    pub id: u64,
    /// writing, roleplay, reasoning, math, coding, extraction, stem or humanities.
    pub category: String,
    /// The first turn.
    pub text: String,
    /// The reference answer to it, where there is one.
    pub reference: Option<String>,
}

/// How judges are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgePrompts {
    general: JudgePrompt,
    with_reference: JudgePrompt,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct JudgePrompt {
    system_prompt: String,
    prompt_template: String,
}

#[derive(Deserialize)]
struct RawQuestion {
    question_id: u64,
    category: String,
    turns: Vec<String>,
}

#[derive(Deserialize)]
struct RawReference {
    question_id: u64,
    choices: Vec<RawChoice>,
}

#[derive(Deserialize)]
struct RawChoice {
    turns: Vec<String>,
}

impl Question {
    /// Reads the questions below a folder: `question.jsonl`, and reference answers in `reference_answer/gpt-4.jsonl` or
    /// `reference_answer_gpt-4.jsonl`.
    ///
    /// # Errors
    ///
    /// [`DataError`] names the file and what it lacks.
    pub fn load(folder: &Path) -> Result<Vec<Self>, DataError> {
        let path = folder.join("question.jsonl");
        let mut references = references(folder)?;
        let mut questions = Vec::new();
        for record in read_records(&path, CsvComments::None)? {
            let place = record.place;
            let raw: RawQuestion = parse(&path, record)?;
            let missing = |what: &str| DataError::bad_record(&path, place, what.to_owned());
            let text = raw.turns.into_iter().next().ok_or_else(|| missing("turns: found none, expected the first"))?;
            let reference = references.remove(&raw.question_id);
            let question = Self { id: raw.question_id, category: raw.category, text, reference };
            if question.needs_reference() && question.reference.is_none() {
                return Err(missing(
                    "its category is judged with a reference answer, and there is none for its question_id",
                ));
            }
            questions.push(question);
        }
        Ok(questions)
    }

    /// The sampling temperature of its answer; 0 is greedy (`FastChat`'s `temperature_config`).
    pub fn temperature(&self) -> f64 {
        match self.category.as_str() {
            "extraction" | "math" | "coding" | "reasoning" => 0.0,
            "stem" | "humanities" => 0.1,
            _ => 0.7,
        }
    }

    /// Whether a judge gets the reference answer to compare with.
    fn needs_reference(&self) -> bool {
        matches!(self.category.as_str(), "math" | "reasoning" | "coding")
    }
}

impl JudgePrompts {
    /// Reads `single-v1` and `single-math-v1` from `judge_prompts.jsonl` in a folder.
    ///
    /// # Errors
    ///
    /// [`DataError`] names the file and what it lacks.
    pub fn load(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("judge_prompts.jsonl");
        let mut prompts = HashMap::new();
        for record in read_records(&path, CsvComments::None)? {
            if let Some(name) = record.fields.get("name").and_then(Value::as_str).map(str::to_owned) {
                prompts.insert(name, record);
            }
        }
        let mut named = |name: &str| {
            let missing =
                || DataError::bad_file(&path, format!("found no prompt with the name {name:?}, expected one"));
            parse(&path, prompts.remove(name).ok_or_else(missing)?)
        };
        Ok(Self { general: named("single-v1")?, with_reference: named("single-math-v1")? })
    }

    /// What a judge is asked about an answer: at temperature 0, with up to 2,048 tokens for its reasons.
    pub fn request(&self, question: &Question, answer: &str) -> ChatRequest {
        let (prompt, reference) = match &question.reference {
            Some(reference) if question.needs_reference() => (&self.with_reference, reference.as_str()),
            _ => (&self.general, ""),
        };
        let text = filled(
            &prompt.prompt_template,
            &BTreeMap::from([("question", question.text.as_str()), ("answer", answer), ("ref_answer_1", reference)]),
        );
        let mut messages = vec![ChatMessage::new(Role::System, &prompt.system_prompt)];
        messages.retain(|message| !message.content.is_empty());
        messages.push(ChatMessage::new(Role::User, text));
        ChatRequest { messages, temperature: 0.0, max_tokens: JUDGE_MAX_TOKENS }
    }
}

/// A template with its `{placeholders}` filled, once: what a value holds is never a placeholder.
fn filled(template: &str, values: &BTreeMap<&str, &str>) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        text.push_str(&rest[..open]);
        rest = &rest[open..];
        let known = rest.find('}').and_then(|close| Some((close, values.get(&rest[1..close])?)));
        if let Some((close, value)) = known {
            text.push_str(value);
            rest = &rest[close + 1..];
        } else {
            text.push('{');
            rest = &rest[1..];
        }
    }
    text + rest
}

fn references(folder: &Path) -> Result<HashMap<u64, String>, DataError> {
    let found: Option<PathBuf> = REFERENCES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let path = found.ok_or_else(|| {
        DataError::bad_file(folder, format!("found none of {}; expected one of them", REFERENCES.join(", ")))
    })?;
    let mut references = HashMap::new();
    for record in read_records(&path, CsvComments::None)? {
        let place = record.place;
        let raw: RawReference = parse(&path, record)?;
        let first = raw.choices.into_iter().next().and_then(|choice| choice.turns.into_iter().next());
        let missing = || DataError::bad_record(&path, place, "choices[0].turns: found none, expected the first answer");
        references.insert(raw.question_id, first.ok_or_else(missing)?);
    }
    Ok(references)
}

fn parse<T: DeserializeOwned>(path: &Path, record: Record) -> Result<T, DataError> {
    serde_path_to_error::deserialize(Value::Object(record.fields)).map_err(|error| {
        let problem = format!("{}: {}", error.path(), error.inner());
        DataError::bad_record(path, record.place, problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(category: &str) -> Question {
        Question { id: 1, category: category.into(), text: "How far?".into(), reference: Some("9 km".into()) }
    }

    fn prompts() -> JudgePrompts {
        let prompt = |template: &str| JudgePrompt { system_prompt: "Judge.".into(), prompt_template: template.into() };
        JudgePrompts {
            general: prompt("[Q]{question}[A]{answer} e.g. \"[[5]]\" {x}"),
            with_reference: prompt("[Q]{question}[R]{ref_answer_1}[A]{answer}"),
        }
    }

    #[test]
    fn temperatures_are_those_of_the_category() {
        for (category, expected) in [
            ("writing", 0.7),
            ("roleplay", 0.7),
            ("extraction", 0.0),
            ("math", 0.0),
            ("coding", 0.0),
            ("reasoning", 0.0),
            ("stem", 0.1),
            ("humanities", 0.1),
        ] {
            assert!((question(category).temperature() - expected).abs() < 1e-12, "{category}");
        }
    }

    #[test]
    fn judges_see_the_reference_where_answers_can_be_checked() {
        let request = prompts().request(&question("math"), "{question} {ref_answer_1}");
        let texts: Vec<_> = request.messages.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(texts, ["Judge.", "[Q]How far?[R]9 km[A]{question} {ref_answer_1}"], "an answer is no template");
        assert_eq!((request.temperature, request.max_tokens), (0.0, 2048));
        let request = prompts().request(&question("writing"), "Far.");
        assert_eq!(request.messages[1].content, "[Q]How far?[A]Far. e.g. \"[[5]]\" {x}");
    }

    fn write(folder: &Path, name: &str, lines: &[Value]) {
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        std::fs::write(folder.join(name), lines.join("\n")).unwrap();
    }

    #[test]
    fn files_are_read_and_what_is_wrong_is_named() {
        use serde_json::json;
        let folder = tempfile::tempdir().unwrap();
        let asked = json!({"question_id": 111, "category": "math", "turns": ["How far?", "And then?"]});
        write(folder.path(), "question.jsonl", std::slice::from_ref(&asked));
        assert!(Question::load(folder.path()).unwrap_err().to_string().contains("reference_answer/gpt-4.jsonl"));
        let reference = |id: u64| json!({"question_id": id, "choices": [{"index": 0, "turns": ["9 km", "12 km"]}]});
        write(folder.path(), "reference_answer_gpt-4.jsonl", &[reference(110)]);
        assert!(Question::load(folder.path()).unwrap_err().to_string().contains("line 1: its category is judged with"));
        write(folder.path(), "reference_answer_gpt-4.jsonl", &[reference(111)]);
        let questions = Question::load(folder.path()).unwrap();
        assert_eq!((questions[0].text.as_str(), questions[0].reference.as_deref()), ("How far?", Some("9 km")));

        let prompt = |name: &str| json!({"name": name, "system_prompt": "s", "prompt_template": "t"});
        write(folder.path(), "judge_prompts.jsonl", &[prompt("single-v1")]);
        assert!(JudgePrompts::load(folder.path()).unwrap_err().to_string().contains("\"single-math-v1\""));
        write(
            folder.path(),
            "judge_prompts.jsonl",
            &[prompt("single-v1"), prompt("pair-v2"), prompt("single-math-v1")],
        );
        assert!(JudgePrompts::load(folder.path()).is_ok());
    }
}
