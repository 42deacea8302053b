//! The principles that answers are criticised and revised by.

use std::path::{Path, PathBuf};

use fedward_actors::protocol::{ChatMessage, Role};
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::default_constitution::{EXAMPLES, PRINCIPLES};

/// One principle: how to ask for a critique and for a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principle {
    /// What to look for in the answer.
    pub critic: String,
    /// How to rewrite the answer.
    pub revision: String,
}

/// The principles of a run. Serialized in the form of huggingface/llm-swarm's constitutions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constitution {
    /// One of them is drawn for each prompt.
    #[serde(rename = "constitutions")]
    pub principles: Vec<Principle>,
    /// Whole dialogues that show what is asked for, six turns each: prompt, answer, critique request, critique, revision
    /// request, revision. They are put in front of conversations ([`Examples`](super::Examples)): without them a small model
    /// rephrases where it should decline.
    #[serde(rename = "system_chat", default)]
    pub examples: Vec<Vec<ChatMessage>>,
}

/// Why a constitution cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct ConstitutionError {
    /// The file.
    pub path: PathBuf,
    /// Key, what was found, what is expected.
    pub problem: String,
}

impl Default for Constitution {
    fn default() -> Self {
        let principles = PRINCIPLES
            .iter()
            .map(|(critic, revision)| Principle { critic: (*critic).into(), revision: (*revision).into() })
            .collect();
        let examples = EXAMPLES
            .iter()
            .map(|example| TURNS.iter().zip(example).map(|(&role, &text)| ChatMessage::new(role, text)).collect())
            .collect();
        Self { principles, examples }
    }
}

/// Who speaks in an example.
const TURNS: [Role; 6] = [Role::User, Role::Assistant, Role::User, Role::Assistant, Role::User, Role::Assistant];

impl Constitution {
    /// Reads a constitution: `constitutions`, each with `critic` and `revision`, and maybe `system_chat`, each six turns
    /// of `role` and `content`.
    ///
    /// # Errors
    ///
    /// [`ConstitutionError`] names file, key, what was found and what is expected.
    pub fn load(path: &Path) -> Result<Self, ConstitutionError> {
        let fail = |problem| ConstitutionError { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Self::parse(&text).map_err(fail)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let constitution: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let (key, problem) = (error.path().to_string(), error.into_inner());
            format!("{key}: {problem}; expected constitutions: [{{critic, revision}}, …], system_chat: [[turns], …]")
        })?;
        constitution.check()?;
        Ok(constitution)
    }

    fn check(&self) -> Result<(), String> {
        if self.principles.is_empty() {
            return Err("constitutions: found none; expected one or more".into());
        }
        let empty = |text: &str| text.trim().is_empty();
        for (index, Principle { critic, revision }) in self.principles.iter().enumerate() {
            if empty(critic) || empty(revision) {
                return Err(format!("constitutions[{index}]: found an empty text; expected critic and revision"));
            }
        }
        for (index, example) in self.examples.iter().enumerate() {
            let roles: Vec<Role> = example.iter().map(|turn| turn.role).collect();
            if roles != TURNS || example.iter().any(|turn| empty(&turn.content)) {
                let found = example.len();
                return Err(format!(
                    "system_chat[{index}]: found {found} turns; expected six that say something, user and assistant by turns"
                ));
            }
        }
        Ok(())
    }

    /// Draws a principle; `None` if there is none.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Option<&Principle> {
        self.principles.choose(rng)
    }

    /// The examples as turns of one conversation.
    pub fn example_turns(&self) -> Vec<ChatMessage> {
        self.examples.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_one_is_sixteen_principles_and_four_examples_and_reads_back() {
        let constitution = Constitution::default();
        assert_eq!((constitution.principles.len(), constitution.examples.len()), (16, 4));
        let mut critics: Vec<_> = constitution.principles.iter().map(|principle| &principle.critic).collect();
        critics.sort();
        critics.dedup();
        assert_eq!(critics.len(), 16);
        let text = serde_json::to_string(&constitution).unwrap();
        assert!(text.starts_with(r#"{"constitutions":[{"critic":"#), "{text}");
        assert_eq!(Constitution::parse(&text), Ok(constitution));
    }

    #[test]
    fn complaints_name_the_key() {
        let principle = r#"{"critic": "c", "revision": "r"}"#;
        for (text, expected) in [
            (r#"{"constitutions": []}"#.to_owned(), "constitutions: found none"),
            (r#"{"constitutions": [{"critic": "c"}]}"#.to_owned(), "constitutions[0]"),
            (r#"{"constitutions": [{"critic": "c", "revision": " "}]}"#.to_owned(), "constitutions[0]: found an empty"),
            (
                format!(r#"{{"constitutions": [{principle}], "system_chat": [[{{"role": "user", "content": "x"}}]]}}"#),
                "system_chat[0]: found 1 turns",
            ),
            (
                format!(r#"{{"constitutions": [{principle}], "system_chat": [[{{"role": "bot", "content": "x"}}]]}}"#),
                "system_chat[0][0].role",
            ),
        ] {
            let problem = Constitution::parse(&text).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
