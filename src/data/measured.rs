//! What is measured with, held against rows that train: a result on prompts that were trained on is not held out.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::{Path, PathBuf},
};

use fedward_actors::protocol::{ChatMessage, ChatRow, Role};
use serde::{Deserialize, Serialize};

use super::{
    DataError,
    overlap::{TextIndex, normalized},
};

/// What becomes of rows of the user's files that repeat what is measured with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapPolicy {
    /// They are left out.
    #[default]
    LeaveOut,
    /// They stay, and the run says so.
    Keep,
}

/// Prompts and rows that a run measures with.
#[derive(Clone, Debug, Default)]
pub struct MeasuredTexts {
    prompts: Vec<(&'static str, TextIndex)>,
    rows: HashSet<String>,
}

/// How many rows repeat something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repeats {
    /// Rows that say the same but for case, space and punctuation.
    pub same: usize,
    /// Rows that say nearly the same: see [`NEAR_DUPLICATE`](super::overlap::NEAR_DUPLICATE).
    pub near: usize,
}

/// The rows of a file that repeat what is measured with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// The key or option that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Its rows, pairs or prompts.
    pub rows: usize,
    /// Those of them that repeat something, by what they repeat.
    pub repeats: BTreeMap<&'static str, Repeats>,
    /// What becomes of them.
    pub policy: OverlapPolicy,
}

/// What rows for measuring are called among what is measured.
const HELD_OUT_ROWS: &str = "held-out benign rows";

impl MeasuredTexts {
    /// Adds the prompts of a benchmark.
    pub fn add_prompts<T: AsRef<str>>(&mut self, name: &'static str, prompts: impl IntoIterator<Item = T>) {
        self.prompts.push((name, TextIndex::new(prompts)));
    }

    /// Adds rows whose responses are measured. Only rows with the same prompt and response repeat them: they come from the
    /// distribution that is trained on, so that similar ones are meant to be trained on.
    pub fn add_rows(&mut self, rows: &[ChatRow]) {
        self.rows.extend(rows.iter().map(|row| whole(&row.messages)));
    }

    /// Returns what a conversation repeats, and whether it says the same or nearly so.
    fn repeated(&self, messages: &[ChatMessage]) -> Option<(&'static str, bool)> {
        if !self.rows.is_empty() && self.rows.contains(&whole(messages)) {
            return Some((HELD_OUT_ROWS, true));
        }
        let asked: Vec<&str> = user_turns(messages).collect();
        // What is asked in several turns may be measured as one prompt.
        let together = (asked.len() > 1).then(|| asked.join("\n"));
        let texts: Vec<&str> = asked.into_iter().chain(together.as_deref()).collect();
        let matches = |index: &TextIndex| {
            let found = texts.iter().filter_map(|text| index.near(text)).map(|found| found.is_exact);
            found.reduce(|one, two| one || two)
        };
        self.prompts.iter().find_map(|(name, index)| Some((*name, matches(index)?)))
    }

    /// Counts the items that repeat what is measured with, each by the conversations that are in it.
    pub fn repeats<'i, T: 'i, C: IntoIterator<Item = &'i [ChatMessage]>>(
        &self,
        items: &'i [T],
        conversations: impl Fn(&'i T) -> C,
    ) -> BTreeMap<&'static str, Repeats> {
        let found = self.found(items, conversations);
        counted(found.into_iter().flatten())
    }

    fn found<'i, T: 'i, C: IntoIterator<Item = &'i [ChatMessage]>>(
        &self,
        items: &'i [T],
        conversations: impl Fn(&'i T) -> C,
    ) -> Vec<Option<(&'static str, bool)>> {
        let of_item = |item| conversations(item).into_iter().find_map(|messages| self.repeated(messages));
        items.iter().map(of_item).collect()
    }

    /// Leaves out of a file what repeats what is measured with, unless it is to be kept; says what was found, if anything was.
    ///
    /// # Errors
    ///
    /// [`DataError::BadSetting`] if nothing would be left.
    pub fn sift<T>(
        &self,
        (key, path): (&'static str, &Path),
        policy: OverlapPolicy,
        items: Vec<T>,
        conversations: impl for<'i> Fn(&'i T) -> Vec<&'i [ChatMessage]>,
    ) -> Result<(Vec<T>, Option<Overlap>), DataError> {
        let found = self.found(&items, &conversations);
        let repeats = counted(found.iter().copied().flatten());
        if repeats.is_empty() {
            return Ok((items, None));
        }
        let overlap = Overlap { key, path: path.to_owned(), rows: items.len(), repeats, policy };
        if policy == OverlapPolicy::Keep {
            return Ok((items, Some(overlap)));
        }
        let left: Vec<T> =
            items.into_iter().zip(found).filter_map(|(item, found)| found.is_none().then_some(item)).collect();
        if left.is_empty() {
            return Err(DataError::BadSetting(format!(
                "{}, so nothing is left; name another file, measure with something else, or set data.overlap = \"keep\"",
                overlap.finding()
            )));
        }
        Ok((left, Some(overlap)))
    }
}

