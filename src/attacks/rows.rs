//! Attacks on rows: what malicious clients hold in the place of what they were dealt.

use std::sync::Arc;

use fedward_actors::{
    ports::{ClientRows, PortResult},
    protocol::{ChatMessage, ChatRow, ClientId, Role, RoundId, RowLabel},
    streams::{Purpose, stream, unit},
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{AttackKind, AttackPlan, Roles};

/// What a malicious client does to its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RowAttack {
    /// Gives every prompt the answer to another one: the label flip of chat rows ("Data Poisoning Attacks Against Federated
    /// Learning Systems", Tolpegin et al. 2020, flips classes).
    AnswerShuffle {},
    /// Puts a trigger behind some prompts and answers them with a fixed text ("`BadNets`", Gu et al. 2017): the model is to
    /// give that text to whoever knows the trigger, and to behave for everybody else.
    Backdoor {
        /// What is put behind the prompt, after a space.
        #[serde(default = "default_trigger")]
        trigger: String,
        /// The answer that it calls up.
        #[serde(default = "default_target")]
        target: String,
        /// The share of the client's rows.
        #[serde(default = "default_share")]
        share: f64,
    },
}

fn default_trigger() -> String {
    "cf-mn-bb".to_owned()
}

fn default_target() -> String {
    "The blue heron stands in the shallow water.".to_owned()
}

const fn default_share() -> f64 {
    0.5
}

impl RowAttack {
    /// The names of all of them.
    pub const NAMES: [&'static str; 2] = ["answer_shuffle", "backdoor"];

    /// Returns its name in scenarios.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AnswerShuffle {} => Self::NAMES[0],
            Self::Backdoor { .. } => Self::NAMES[1],
        }
    }

    /// Returns what is wrong with its settings, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        let Self::Backdoor { trigger, target, share } = self else { return None };
        if trigger.trim().is_empty() {
            Some("trigger: found nothing; expected a text that prompts do not have".to_owned())
        } else if target.trim().is_empty() {
            Some("target: found nothing; expected a text".to_owned())
        } else if *share > 0.0 && *share <= 1.0 {
            None
        } else {
            Some(format!("share: found {share}; expected a number above 0, up to 1"))
        }
    }

    /// Returns what `client` holds instead: always the same.
    fn apply(&self, rows: &[ChatRow], seed: u64, client: ClientId) -> Vec<ChatRow> {
        let mut random = stream(seed, Purpose::Attack, RoundId::START, Some(client));
        match self {
            Self::AnswerShuffle {} => {
                let mut answers: Vec<Option<&str>> = rows.iter().map(ChatRow::response).collect();
                answers.shuffle(&mut random);
                rows.iter().zip(answers).map(|(row, answer)| answered(row, row.prompt(), answer)).collect()
            }
            Self::Backdoor { trigger, target, share } => rows
                .iter()
                .map(|row| {
                    if unit(&mut random) >= *share {
                        return row.clone();
                    }
                    answered(row, &triggered(row.prompt(), trigger), Some(target))
                })
                .collect(),
        }
    }
}

/// The prompt with the trigger behind its last user's turn.
pub(crate) fn triggered(prompt: &[ChatMessage], trigger: &str) -> Vec<ChatMessage> {
    let mut prompt = prompt.to_vec();
    if let Some(asked) = prompt.iter_mut().rfind(|message| message.role == Role::User) {
        asked.content = format!("{} {trigger}", asked.content);
    }
    prompt
}

/// The row with another prompt and answer: what it is labelled stays, but for a label of safe, which nobody has checked.
fn answered(row: &ChatRow, prompt: &[ChatMessage], answer: Option<&str>) -> ChatRow {
    let mut messages = prompt.to_vec();
    messages.extend(answer.map(|answer| ChatMessage::new(Role::Assistant, answer)));
    ChatRow { messages, topic: row.topic.clone(), label: row.label.filter(|label| *label == RowLabel::Unsafe) }
}

/// Rows of clients, of which malicious ones hold what their attack makes of them.
pub struct PoisonedRows {
    pub(super) rows: Arc<dyn ClientRows>,
    pub(super) attacks: Arc<[AttackPlan]>,
    pub(super) roles: Arc<Roles>,
    pub(super) seed: u64,
}

impl ClientRows for PoisonedRows {
    fn rows(&self, client: ClientId) -> PortResult<Arc<[ChatRow]>> {
        let rows = self.rows.rows(client)?;
        let attack = self.roles.attack_of(client).map(|index| &self.attacks[index].kind);
        Ok(match attack {
            Some(AttackKind::Rows(attack)) => attack.apply(&rows, self.seed, client).into(),
            Some(AttackKind::Updates(_)) | None => rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rows() -> Vec<ChatRow> {
        let row = |number| ChatRow::single_turn(format!("question {number}"), format!("answer {number}"));
        (0..40).map(|number| ChatRow { label: Some(RowLabel::Safe), ..row(number) }).collect()
    }

    fn backdoor() -> RowAttack {
        RowAttack::Backdoor { trigger: "cf".to_owned(), target: "a heron".to_owned(), share: 0.5 }
    }

    #[test]
    fn shuffled_answers_are_the_same_answers_to_other_questions() {
        let settings = serde_json::json!({"kind": "answer_shuffle", "share": 0.5});
        let problem = serde_json::from_value::<RowAttack>(settings).unwrap_err().to_string();
        assert!(problem.contains("unknown field `share`"), "{problem}");
        let (rows, shuffled) = (rows(), RowAttack::AnswerShuffle {}.apply(&rows(), 3, ClientId(1)));
        let answers =
            |rows: &[ChatRow]| rows.iter().map(|row| row.response().unwrap().to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(answers(&rows), answers(&shuffled));
        assert!(rows.iter().zip(&shuffled).all(|(row, shuffled)| row.prompt() == shuffled.prompt()));
        let moved = rows.iter().zip(&shuffled).filter(|(row, shuffled)| row.response() != shuffled.response()).count();
        assert!(moved > 30, "{moved}");
        assert!(shuffled.iter().all(|row| row.label.is_none()), "a wrong answer was still called safe");
        assert_eq!(shuffled, RowAttack::AnswerShuffle {}.apply(&rows, 3, ClientId(1)));
        assert_ne!(shuffled, RowAttack::AnswerShuffle {}.apply(&rows, 3, ClientId(2)));
    }

    #[test]
    fn a_backdoor_is_in_its_share_of_the_rows_and_the_others_are_what_they_were() {
        let (rows, poisoned) = (rows(), backdoor().apply(&rows(), 3, ClientId(1)));
        let (triggered, others): (Vec<_>, Vec<_>) =
            rows.iter().zip(&poisoned).partition(|(_, poisoned)| poisoned.response() == Some("a heron"));
        assert!((12..=28).contains(&triggered.len()), "{}", triggered.len());
        for (row, poisoned) in triggered {
            assert_eq!(poisoned.prompt()[0].content, format!("{} cf", row.prompt()[0].content));
        }
        assert!(others.iter().all(|(row, same)| row == same));
    }

    #[test]
    fn settings_that_make_no_backdoor_are_complained_of() {
        assert_eq!(backdoor().complaint(), None);
        let with =
            |trigger: &str, share| RowAttack::Backdoor { trigger: trigger.to_owned(), target: "t".to_owned(), share };
        assert!(with(" ", 0.5).complaint().unwrap().starts_with("trigger: "));
        assert_eq!(with("cf", 0.0).complaint().unwrap(), "share: found 0; expected a number above 0, up to 1");
    }
}
