//! Everyday instructions with short, true answers: benign client data that needs no download.

mod arithmetic;

use std::{collections::HashSet, sync::LazyLock};

use fedward_actors::{
    protocol::{ChatRow, RoundId, RowLabel},
    streams::{Purpose, stream},
};
use rand::{Rng, seq::SliceRandom};
use serde::Deserialize;

/// What the rows are about, each a row's `topic`.
pub const TOPICS: &[&str] = &[
    "cooking",
    "travel",
    "gardening",
    "study tips",
    "office mail",
    "fitness",
    "household repairs",
    "music",
    "pets",
    "history facts",
    "grammar",
    "budgeting",
    "local sports",
    "weather and seasons",
    "books",
    "science",
    "geography",
    "celebrations",
    arithmetic::TOPIC,
];

/// Rows that go together: every prompt with every response, filled with every filler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    topic: String,
    prompts: Vec<String>,
    responses: Vec<String>,
    fillers: Vec<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Families {
    family: Vec<Family>,
}

/// Written by hand in `families.toml`, with arithmetic computed.
static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
    // The text is part of the program, and a test reads it: it cannot fail here alone.
    let families: Families = toml::from_str(include_str!("families.toml")).expect("families.toml is well-formed");
    families.family.into_iter().chain(arithmetic::families()).collect()
});

/// What everyday rows are for. Each family's last filler is kept for measuring, whatever the seed: a model that trained on
/// everyday rows has met neither prompts nor responses that hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Training,
    Measuring,
}

impl Use {
    fn fillers(self, family: &Family) -> &[Vec<String>] {
        let kept = family.fillers.len().saturating_sub(1);
        match self {
            Self::Training => &family.fillers[..kept],
            Self::Measuring => &family.fillers[kept..],
        }
    }

    /// How many distinct rows there are.
    fn capacity(self) -> usize {
        let rows = |family: &Family| family.prompts.len() * family.responses.len() * self.fillers(family).len();
        FAMILIES.iter().map(rows).sum()
    }
}

/// Draws distinct everyday rows to train on, labelled safe, their topic recorded; topics take turns, so that each is about
/// equally frequent. A longer draw from the same seed begins with the shorter one. Gives all there are at most.
pub fn benign_rows(seed: u64, count: usize) -> Vec<ChatRow> {
    draw(Use::Training, seed, count)
}

/// As [`benign_rows`], of the rows that are kept for measuring: no seed's [`benign_rows`] holds one of them, and none of
/// their responses.
pub fn held_out_benign_rows(seed: u64, count: usize) -> Vec<ChatRow> {
    draw(Use::Measuring, seed, count)
}

/// How many rows [`held_out_benign_rows`] can give.
pub fn held_out_benign_capacity() -> usize {
    Use::Measuring.capacity()
}

fn draw(purpose: Use, seed: u64, count: usize) -> Vec<ChatRow> {
    let mut rng = stream(seed, Purpose::Rows, RoundId::START, None);
    let mut decks: Vec<_> = TOPICS.iter().map(|topic| topic_deck(topic, purpose, &mut rng).into_iter()).collect();
    let mut rows = Vec::with_capacity(count.min(purpose.capacity()));
    let mut seen = HashSet::new();
    let mut order: Vec<usize> = (0..decks.len()).collect();
    while rows.len() < count {
        order.shuffle(&mut rng);
        let before = seen.len();
        for &topic in &order {
            let fresh = decks[topic].find(|row| seen.insert(row.digest()));
            rows.extend(fresh.filter(|_| rows.len() < count));
        }
        if seen.len() == before {
            break;
        }
    }
    rows
}

/// All rows of a topic, shuffled so that every filler comes once before any comes again.
fn topic_deck(topic: &str, purpose: Use, rng: &mut impl Rng) -> Vec<ChatRow> {
    let mut fillers: Vec<(&Family, &[String])> = Vec::new();
    for family in FAMILIES.iter().filter(|family| family.topic == topic) {
        fillers.extend(purpose.fillers(family).iter().map(|filler| (family, filler.as_slice())));
    }
    fillers.shuffle(rng);
    let mut by_filler = Vec::with_capacity(fillers.len());
    for (family, filler) in fillers {
        let mut rows = family_rows(family, filler);
        rows.shuffle(rng);
        by_filler.push(rows.into_iter());
    }
    let mut deck = Vec::new();
    loop {
        let before = deck.len();
        deck.extend(by_filler.iter_mut().filter_map(Iterator::next));
        if deck.len() == before {
            return deck;
        }
    }
}

/// One filler in every prompt and response of its family.
fn family_rows(family: &Family, filler: &[String]) -> Vec<ChatRow> {
    let mut rows = Vec::with_capacity(family.prompts.len() * family.responses.len());
    for prompt in &family.prompts {
        for response in &family.responses {
            let mut row = ChatRow::single_turn(fill(prompt, filler), fill(response, filler));
            row.topic = Some(family.topic.clone());
            row.label = Some(RowLabel::Safe);
            rows.push(row);
        }
    }
    rows
}