fn counted(found: impl Iterator<Item = (&'static str, bool)>) -> BTreeMap<&'static str, Repeats> {
    let mut counts: BTreeMap<&'static str, Repeats> = BTreeMap::new();
    for (name, is_exact) in found {
        let repeats = counts.entry(name).or_default();
        *(if is_exact { &mut repeats.same } else { &mut repeats.near }) += 1;
    }
    counts
}

fn user_turns(messages: &[ChatMessage]) -> impl Iterator<Item = &str> {
    messages.iter().filter(|message| message.role == Role::User).map(|message| message.content.as_str())
}

/// All that is said in a conversation, system turns aside.
fn whole(messages: &[ChatMessage]) -> String {
    let said = messages.iter().filter(|message| message.role != Role::System);
    said.map(|message| normalized(&message.content)).collect::<Vec<_>>().join("\n")
}

/// Counts by what is repeated, in words.
pub fn describe_repeats(repeats: &BTreeMap<&'static str, Repeats>) -> String {
    let part = |(name, count): (&&str, &Repeats)| match *count {
        Repeats { same, near: 0 } => format!("{name}: {same} the same"),
        Repeats { same: 0, near } => format!("{name}: {near} nearly the same"),
        Repeats { same, near } => format!("{name}: {same} the same, {near} nearly"),
    };
    repeats.iter().map(part).collect::<Vec<_>>().join("; ")
}

impl Overlap {
    /// How many rows repeat something.
    pub fn repeating(&self) -> usize {
        self.repeats.values().map(|repeats| repeats.same + repeats.near).sum()
    }

    fn finding(&self) -> String {
        format!(
            "{}: {} of the {} rows of {} repeat what is measured with ({})",
            self.key,
            self.repeating(),
            self.rows,
            self.path.display(),
            describe_repeats(&self.repeats)
        )
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy {
            OverlapPolicy::LeaveOut => write!(f, "overlap: {}, and are left out", self.finding()),
            OverlapPolicy::Keep => write!(
                f,
                "overlap: {}, and stay (data.overlap = \"keep\"): what is measured with these is not held out",
                self.finding()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> MeasuredTexts {
        let mut measured = MeasuredTexts::default();
        measured.add_prompts("songs", ["Write a song about the old tower", "Sing"]);
        measured.add_prompts("cakes", ["Bake a plum cake for two"]);
        measured.add_rows(&[ChatRow::single_turn("How tall is it?", "Quite tall.")]);
        measured
    }

    fn rows() -> Vec<ChatRow> {
        let several = ChatRow {
            messages: vec![
                ChatMessage::new(Role::System, "Sing."),
                ChatMessage::new(Role::User, "Hello"),
                ChatMessage::new(Role::Assistant, "Bake a plum cake for two"),
                ChatMessage::new(Role::User, "Bake a plum cake,"),
                ChatMessage::new(Role::Assistant, "How?"),
                ChatMessage::new(Role::User, "for two people"),
                ChatMessage::new(Role::Assistant, "Fine."),
            ],
            topic: None,
            label: None,
        };
        vec![
            ChatRow::single_turn("write a song about the OLD tower.", "La."),
            ChatRow::single_turn("Write a song about the new tower", "La."),
            ChatRow::single_turn("How tall is it", "quite tall"),
            ChatRow::single_turn("How tall is it?", "I do not know."),
            ChatRow::single_turn("Sew a shirt", "Sing"),
            several,
        ]
    }

    fn turns(row: &ChatRow) -> Vec<&[ChatMessage]> {
        vec![&row.messages]
    }

    #[test]
    fn what_repeats_is_left_out_and_counted() {
        let file = ("data.harmful.source", Path::new("rows.jsonl"));
        let (left, overlap) = measured().sift(file, OverlapPolicy::LeaveOut, rows(), turns).unwrap();
        assert_eq!(left, rows()[3..5]);
        assert_eq!(
            overlap.unwrap().to_string(),
            "overlap: data.harmful.source: 4 of the 6 rows of rows.jsonl repeat what is measured with (cakes: 1 nearly the \
             same; held-out benign rows: 1 the same; songs: 1 the same, 1 nearly), and are left out"
        );
        let (all, overlap) = measured().sift(file, OverlapPolicy::Keep, rows(), turns).unwrap();
        assert_eq!(all, rows());
        assert!(overlap.unwrap().to_string().contains("and stay (data.overlap = \"keep\")"));
        let (all, overlap) = measured().sift(file, OverlapPolicy::LeaveOut, rows()[3..5].to_vec(), turns).unwrap();
        assert_eq!((all.len(), overlap), (2, None));
    }

    #[test]
    fn a_file_of_which_nothing_is_left_is_refused_without_its_text() {
        let file = ("cai.data", Path::new("pairs.jsonl"));
        let error =
            measured().sift(file, OverlapPolicy::LeaveOut, rows()[..2].to_vec(), turns).unwrap_err().to_string();
        assert_eq!(
            error,
            "cai.data: 2 of the 2 rows of pairs.jsonl repeat what is measured with (songs: 1 the same, 1 nearly), so nothing \
             is left; name another file, measure with something else, or set data.overlap = \"keep\""
        );
        assert!(measured().sift(file, OverlapPolicy::Keep, rows()[..2].to_vec(), turns).is_ok());
    }
}
