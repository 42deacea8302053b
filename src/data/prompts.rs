//! Files of single prompts, as benchmarks ask them.

use std::{fs, path::Path};

use fedward_actors::protocol::{ChatMessage, Role};
use serde_json::Value;

use super::{DataError, Place, ReadRecord, load_prompts};

/// A prompt of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptText {
    /// Its category where the file names one, else its number.
    pub item: String,
    /// What is asked.
    pub text: String,
}

/// Reads prompts: the lines of a `.txt` file that are not blank, or the records of any format that rows come in, each with one
/// turn of the user.
///
/// # Errors
///
/// [`DataError`] names the file and the record that is wrong; no message repeats a text.
pub fn load_prompt_texts(path: &Path) -> Result<Vec<PromptText>, DataError> {
    let is_text = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
    let prompts = if is_text {
        let text = fs::read_to_string(path).map_err(DataError::io(path))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        (1..).zip(lines).map(|(number, line)| numbered(number, None, line)).collect()
    } else {
        let records = load_prompts(path)?;
        (1..).zip(records).map(|(number, record)| of_record(path, number, &record)).collect::<Result<Vec<_>, _>>()?
    };
    if prompts.is_empty() {
        return Err(DataError::bad_file(path, "found no prompts, expected at least one"));
    }
    Ok(prompts)
}

fn of_record(path: &Path, number: usize, record: &ReadRecord<Vec<ChatMessage>>) -> Result<PromptText, DataError> {
    let [asked] = &record.meaning[..] else { return Err(several_turns(path, record.place, record.meaning.len())) };
    if asked.role != Role::User {
        return Err(several_turns(path, record.place, 0));
    }
    let category = ["category", "topic", "type"].iter().find_map(|key| record.fields.get(*key).and_then(Value::as_str));
    Ok(numbered(number, category, &asked.content))
}

fn several_turns(path: &Path, place: Place, found: usize) -> DataError {
    DataError::bad_record(path, place, format!("found {found} turns, expected one prompt of the user"))
}

fn numbered(number: usize, category: Option<&str>, text: &str) -> PromptText {
    let item = category.map_or_else(|| number.to_string(), str::to_owned);
    PromptText { item, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let pair = |prompt: PromptText| (prompt.item, prompt.text);
        let prompts = load_prompt_texts(&path).map_err(|error| error.to_string())?;
        Ok(prompts.into_iter().map(pair).collect())
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(item, text)| (item.to_owned(), text.to_owned())).to_vec()
    }

    #[test]
    fn lines_and_records_are_prompts() {
        let lines = pairs([("1", "Bake bread."), ("2", "Sing.")]);
        assert_eq!(read("a.txt", "\u{feff}Bake bread. \r\n\n  Sing.\n"), Ok(lines));
        let records = "{\"prompt\": \"Bake bread.\", \"category\": \"food\"}\n{\"goal\": \"Sing.\"}\n";
        assert_eq!(read("a.jsonl", records), Ok(pairs([("food", "Bake bread."), ("2", "Sing.")])));
        assert_eq!(
            read("a.csv", "category,source,forbidden_prompt\nfood,x,Bake bread.\n"),
            Ok(pairs([("food", "Bake bread.")]))
        );
    }

    #[test]
    fn what_is_no_single_prompt_is_refused_without_its_text() {
        let turns = r#"{"messages": [{"role": "system", "content": "secret"}, {"role": "user", "content": "secret"}]}"#;
        let error = read("a.jsonl", turns).unwrap_err();
        assert!(error.contains("line 1: found 2 turns") && !error.contains("secret"), "{error}");
        assert!(read("a.txt", " \n").unwrap_err().contains("found no prompts"));
    }
}