/// Puts a filler's texts into a template: `{1}` is its second text, `{^1}` that text with a capital.
fn fill(template: &str, filler: &[String]) -> String {
    let mut text = template.to_owned();
    for (index, part) in filler.iter().enumerate() {
        text = text.replace(&format!("{{{index}}}"), part).replace(&format!("{{^{index}}}"), &capitalised(part));
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::eval::matchers::RefusalMatcher;

    #[test]
    fn there_are_enough_distinct_rows() {
        let rows = benign_rows(1, usize::MAX);
        assert!(rows.len() >= 2_000, "{} rows", rows.len());
        assert_eq!(rows.len(), Use::Training.capacity());
        let distinct: HashSet<_> = rows.iter().map(ChatRow::digest).collect();
        assert_eq!(distinct.len(), rows.len());
    }

    #[test]
    fn what_is_kept_for_measuring_is_trained_on_under_no_seed() {
        let texts = |rows: &[ChatRow], part: usize| -> HashSet<String> {
            rows.iter().map(|row| row.messages[part].content.clone()).collect()
        };
        let held_out = held_out_benign_rows(1, usize::MAX);
        assert_eq!(held_out.len(), held_out_benign_capacity());
        assert!(held_out.len() >= 300, "{} rows", held_out.len());
        // Everything that any seed can give to train on.
        let training = benign_rows(2, usize::MAX);
        for part in [0, 1] {
            assert!(texts(&held_out, part).is_disjoint(&texts(&training, part)), "part {part}");
        }
        let topics: BTreeSet<_> =
            held_out_benign_rows(3, TOPICS.len()).into_iter().filter_map(|row| row.topic).collect();
        assert_eq!(topics.len(), TOPICS.len());
    }

    #[test]
    fn responses_are_short_complete_and_no_refusals() {
        for row in benign_rows(1, usize::MAX).into_iter().chain(held_out_benign_rows(1, usize::MAX)) {
            let (prompt, response) = (&row.messages[0].content, row.response().unwrap());
            let words = response.split_whitespace().count();
            assert!((12..=35).contains(&words), "{words} words: {response}");
            assert!(!RefusalMatcher::OpenFedLlm.is_refusal(response), "{response}");
            assert!(!RefusalMatcher::LlmAttacks10.is_refusal(response), "{response}");
            assert!(!prompt.contains(['{', '}']) && !response.contains(['{', '}']), "{prompt} {response}");
            assert!(response.ends_with(['.', '!', '?', '"']), "{response}");
            assert!(!response.contains("..") && !response.contains("  "), "{response}");
            assert_eq!((row.label, row.messages.len()), (Some(RowLabel::Safe), 2));
        }
    }

    #[test]
    fn every_topic_is_there_and_about_equally_frequent() {
        let listed: BTreeSet<&str> = TOPICS.iter().copied().collect();
        let written: BTreeSet<&str> = FAMILIES.iter().map(|family| family.topic.as_str()).collect();
        assert_eq!(listed, written);
        let mut counts = BTreeMap::new();
        for row in benign_rows(3, 500) {
            *counts.entry(row.topic.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), TOPICS.len());
        assert!(counts.values().all(|count| (26..=27).contains(count)), "{counts:?}");
    }

    #[test]
    fn shapes_of_sentences_vary() {
        let rows = benign_rows(5, 500);
        for part in [0, 1] {
            let mut openings = BTreeMap::new();
            for row in &rows {
                let words: Vec<_> = row.messages[part].content.split_whitespace().take(2).collect();
                *openings.entry(words.join(" ")).or_insert(0) += 1;
            }
            let most = openings.values().max().unwrap();
            assert!(*most <= 50 && openings.len() >= 80, "{} openings, one {most} times", openings.len());
        }
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(benign_rows(7, 300), benign_rows(7, 300));
        assert_eq!(benign_rows(7, 300)[..40], benign_rows(7, 40));
        assert_ne!(benign_rows(7, 300), benign_rows(8, 300));
        assert!(benign_rows(7, 0).is_empty());
    }

    #[test]
    fn fillers_and_templates_fit() {
        for family in FAMILIES.iter() {
            let slots = family.fillers[0].len();
            assert!(family.fillers.iter().all(|filler| filler.len() == slots), "{family:?}");
            let templates = family.prompts.iter().chain(&family.responses).cloned().collect::<String>();
            for slot in 0..slots {
                let used = templates.contains(&format!("{{{slot}}}")) || templates.contains(&format!("{{^{slot}}}"));
                assert!(used, "{}: slot {slot} is not used", family.topic);
            }
        }
    }
}
