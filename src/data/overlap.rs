//! Texts that say the same, or nearly so: what trains a model must not be what it is measured with.

use std::collections::HashMap;

use unicode_normalization_alignments::UnicodeNormalization;

/// The Jaccard similarity of two texts' sets of words from which on they count as near-duplicates.
///
/// Most near-duplicates in data sets differ by a word or two of ten, which leaves 0.65 or more. Below that, a common frame
/// ("write a guide on how to …") is taken for the matter: among `AdvBench`'s 520 goals the largest cluster of near-duplicates has
/// 29 members at 0.6, but 149 at 0.5, and goals in it ask for different things.
pub const NEAR_DUPLICATE: f64 = 0.6;

/// A text of an index that another text repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// Its place in the index.
    pub index: usize,
    /// The Jaccard similarity of the two sets of words, from the index's threshold to 1.
    pub similarity: f64,
    /// Whether the two are equal after [`normalized`]; the same words in another order are not.
    pub is_exact: bool,
}

/// Returns a text's words joined by single spaces, in Unicode's compatible composition (NFKC) and lower case, without
/// punctuation: two texts that differ in nothing else are the same text.
///
/// Characters of scripts that put no spaces between words count as words.
pub fn normalized(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.nfkc().map(|(character, _)| character).flat_map(char::to_lowercase) {
        let is_word = has_no_spaces(character);
        if is_word || character.is_alphanumeric() || is_mark(character) {
            if (!in_word || is_word) && !words.is_empty() {
                words.push(' ');
            }
            words.push(character);
            in_word = !is_word;
        } else if !is_apostrophe(character) {
            in_word = false;
        }
    }
    words
}

