//! A template's source in pieces, as far as rewriting it needs them.

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'s> {
    /// Text, comments and raw blocks, with their delimiters.
    Plain(&'s str),
    /// What stands between delimiters, which are the first and the last text.
    Code { open: &'s str, tokens: Vec<Token<'s>>, close: &'s str },
}

/// A token with the white space before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'s> {
    pub(super) space: &'s str,
    pub(super) text: &'s str,
    pub(super) kind: TokenKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Name,
    Number,
    Text,
    Open,
    Close,
    Operator,
}

/// Cuts a template into pieces. What it does not understand it leaves plain, for the template engine to complain of.
pub(super) fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = source;
    while let Some(begin) = delimiter(rest) {
        pieces.push(Piece::Plain(&rest[..begin]));
        rest = &rest[begin..];
        let (piece, length) = if rest.starts_with("{#") {
            let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
            (Piece::Plain(&rest[..end]), end)
        } else if let Some(end) = raw_block(rest) {
            (Piece::Plain(&rest[..end]), end)
        } else {
            code(rest).unwrap_or((Piece::Plain(rest), rest.len()))
        };
        pieces.push(piece);
        rest = &rest[length..];
    }
    pieces.push(Piece::Plain(rest));
    pieces
}

fn delimiter(text: &str) -> Option<usize> {
    let begins = |&(at, _): &(usize, &str)| text[at + 1..].starts_with(['{', '%', '#']);
    text.match_indices('{').find(begins).map(|(at, _)| at)
}

/// The length of the raw block that `source` begins with.
fn raw_block(source: &str) -> Option<usize> {
    let mut end = tag(source, "raw")?;
    loop {
        end += source[end..].find("{%")?;
        match tag(&source[end..], "endraw") {
            Some(length) => return Some(end + length),
            None => end += 2,
        }
    }
}

/// The length of the tag of one word that `source` begins with.
fn tag(source: &str, word: &str) -> Option<usize> {
    let inside = source.strip_prefix("{%")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start().strip_prefix(word)?.trim_start();
    let behind = inside.strip_prefix(['-', '+']).unwrap_or(inside).strip_prefix("%}")?;
    Some(source.len() - behind.len())
}

/// The code that `source` begins with, and its length.
fn code(source: &str) -> Option<(Piece<'_>, usize)> {
    let end = if source.starts_with("{{") { "}}" } else { "%}" };
    let opening = if source[2..].starts_with(['-', '+']) { 3 } else { 2 };
    let (mut tokens, mut depth, mut place) = (Vec::new(), 0_usize, opening);
    loop {
        let rest = &source[place..];
        let code = rest.trim_start();
        let (space, begin) = (&rest[..rest.len() - code.len()], source.len() - code.len());
        let trimmed = code.strip_prefix(['-', '+']).unwrap_or(code);
        if depth == 0 && (code.starts_with(end) || trimmed.starts_with(end)) {
            let closing =
                source.len() - code.len() + (code.len() - trimmed.len()) * usize::from(!code.starts_with(end)) + 2;
            let piece = Piece::Code { open: &source[..opening], tokens, close: &source[place..closing] };
            return Some((piece, closing));
        }
        let (kind, length) = token(code)?;
        match kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.checked_sub(1)?,
            _ => {}
        }
        tokens.push(Token { space, text: &code[..length], kind });
        place = begin + length;
    }
}

/// Operators of several characters.
const LONG_OPERATORS: [&str; 6] = ["**", "//", "==", "!=", "<=", ">="];

fn token(code: &str) -> Option<(TokenKind, usize)> {
    let first = code.chars().next()?;
    let run = |of: &dyn Fn(char) -> bool| code.find(|character| !of(character)).unwrap_or(code.len());
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    Some(match first {
        '\'' | '"' => {
            let mut escaped = false;
            let end = code[1..].find(|character| {
                let ends = character == first && !escaped;
                escaped = character == '\\' && !escaped;
                ends
            })?;
            (TokenKind::Text, end + 2)
        }
        '(' | '[' | '{' => (TokenKind::Open, 1),
        ')' | ']' | '}' => (TokenKind::Close, 1),
        '0'..='9' => (TokenKind::Number, number(code, run(&is_word))),
        _ if is_word(first) => (TokenKind::Name, run(&is_word)),
        _ => {
            let long = LONG_OPERATORS.iter().any(|operator| code.starts_with(operator));
            (TokenKind::Operator, if long { 2 } else { first.len_utf8() })
        }
    })
}

/// The length of a number whose first digits and letters are `length` long: a fraction and an exponent's sign may follow.
fn number(code: &str, mut length: usize) -> usize {
    let word = |rest: &str| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let is_digit = |place: usize| code.as_bytes().get(place).is_some_and(u8::is_ascii_digit);
    if code[length..].starts_with('.') && is_digit(length + 1) {
        length += 1 + word(&code[length + 1..]);
    }
    let exponent = code[..length].ends_with(['e', 'E']) && !code.starts_with("0x");
    if exponent && code[length..].starts_with(['-', '+']) && is_digit(length + 1) {
        length += 1 + word(&code[length + 1..]);
    }
    length
}
