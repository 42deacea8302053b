//! Text to token ids and back, and conversations to token ids.

mod normalized;

use std::{
    collections::HashSet,
    ops::Range,
    path::{Path, PathBuf},
};

use fedward_actors::protocol::{ChatMessage, ChatRow, Role};
use serde::{Deserialize, Serialize};
use tokenizers::{
    AddedToken, Encoding, Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetType, PreTokenizedString,
    PreTokenizer, Token, Tokenizer, normalizer,
};

use self::normalized::NormalizedTokens;
use super::{
    ModelError, TokenizedRow,
    chat_template::{ChatTemplate, Rendered, SpecialToken},
};
use crate::panics;

/// Longest text that is tokenized: two million tokens or so, and below what regular expressions of tokenizers give up at.
const MAX_TEXT_BYTES: usize = 8 << 20;
/// Longest text that a normalizer may make of one.
const MAX_NORMALIZED_BYTES: usize = 8 * MAX_TEXT_BYTES;

/// What a checkpoint says of its tokenizer, before it is checked.
pub(super) struct TokenizerParts {
    pub(super) tokenizer: Tokenizer,
    /// Jinja source of the chat template.
    pub(super) template: Option<String>,
    /// `bos_token`, `eos_token` and the like, as templates use them.
    pub(super) variables: Vec<(String, String)>,
    /// Special tokens without names, which the tokenizer may lack.
    pub(super) extra: Vec<String>,
    /// Tokens that end generation.
    pub(super) stop_ids: Vec<u32>,
}

/// Where a row that is trained on ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowEnd {
    /// With the token that closes the response: what stands behind it is never generated.
    #[default]
    Token,
    /// With all that the template writes behind the response, often a line feed: what trl trains on.
    Turn,
}

/// A checkpoint's tokenizer and chat template.
///
/// Special tokens come from the chat template alone: text never yields one, whatever it looks like.
#[derive(Debug)]
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    /// Tokens that are matched in any text before it is split, longest first.
    added: Vec<Added>,
    special: Vec<Added>,
    /// Those of both that are matched behind the normalizer.
    normalized: NormalizedTokens,
    template: Option<ChatTemplate>,
    stop_ids: Vec<u32>,
    /// The stop token behind a response that the template leaves open.
    closing_id: u32,
    path: PathBuf,
}

/// A token that is matched as a whole.
#[derive(Clone, Debug)]
struct Added {
    token: AddedToken,
    id: u32,
}

/// A part of a text that is one token.
type Fixed = (Range<usize>, u32);

/// Who speaks when.
fn turns_of(messages: &[ChatMessage]) -> String {
    let roles: Vec<_> = messages.iter().map(|message| Role::as_str(message.role)).collect();
    roles.join(", ")
}

impl ChatTokenizer {
    /// Puts a tokenizer together; `path` is the file that errors name.
    pub(super) fn new(parts: TokenizerParts, path: &Path, vocab_size: i64) -> Result<Self, ModelError> {
        panics::catch_all(|| Self::assemble(parts, path, vocab_size)).unwrap_or_else(|panic| {
            Err(ModelError::invalid(path, format!("tokenizer and chat template panic: {panic}")))
        })
    }

