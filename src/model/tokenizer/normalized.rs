//! Added tokens that are looked for in the normalized text, as `tokenizers` does with those that say `"normalized": true`.

use std::ops::Range;

use tokenizers::{
    AddedToken, NormalizedString, Normalizer, NormalizerWrapper, Token, Tokenizer, normalizer::Range::Normalized,
};

use super::{Added, Fixed};

/// Tokens that are matched behind the normalizer, longest first.
#[derive(Debug, Default)]
pub(super) struct NormalizedTokens(Vec<NormalizedToken>);

#[derive(Debug)]
struct NormalizedToken {
    /// As the normalizer leaves it.
    content: String,
    token: AddedToken,
    id: u32,
    /// Whether only the chat template yields it.
    special: bool,
}

impl NormalizedTokens {
    /// Those of `special` and of `added` that are looked for in normalized text.
    ///
    /// # Errors
    ///
    /// What the normalizer says of a token.
    pub(super) fn new(special: &[Added], added: &[Added], tokenizer: &Tokenizer) -> Result<Self, String> {
        let normalizer = tokenizer.get_normalizer();
        let both = special.iter().map(|added| (added, true)).chain(added.iter().map(|added| (added, false)));
        let mut tokens = both
            .filter(|(added, _)| added.token.normalized)
            .map(|(Added { token, id }, special)| {
                let content = normalized(normalizer, &token.content)?;
                Ok(NormalizedToken { content, token: token.clone(), id: *id, special })
            })
            .collect::<Result<Vec<_>, String>>()?;
        tokens.retain(|token| !token.content.is_empty());
        tokens.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then(a.id.cmp(&b.id)));
        Ok(Self(tokens))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Other spellings of special tokens in `texts`, which the normalizer makes the same: a template may write them.
    pub(super) fn spellings<'t>(
        &self,
        texts: impl Iterator<Item = &'t str> + Clone,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Vec<(String, u32)>, String> {
        let mut spellings = Vec::new();
        if normalizer.is_none() {
            return Ok(spellings);
        }
        for text in texts {
            let whole = normalized(normalizer, text)?;
            for token in self.0.iter().filter(|token| token.special && whole.contains(&token.content)) {
                let width = token.token.content.chars().count();
                let places: Vec<_> = text.char_indices().map(|(place, _)| place).chain([text.len()]).collect();
                for window in places.windows(width + 1) {
                    let spelling = &text[window[0]..window[width]];
                    if spelling != token.token.content && normalized(normalizer, spelling)? == token.content {
                        spellings.push((spelling.to_owned(), token.id));
                    }
                }
            }
        }
        spellings.sort();
        spellings.dedup();
        Ok(spellings)
    }

    /// Splits a normalized piece of a text at these tokens, at special ones only where `told` has them.
    pub(super) fn split(
        &self,
        piece: &NormalizedString,
        told: &[Fixed],
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let found = self.find(piece, told);
        let text = piece.get();
        let slice = |range: Range<usize>| piece.slice(Normalized(range));
        let mut pieces = Vec::with_capacity(2 * found.len() + 1);
        let mut position = 0;
        for (range, id) in found {
            if position < range.start {
                pieces.extend(slice(position..range.start).map(|text| (text, None)));
            }
            position = range.end;
            pieces.extend(slice(range).map(|text| {
                let token = Token::new(id, text.get().to_owned(), (0, text.len()));
                (text, Some(vec![token]))
            }));
        }
        if position < text.len() {
            pieces.extend(slice(position..text.len()).map(|text| (text, None)));
        }
        pieces
    }

    fn find(&self, piece: &NormalizedString, told: &[Fixed]) -> Vec<Fixed> {
        let text = piece.get();
        let (shift, _) = piece.offsets_original();
        let is_told = |range: Range<usize>, id: u32| {
            let original = piece.convert_offsets(Normalized(range));
            original.is_some_and(|original| {
                let original = original.start + shift..original.end + shift;
                told.iter().any(|(told, of)| *of == id && told.start < original.end && original.start < told.end)
            })
        };
        let (mut found, mut free, mut position) = (Vec::<Fixed>::new(), 0, 0);
        while position < text.len() {
            let rest = &text[position..];
            let matched = self.0.iter().find(|token| {
                let is_here = rest.starts_with(&token.content);
                is_here && (!token.special || is_told(position..position + token.content.len(), token.id))
            });
            let Some(NormalizedToken { content, token, id, .. }) = matched else {
                position += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            };
            let (mut start, mut end) = (position, position + content.len());
            position = end;
            if token.lstrip {
                start = text[..start].trim_end().len().max(free);
            }
            if token.rstrip {
                end += text[end..].len() - text[end..].trim_start().len();
            }
            position = position.max(end);
            free = end;
            found.push((start..end, *id));
        }
        found
    }
}

fn normalized(normalizer: Option<&NormalizerWrapper>, text: &str) -> Result<String, String> {
    let mut normalized = NormalizedString::from(text);
    if let Some(normalizer) = normalizer {
        normalizer.normalize(&mut normalized).map_err(|error| format!("normalizer: {text:?}: {error}"))?;
    }
    Ok(normalized.get().to_owned())
}
