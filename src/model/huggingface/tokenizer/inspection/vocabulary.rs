//! The longest token of a vocabulary, whatever its form.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Longest token of a list with scores: the library keeps these as a tree, one level for each byte, and leaves it by recursion.
const MAX_PIECE_BYTES: usize = 4096;
/// Longest token of a map.
const MAX_TOKEN_BYTES: usize = 65_536;

/// A map from tokens to ids, or a list of tokens with scores.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    longest: usize,
    is_list: bool,
}

impl Vocabulary {
    pub(super) fn check(&self) -> Result<(), String> {
        let max = if self.is_list { MAX_PIECE_BYTES } else { MAX_TOKEN_BYTES };
        if self.longest > max {
            return Err(format!("model.vocab: found a token of {} bytes, expected at most {max}", self.longest));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VocabularyVisitor)
    }
}

/// The first text of an entry; the entry's form is for the library to judge.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry<'a> {
    Scored(#[serde(borrow)] Cow<'a, str>, IgnoredAny),
    Other(IgnoredAny),
}

struct VocabularyVisitor;

impl<'de> Visitor<'de> for VocabularyVisitor {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("model.vocab as a map of tokens to ids or a list of tokens with scores")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
        let mut longest = 0;
        while let Some((token, _)) = map.next_entry::<Cow<str>, IgnoredAny>()? {
            longest = longest.max(token.len());
        }
        Ok(Vocabulary { longest, is_list: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vocabulary, A::Error> {
        let mut longest = 0;
        while let Some(entry) = entries.next_element::<Entry>()? {
            if let Entry::Scored(token, _) = entry {
                longest = longest.max(token.len());
            }
        }
        Ok(Vocabulary { longest, is_list: true })
    }
}