    fn assemble(parts: TokenizerParts, path: &Path, vocab_size: i64) -> Result<Self, ModelError> {
        let invalid = |problem: String| ModelError::invalid(path, problem);
        let TokenizerParts { tokenizer, template, variables, extra, mut stop_ids } = parts;
        let Some(&first_stop_id) = stop_ids.first() else {
            return Err(invalid("no end-of-sequence token: eos_token_id is missing".to_owned()));
        };
        let eos = variables.iter().find(|(name, _)| name == "eos_token");
        let closing_id = eos.and_then(|(_, eos)| tokenizer.token_to_id(eos)).unwrap_or(first_stop_id);
        stop_ids.sort_unstable();
        stop_ids.dedup();
        if let Some(id) = stop_ids.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
            return Err(invalid(format!("eos_token_id: found {id}, which the tokenizer does not have")));
        }
        let mut added: Vec<_> =
            tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| Added { token, id }).collect();
        let named = variables.iter().map(|(_, content)| content).chain(&extra);
        added.extend(named_beside(&added, named, &tokenizer));
        added.sort_by(|a, b| b.token.content.len().cmp(&a.token.content.len()).then(a.id.cmp(&b.id)));
        added.retain(|added| !added.token.content.is_empty());
        if let Some(whole_word) = added.iter().find(|added| added.token.single_word) {
            let content = &whole_word.token.content;
            return Err(invalid(format!("added token {content:?}: single_word is not supported")));
        }
        // Tokens with a part in the protocol are never text, even where a checkpoint forgot to call them special.
        let (special, added): (Vec<_>, Vec<_>) = added.into_iter().partition(|added| {
            let named = variables.iter().any(|(_, content)| *content == added.token.content);
            added.token.special || named || stop_ids.contains(&added.id)
        });
        // No text yields a special token, and where a template writes one that the model has not, the row is refused. Some
        // tokenizers have one more than the model, for images that it cannot read.
        let never_read: HashSet<u32> =
            special.iter().map(|added| added.id).filter(|id| !stop_ids.contains(id)).collect();
        let largest = tokenizer.get_vocab(true).into_values().filter(|id| !never_read.contains(id)).max().unwrap_or(0);
        if i64::from(largest) >= vocab_size {
            return Err(invalid(format!(
                "the tokenizer has token {largest}, but the model's vocab_size is {vocab_size}"
            )));
        }
        let normalized = NormalizedTokens::new(&special, &added, &tokenizer).map_err(invalid)?;
        let written = template.iter().chain(variables.iter().map(|(_, text)| text)).map(String::as_str);
        let spellings = normalized.spellings(written, tokenizer.get_normalizer()).map_err(invalid)?;
        let specials = special.iter().map(|Added { token, id }| (token.content.clone(), *id)).chain(spellings);
        let specials = specials.map(|(content, id)| SpecialToken { content, id }).collect();
        let template = match template {
            Some(source) => Some(ChatTemplate::new(&source, &variables, specials).map_err(invalid)?),
            None => None,
        };
        Ok(Self { tokenizer, added, special, normalized, template, stop_ids, closing_id, path: path.to_path_buf() })
    }

    /// Tokens of plain text: none of them special, none put in front.
    ///
    /// # Errors
    ///
    /// [`ModelError::Invalid`] if the tokenizer fails on the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let tokens = self.encode(text, &[])?;
        Ok(tokens.into_iter().map(|(id, _)| id).collect())
    }

    /// The text of tokens, special ones left out.
    ///
    /// # Errors
    ///
    /// [`ModelError::Invalid`] if the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        match panics::catch_all(|| self.tokenizer.decode(ids, true)) {
            Ok(decoded) => decoded.map_err(|error| self.invalid(format!("decoding: {error}"))),
            Err(panic) => Err(self.invalid(format!("decoding {} tokens: the tokenizer panics: {panic}", ids.len()))),
        }
    }

    /// Tokens of a conversation up to and including the opening of the assistant's next turn.
    ///
    /// # Errors
    ///
    /// [`ModelError::Invalid`] if there is no chat template, or it refuses the conversation.
    pub fn prompt_ids(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, ModelError> {
        let rendered = self.render(messages, true)?;
        let tokens = self.encode(&rendered.text, &rendered.specials)?;
        Ok(tokens.into_iter().map(|(id, _)| id).collect())
    }

    /// Tokens of a conversation as it stands.
    ///
    /// # Errors
    ///
    /// [`ModelError::Invalid`] if there is no chat template, or it refuses the conversation.
    pub fn conversation_ids(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, ModelError> {
        let rendered = self.render(messages, false)?;
        let tokens = self.encode(&rendered.text, &rendered.specials)?;
        Ok(tokens.into_iter().map(|(id, _)| id).collect())
    }

    /// Tokens of a conversation with its response and the token that closes it, cut after `max_length` tokens; `None` if
    /// the row has no response, or none of it fits.
    ///
    /// # Errors
    ///
    /// [`ModelError::Invalid`] if there is no chat template, or it refuses the conversation.
    pub fn row_ids(&self, row: &ChatRow, max_length: usize) -> Result<Option<TokenizedRow>, ModelError> {
        self.row_ids_up_to(RowEnd::Token, row, max_length)
    }

    /// As [`ChatTokenizer::row_ids`], of a row that ends as `end` says.
    ///
    /// # Errors
    ///
    /// As [`ChatTokenizer::row_ids`].
    pub fn row_ids_up_to(
        &self,
        end: RowEnd,
        row: &ChatRow,
        max_length: usize,
    ) -> Result<Option<TokenizedRow>, ModelError> {
        if row.response().is_none() {
            return Ok(None);
        }
        let prompt = self.render(row.prompt(), true)?;
        let whole = self.render(&row.messages, false)?;
        let begins_alike = whole.text.starts_with(&prompt.text) && whole.specials.starts_with(&prompt.specials);
        if !begins_alike {
            let turns = turns_of(&row.messages);
            return Err(self.invalid(format!(
                "chat template: with its response the conversation does not begin as the prompt for that response, so what is to \
                 be learnt cannot be told (turns: {turns}); use another template, or leave out rows with such turns"
            )));
        }
        let tokens = self.encode(&whole.text, &whole.specials)?;
        // A token across the border belongs to the response: part of it has to be predicted.
        let response_start = tokens.partition_point(|(_, end)| *end <= prompt.text.len());
        let mut ids: Vec<_> = tokens.into_iter().map(|(id, _)| id).collect();
        match ids[response_start..].iter().position(|id| self.stop_ids.contains(id)) {
            Some(closing) if end == RowEnd::Token => ids.truncate(response_start + closing + 1),
            Some(_) => {}
            // A template that leaves the turn open would never teach the model to stop.
            None => ids.push(self.closing_id),
        }
        ids.truncate(max_length);
        Ok((response_start < ids.len()).then_some(TokenizedRow { ids, response_start }))
    }

    /// Whether a row was cut: it does not end with a token that closes its response.
    pub fn is_cut(&self, row: &TokenizedRow) -> bool {
        !row.ids.last().is_some_and(|id| self.stop_ids.contains(id))
    }

    /// Tokens that end a response.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<Rendered, ModelError> {
        let Some(template) = &self.template else {
            let problem = "no chat template: use an instruction-tuned model, or put a chat_template.jinja beside it";
            return Err(self.invalid(problem.to_owned()));
        };
        let rendered = panics::catch_all(|| template.render(messages, add_generation_prompt));
        rendered.unwrap_or_else(|panic| Err(format!("chat template: panics: {panic}"))).map_err(|problem| {
            let turns = turns_of(messages);
            self.invalid(format!(
                "{problem} (turns: {turns}); change or leave out what the model's template does not take"
            ))
        })
    }

    /// Tokens of `text`, each with the byte at which its text ends; `specials` are parts that are one token.
    ///
    /// What the library's own `encode` does, except that special tokens are told rather than searched for.
    fn encode(&self, text: &str, specials: &[Fixed]) -> Result<Vec<(u32, usize)>, ModelError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(self.invalid(format!(
                "encoding: found a text of {} bytes, expected at most {MAX_TEXT_BYTES}; shorten it or leave it out",
                text.len()
            )));
        }
        let encoded = panics::catch_all(|| self.encode_unguarded(text, specials)).map_err(|panic| {
            let length = text.len();
            self.invalid(format!(
                "encoding: the tokenizer gives up on a text of {length} bytes ({panic}); shorten it or leave it out"
            ))
        })?;
        let encoding = encoded.map_err(|error| self.invalid(format!("encoding: {error}")))?;
        let ends = encoding.get_offsets().iter().map(|(_, end)| *end);
        Ok(encoding.get_ids().iter().copied().zip(ends).collect())
    }

    fn encode_unguarded(&self, text: &str, specials: &[Fixed]) -> tokenizers::Result<Encoding> {
        let fixed = self.fixed_parts(text, specials);
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, whole| Ok(split_at(whole, &fixed)))?;
        if let Some(normalizer) = self.tokenizer.get_normalizer() {
            pieces.normalize(|piece| normalize(normalizer, piece))?;
        }
        if !self.normalized.is_empty() {
            pieces.split(|_, piece| Ok(self.normalized.split(&piece, specials)))?;
        }
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.tokenizer.get_model().tokenize(piece.get()))?;
        pieces.into_encoding(None, 0, OffsetType::Byte)
    }

    /// The parts of `text` that are one token each before it is normalized: the given special ones, and added ones wherever they
    /// occur between.
    fn fixed_parts(&self, text: &str, specials: &[Fixed]) -> Vec<Fixed> {
        let mut fixed = Vec::new();
        let mut position = 0;
        let is_normalized = |id: u32| self.special.iter().any(|special| special.id == id && special.token.normalized);
        for (range, id) in specials.iter().filter(|(_, id)| !is_normalized(*id)) {
            self.find_added(text, position..range.start, &mut fixed);
            fixed.push((range.clone(), *id));
            position = range.end;
        }
        self.find_added(text, position..text.len(), &mut fixed);
        for index in 0..fixed.len() {
            let before = index.checked_sub(1).map_or(0, |before| fixed[before].0.end);
            let after = fixed.get(index + 1).map_or(text.len(), |(range, _)| range.start);
            let (range, id) = &mut fixed[index];
            self.strip_around(text, before..after, range, *id);
        }
        fixed
    }

    fn unnormalized(&self) -> impl Iterator<Item = &Added> {
        self.added.iter().filter(|added| !added.token.normalized)
    }

    fn find_added(&self, text: &str, within: Range<usize>, fixed: &mut Vec<Fixed>) {
        if self.unnormalized().next().is_none() {
            return;
        }
        let mut position = within.start;
        while position < within.end {
            let rest = &text[position..within.end];
            if let Some(Added { token, id }) = self.unnormalized().find(|added| rest.starts_with(&added.token.content))
            {
                let end = position + token.content.len();
                fixed.push((position..end, *id));
                position = end;
            } else {
                position += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
    }

    /// Some tokens swallow the white space before or behind them.
    fn strip_around(&self, text: &str, bounds: Range<usize>, range: &mut Range<usize>, id: u32) {
        let Some(Added { token, .. }) = self.special.iter().chain(&self.added).find(|added| added.id == id) else {
            return;
        };
        if token.lstrip {
            range.start = bounds.start + text[bounds.start..range.start].trim_end().len();
        }
        if token.rstrip {
            let behind = &text[range.end..bounds.end];
            range.end += behind.len() - behind.trim_start().len();
        }
    }

    fn invalid(&self, problem: String) -> ModelError {
        ModelError::invalid(&self.path, problem)
    }
}

/// Tokens that the checkpoint names without adding them to its tokenizer, which `transformers` then does: under the id that the
/// vocabulary has for them, or else a new one.
fn named_beside<'n>(added: &[Added], named: impl Iterator<Item = &'n String>, tokenizer: &Tokenizer) -> Vec<Added> {
    let mut beside: Vec<Added> = Vec::new();
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    let mut new_ids = largest + 1..;
    for content in named {
        if added.iter().chain(&beside).any(|added| added.token.content == *content) {
            continue;
        }
        let id = tokenizer.token_to_id(content).or_else(|| new_ids.next());
        beside.extend(id.map(|id| Added { token: AddedToken::from(content.clone(), true), id }));
    }
    beside
}

