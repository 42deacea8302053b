//! Checksums of what a run reads beside the rows of its clients: what is measured with, what Constitutional AI begins with.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use fedward_actors::protocol::{ChatMessage, ChatRow, hex};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{DataPlan, SetupError, cai::CaiSource};
use crate::{
    data::{GoalUse, Revision},
    eval::{BenchName, OwnBenchmark, RefusalPrompt},
    safety::cai::{Constitution, Method},
    scenario::Scenario,
};

/// How deep benchmarks read in a folder: `<task>/task.json`, `reference_answer/<model>.jsonl`.
const DEPTH: usize = 1;

/// Checksums of texts as they were read, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputChecksums {
    /// What is measured with: harmful prompts, held-out rows, and the files of `evaluation.data` and `evaluation.own`.
    pub measured: String,
    /// What Constitutional AI begins with: red prompts and the constitution, or what has been made of them; `None` without it.
    pub cai: Option<String>,
}

impl InputChecksums {
    /// Reads what a scenario names beside the rows that are laid out.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if a file cannot be read.
    pub(super) fn of(scenario: &Scenario, data: &DataPlan) -> Result<Self, SetupError> {
        let evaluation = &scenario.evaluation;
        let measured = measured(&data.evaluation_prompts, &data.utility_rows, &evaluation.data, &evaluation.own)?;
        let Some(cai) = &scenario.cai else { return Ok(Self { measured, cai: None }) };
        let mut texts = Texts::default();
        match &data.cai {
            CaiSource::Prepared(revisions) => {
                for (_, revision) in revisions {
                    texts.add_revision(revision);
                }
            }
            CaiSource::Prompts(prompts) => {
                for turns in prompts {
                    texts.add_turns(turns);
                }
            }
            CaiSource::Goals => {
                for goal in data.goals.of(GoalUse::RedPrompts) {
                    texts.add(goal.text.as_bytes());
                }
            }
        }
        // What is prepared has been revised already, and refusals are not revised.
        let is_read = !matches!(data.cai, CaiSource::Prepared(_)) && cai.method == Method::Constitutional;
        if let Some(path) = cai.constitution.as_ref().filter(|_| is_read) {
            texts.add_as_json(&Constitution::load(path).map_err(|error| SetupError::Other(error.to_string()))?)?;
        }
        Ok(Self { measured, cai: Some(texts.sha256()) })
    }
}

/// A checksum of what is measured with.
fn measured(
    prompts: &[RefusalPrompt],
    rows: &[ChatRow],
    data: &BTreeMap<BenchName, PathBuf>,
    own: &[OwnBenchmark],
) -> Result<String, SetupError> {
    let mut texts = Texts::default();
    texts.add_count(prompts.len());
    for prompt in prompts {
        texts.add(prompt.item.as_bytes());
        texts.add(prompt.text.as_bytes());
    }
    texts.add_count(rows.len());
    for row in rows {
        texts.add(&row.digest().0);
    }
    for (bench, path) in data {
        texts.add(bench.name().as_bytes());
        let failed = |error: io::Error| {
            SetupError::Other(format!("evaluation.data.{}: {}: {error}", bench.name(), path.display()))
        };
        texts.add_files(path, DEPTH).map_err(failed)?;
    }
    for own in own {
        texts.add_as_json(own)?;
        let failed = |error: io::Error| {
            SetupError::Other(format!("evaluation.own: {}: {}: {error}", own.name, own.file.display()))
        };
        texts.add_files(&own.file, 0).map_err(failed)?;
    }
    Ok(texts.sha256())
}

/// A checksum of texts, each with its length.
#[derive(Default)]
struct Texts(Sha256);

impl Texts {
    fn add(&mut self, text: &[u8]) {
        self.add_count(text.len());
        self.0.update(text);
    }

    fn add_count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    fn add_turns(&mut self, turns: &[ChatMessage]) {
        self.add_count(turns.len());
        for turn in turns {
            self.add(turn.role.as_str().as_bytes());
            self.add(turn.content.as_bytes());
        }
    }

