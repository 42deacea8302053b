//! Benchmarks of the user's own, each from a file and under a name of its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::data::DataError;

/// What a file of the user's measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnKind {
    /// Prompts whose answers may be refusals.
    #[default]
    Refusal,
    /// Questions with options, whose letters are compared: the form of MMLU.
    Choice,
    /// Questions with options, whose texts are compared: the form of ARC and `HellaSwag`.
    ChoiceText,
    /// Questions whose answer is a number: the form of GSM8K.
    Exact,
}

impl OwnKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Refusal, Self::Choice, Self::ChoiceText, Self::Exact];

    /// Its name in scenarios and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refusal => "refusal",
            Self::Choice => "choice",
            Self::ChoiceText => "choice_text",
            Self::Exact => "exact",
        }
    }

    /// Returns the kind of a name, if there is one.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A benchmark of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnBenchmark {
    /// Its name in results.
    pub name: String,
    /// What it measures.
    pub kind: OwnKind,
    /// Its prompts or questions.
    pub file: PathBuf,
    /// Strings by which answers are refusals; `None` means the run's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal_strings: Option<Vec<String>>,
    /// Prompts of a full evaluation, at most; `None` means as many as of other benchmarks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<usize>,
    /// Longest response, in tokens; `None` means that of other benchmarks, and 256 where the answer is a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
}

/// Why a name cannot be that of a benchmark of one's own, if it cannot.
pub fn name_problem(name: &str) -> Option<String> {
    let is_allowed = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    if name.is_empty() || !name.chars().all(is_allowed) {
        return Some(format!("found {name:?}; allowed: lower-case letters, digits and underscores"));
    }
    let is_taken = super::BenchName::find(name).is_some() || name == super::mt_bench::REFERENCE_LIKELIHOOD;
    is_taken.then(|| format!("found {name:?}, which is a benchmark of fedward; give it another name"))
}

/// Reads refusal strings, one a line.
///
/// # Errors
///
/// [`DataError`] if the file cannot be read or has no strings.
pub fn load_refusal_strings(path: &Path) -> Result<Vec<String>, DataError> {
    let text = fs::read_to_string(path).map_err(DataError::io(path))?;
    let strings: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if strings.is_empty() {
        return Err(DataError::bad_file(path, "found no strings, expected one a line"));
    }
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_s_own() {
        for name in ["mine", "set_2", "a"] {
            assert_eq!(name_problem(name), None, "{name}");
        }
        for (name, problem) in
            [("", "found \"\""), ("Mine", "lower-case"), ("advbench", "of fedward"), ("a,b", "allowed")]
        {
            assert!(name_problem(name).unwrap().contains(problem), "{name}");
        }
        assert!(OwnKind::ALL.iter().all(|kind| OwnKind::find(kind.name()) == Some(*kind)));
        assert!(OwnKind::ALL.iter().all(|kind| serde_json::to_value(kind).unwrap() == kind.name()));
    }

    #[test]
    fn refusal_strings_are_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("strings.txt");
        fs::write(&path, "Not today\n\n no way \n").unwrap();
        assert_eq!(load_refusal_strings(&path).unwrap(), ["Not today", "no way"]);
        fs::write(&path, "\n").unwrap();
        assert!(load_refusal_strings(&path).unwrap_err().to_string().contains("found no strings"));
    }
}