/// Normalizes step by step: each might make the text many times longer.
fn normalize(normalizer: &NormalizerWrapper, text: &mut NormalizedString) -> tokenizers::Result<()> {
    let added = match normalizer {
        NormalizerWrapper::Sequence(steps) => return steps.as_ref().iter().try_for_each(|step| normalize(step, text)),
        NormalizerWrapper::Replace(replace) => replace.content.len(),
        NormalizerWrapper::Prepend(prepend) => prepend.prepend.len(),
        _ => 1,
    };
    let longest = text.len().saturating_mul(added + 1);
    if longest > MAX_NORMALIZED_BYTES {
        let problem = format!("normalizing could make {longest} bytes, at most {MAX_NORMALIZED_BYTES} are supported");
        return Err(problem.into());
    }
    normalizer.normalize(text)
}

/// Parts of a text, each with its token where it is one.
type Pieces = Vec<(NormalizedString, Option<Vec<Token>>)>;

/// Splits a text at the parts that are one token each, which are then not tokenized any further.
fn split_at(whole: NormalizedString, fixed: &[Fixed]) -> Pieces {
    let mut pieces = Vec::with_capacity(2 * fixed.len() + 1);
    split_into(whole, 0, fixed, &mut pieces);
    pieces
}

/// Splits the part of a text that begins at byte `start`. A slice takes as long as what it is taken from, so that is halved.
fn split_into(part: NormalizedString, start: usize, fixed: &[Fixed], pieces: &mut Pieces) {
    let slice = |part: &NormalizedString, range: Range<usize>| {
        part.slice(normalizer::Range::Original(range.start - start..range.end - start))
    };
    let end = start + part.len_original();
    match fixed {
        [] => pieces.push((part, None)),
        [(range, id)] => {
            pieces.extend(slice(&part, start..range.start).map(|text| (text, None)));
            pieces.extend(slice(&part, range.clone()).map(|text| {
                let token = Token::new(*id, text.get().to_owned(), (0, text.len()));
                (text, Some(vec![token]))
            }));
            pieces.extend(slice(&part, range.end..end).map(|text| (text, None)));
        }
        _ => {
            let (before, behind) = fixed.split_at(fixed.len() / 2);
            let border = behind[0].0.start;
            let halves = [(start..border, before), (border..end, behind)];
            let halves = halves.map(|(range, fixed)| (slice(&part, range.clone()), range.start, fixed));
            drop(part);
            for (half, start, fixed) in halves {
                if let Some(half) = half {
                    split_into(half, start, fixed, pieces);
                }
            }
        }
    }
}