/// Apostrophes and invisible characters stand inside words.
const fn is_apostrophe(character: char) -> bool {
    matches!(character, '\'' | '\u{2019}' | '\u{2bc}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

/// Combining marks, which NFKC leaves where there is no composed character.
const fn is_mark(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{20d0}'..='\u{20ff}')
}

/// Chinese characters, kana, Thai and Lao, Khmer and Burmese letters.
const fn has_no_spaces(character: char) -> bool {
    matches!(
        character,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}'
    )
}

/// Texts by what they say, to be asked whether one of them is repeated.
///
/// Two sets of words with a Jaccard similarity of `t` or more share a word among the rarest `n - ⌈t·n⌉ + 1` of each (prefix
/// filtering, Chaudhuri et al., 2006). Only those are looked up, so a question costs what rare words have in common, not
/// what all words have.
#[derive(Clone, Debug)]
pub struct TextIndex {
    threshold: f64,
    exact: HashMap<String, usize>,
    /// Numbers of words; rare ones come first.
    words: HashMap<String, u32>,
    /// Each text's words by their numbers, ascending.
    texts: Vec<Vec<u32>>,
    /// By number, the texts that have a word among their rarest.
    holders: Vec<Vec<u32>>,
}

impl TextIndex {
    /// Indexes texts for exact duplicates and [near-duplicates](NEAR_DUPLICATE).
    pub fn new<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::with_threshold(texts, NEAR_DUPLICATE)
    }

    /// As [`TextIndex::new`], with another least similarity, above 0 and at most 1.
    pub fn with_threshold<T: AsRef<str>>(texts: impl IntoIterator<Item = T>, threshold: f64) -> Self {
        let texts: Vec<String> = texts.into_iter().map(|text| normalized(text.as_ref())).collect();
        let words = numbered_words(&texts);
        let mut exact = HashMap::new();
        for (index, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
            exact.entry(text.clone()).or_insert(index);
        }
        let texts: Vec<Vec<u32>> = texts.iter().map(|text| numbers(text, &words).0).collect();
        let mut holders = vec![Vec::new(); words.len()];
        for (index, text) in (0..).zip(&texts) {
            for &word in &text[..prefix(text.len(), threshold)] {
                holders[word as usize].push(index);
            }
        }
        Self { threshold, exact, words, texts, holders }
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the place of a text that equals this one after [`normalized`].
    pub fn exact(&self, text: &str) -> Option<usize> {
        self.exact.get(&normalized(text)).copied()
    }

    /// Returns the text that this one repeats: an equal one, or else the most similar one, the first of several.
    pub fn near(&self, text: &str) -> Option<Match> {
        let text = normalized(text);
        if let Some(&index) = self.exact.get(&text) {
            return Some(Match { index, similarity: 1.0, is_exact: true });
        }
        let (known, unknown) = numbers(&text, &self.words);
        let mut best: Option<Match> = None;
        for index in self.candidates(&known, unknown) {
            let similarity = jaccard(&known, unknown, &self.texts[index]);
            if similarity >= self.threshold && best.is_none_or(|best| similarity > best.similarity) {
                best = Some(Match { index, similarity, is_exact: false });
            }
        }
        best
    }

    /// Places of texts that may be similar enough, ascending.
    fn candidates(&self, known: &[u32], unknown: usize) -> Vec<usize> {
        let total = known.len() + unknown;
        // Words that no text has are the rarest.
        let rarest = prefix(total, self.threshold).saturating_sub(unknown).min(known.len());
        let mut found: Vec<usize> = known[..rarest]
            .iter()
            .flat_map(|&word| &self.holders[word as usize])
            .map(|&index| index as usize)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Returns for each text the number of its cluster: texts that are similar by `threshold` or more, directly or through
/// others, share one (the components of that graph). Clusters are numbered from 0 by their first text.
pub fn clusters<T: AsRef<str>>(texts: &[T], threshold: f64) -> Vec<usize> {
    let index = TextIndex::with_threshold(texts.iter().map(AsRef::as_ref), threshold);
    let mut parents: Vec<usize> = (0..texts.len()).collect();
    for (place, text) in index.texts.iter().enumerate() {
        let similar = |other: &usize| *other < place && jaccard(text, 0, &index.texts[*other]) >= threshold;
        for other in index.candidates(text, 0).into_iter().filter(similar) {
            let (one, two) = (root(&mut parents, place), root(&mut parents, other));
            parents[one.max(two)] = one.min(two);
        }
    }
    let mut numbers = HashMap::new();
    (0..texts.len())
        .map(|place| {
            let next = numbers.len();
            *numbers.entry(root(&mut parents, place)).or_insert(next)
        })
        .collect()
}

/// The representative of a place's component; paths to it are halved on the way.
fn root(parents: &mut [usize], mut place: usize) -> usize {
    while parents[place] != place {
        parents[place] = parents[parents[place]];
        place = parents[place];
    }
    place
}

/// Numbers words by how many texts have them, the rarest first, and in alphabetical order where that is the same.
fn numbered_words(texts: &[String]) -> HashMap<String, u32> {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for text in texts {
        let mut words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        words.sort_unstable();
        words.dedup();
        for word in words {
            *counts.entry(word).or_default() += 1;
        }
    }
    let mut words: Vec<_> = counts.into_iter().collect();
    words.sort_unstable_by_key(|&(word, count)| (count, word));
    (0..).zip(words).map(|(number, (word, _))| (word.to_owned(), number)).collect()
}

/// The set of a text's words: numbers of those that have one, ascending, and how many have none.
fn numbers(text: &str, words: &HashMap<String, u32>) -> (Vec<u32>, usize) {
    let mut known = Vec::new();
    let mut unknown = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match words.get(word) {
            Some(&number) => known.push(number),
            None => unknown.push(word),
        }
    }
    known.sort_unstable();
    known.dedup();
    unknown.sort_unstable();
    unknown.dedup();
    (known, unknown.len())
}

/// How many of a set's rarest words a similar set must have one of.
fn prefix(words: usize, threshold: f64) -> usize {
    // A product that is whole must not round up.
    let shared = (threshold * words as f64 - 1e-9).ceil().max(1.0) as usize;
    (words + 1).saturating_sub(shared).min(words)
}

/// The Jaccard similarity of a set, part of which is in no text, and a text's; 0 where both are empty.
fn jaccard(known: &[u32], unknown: usize, other: &[u32]) -> f64 {
    let (mut one, mut two, mut shared) = (0_usize, 0_usize, 0_usize);
    while one < known.len() && two < other.len() {
        match known[one].cmp(&other[two]) {
            std::cmp::Ordering::Less => one += 1,
            std::cmp::Ordering::Greater => two += 1,
            std::cmp::Ordering::Equal => (one, two, shared) = (one + 1, two + 1, shared + 1),
        }
    }
    let all = known.len() + unknown + other.len() - shared;
    if all == 0 { 0.0 } else { shared as f64 / all as f64 }
}

#[cfg(test)]
mod tests;
