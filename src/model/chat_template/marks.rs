//! Marks that stand for special tokens while a template is rendered.

use super::{Rendered, SpecialToken};

/// Opens a mark; doubled, it stands for itself. From the last private-use plane, which no text should use.
pub(super) const MARK: char = '\u{10FFFD}';
/// The character that follows [`MARK`] for special token 0.
const FIRST_MARKED: u32 = 0x10_0000;
/// How many special tokens can be marked.
pub(super) const MOST_MARKED: usize = 0xFF00;

/// Replaces each special token in `text` by its mark; `specials` come longest first.
pub(super) fn mark(text: &str, specials: &[SpecialToken]) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let special = specials.iter().position(|special| rest.starts_with(&special.content));
        let mark_of = |index: usize| char::from_u32(FIRST_MARKED + index as u32);
        if let Some((index, second)) = special.and_then(|index| Some((index, mark_of(index)?))) {
            marked.extend([MARK, second]);
            rest = &rest[specials[index].content.len()..];
        } else {
            marked.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    marked
}

/// Doubles marks in a message, so that they stand for themselves.
pub(super) fn escape(content: &str) -> String {
    content.replace(MARK, &[MARK, MARK].iter().collect::<String>())
}

/// Puts special tokens back where their marks are, and remembers where that was.
pub(super) fn unmark(marked: &str, specials: &[SpecialToken]) -> Rendered {
    let mut rendered = Rendered { text: String::with_capacity(marked.len()), specials: Vec::new() };
    let mut characters = marked.chars().peekable();
    while let Some(character) = characters.next() {
        let special =
            |next: &char| (*next as u32).checked_sub(FIRST_MARKED).and_then(|index| specials.get(index as usize));
        match characters.peek() {
            Some(&MARK) if character == MARK => {
                characters.next();
                rendered.text.push(MARK);
            }
            Some(next) if character == MARK && special(next).is_some() => {
                if let Some(special) = special(next) {
                    let start = rendered.text.len();
                    rendered.text.push_str(&special.content);
                    rendered.specials.push((start..rendered.text.len(), special.id));
                }
                characters.next();
            }
            _ => rendered.text.push(character),
        }
    }
    rendered
}