    fn add_revision(&mut self, revision: &Revision) {
        let conversations: Vec<_> = revision.conversations().collect();
        self.add_count(conversations.len());
        for row in conversations {
            self.add(&row.digest().0);
        }
    }

    fn add_as_json<T: Serialize>(&mut self, value: &T) -> Result<(), SetupError> {
        let text = serde_json::to_vec(value).map_err(|error| SetupError::Other(error.to_string()))?;
        self.add(&text);
        Ok(())
    }

    /// Adds a file, or the records of a folder by the names of their files, down to `depth` folders below it.
    fn add_files(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        if !path.is_dir() {
            self.add(&fs::read(path)?);
            return Ok(());
        }
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // Benchmarks of several files read nothing else: notes beside them change no measurement.
            let has_records = path.extension().is_some_and(|it| it == "json" || it == "jsonl") && path.is_file();
            if has_records || (depth > 0 && path.is_dir()) {
                self.add(entry.file_name().as_encoded_bytes());
                self.add_files(&path, depth.saturating_sub(1))?;
            }
        }
        Ok(())
    }

    fn sha256(self) -> String {
        hex(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_that_is_measured_with_counts() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("mt/reference_answer")).unwrap();
        fs::write(at("mt/question.jsonl"), "one").unwrap();
        fs::write(at("mt/judge_prompts.jsonl"), "rate it").unwrap();
        fs::write(at("xstest.csv"), "id,prompt").unwrap();
        let data = BTreeMap::from([(BenchName::MtBench, at("mt")), (BenchName::XsTest, at("xstest.csv"))]);
        let prompt = |text: &str| RefusalPrompt { item: String::new(), text: text.into() };
        let row = |answer: &str| ChatRow::single_turn("How tall is the tower?", answer);
        let of = |prompts: &[&str], answer: &str| {
            let prompts: Vec<_> = prompts.iter().map(|text| prompt(text)).collect();
            measured(&prompts, &[row(answer)], &data, &[]).unwrap()
        };
        let before = of(&["a", "bc"], "Quite tall.");
        assert_eq!(of(&["a", "bc"], "Quite tall."), before);
        for other in [of(&["ab", "c"], "Quite tall."), of(&["bc", "a"], "Quite tall."), of(&["a", "bc"], "Tall.")] {
            assert_ne!(other, before);
        }
        for (name, text) in
            [("xstest.csv", "id,prompt\n"), ("mt/question.jsonl", "two"), ("mt/reference_answer/a.jsonl", "")]
        {
            let last = of(&["a", "bc"], "Quite tall.");
            fs::write(at(name), text).unwrap();
            assert_ne!(of(&["a", "bc"], "Quite tall."), last, "{name}");
        }
        let last = of(&["a", "bc"], "Quite tall.");
        fs::write(at("mt/notes.txt"), "mine").unwrap();
        assert_eq!(of(&["a", "bc"], "Quite tall."), last);
        fs::remove_file(at("xstest.csv")).unwrap();
        let error = measured(&[], &[], &data, &[]).unwrap_err().to_string();
        assert!(error.contains("evaluation.data.xstest: ") && error.contains("xstest.csv"), "{error}");
    }

    #[test]
    fn turns_count_by_who_speaks_and_where_they_end() {
        use fedward_actors::protocol::Role;
        let of = |turns: &[(Role, &str)]| {
            let mut texts = Texts::default();
            let turns: Vec<_> = turns.iter().map(|(role, text)| ChatMessage::new(*role, *text)).collect();
            texts.add_turns(&turns);
            texts.sha256()
        };
        let before = of(&[(Role::User, "ab"), (Role::Assistant, "c")]);
        for other in [
            [(Role::User, "a"), (Role::Assistant, "bc")],
            [(Role::User, "ab"), (Role::User, "c")],
            [(Role::Assistant, "c"), (Role::User, "ab")],
        ] {
            assert_ne!(of(&other), before);
        }
    }
}
