//! Values and texts as Python takes them: `str`, `repr`, white space, cases.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

use super::{iterators::is_placeless, limits::LONGEST_WRITTEN, marks::MARK};

/// An error of a template's own making.
pub(super) fn refused(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// Assigns arguments to parameters, by place and by name.
pub(super) fn bind<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let (places, kwargs) = match args.split_last() {
        Some((last, places)) if last.is_kwargs() => (places, Some(Kwargs::try_from(last.clone())?)),
        _ => (args, None),
    };
    if places.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut bound = std::array::from_fn(|index| places.get(index).cloned());
    if let Some(kwargs) = kwargs {
        for (index, name) in names.iter().enumerate().filter(|(_, name)| kwargs.has(name)) {
            if bound[index].replace(kwargs.get(name)?).is_some() {
                return Err(refused(format!("found two values for {name}")));
            }
        }
        kwargs.assert_all_used()?;
    }
    Ok(bound)
}

/// The number in a value that is a float.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    let float = value.kind() == ValueKind::Number && !value.is_integer();
    float.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// `str(value)`.
pub(super) fn text(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return text.to_owned();
    }
    if let Some(float) = as_float(value) {
        return float_text(float);
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => repr(value),
        _ => value.to_string(),
    }
}

/// `repr(value)`; of one that is longer than may be written, a part that is longer, too.
pub(super) fn repr(value: &Value) -> String {
    let mut written = String::new();
    write_repr(&mut written, value, DEEPEST);
    written
}

/// How deep lists and the like are written.
pub(super) const DEEPEST: usize = 100;

fn write_repr(written: &mut String, value: &Value, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return written.push_str("...") };
    // Parts may be in a value any number of times.
    if written.len() > LONGEST_WRITTEN {
        return;
    }
    match value.kind() {
        ValueKind::Undefined => written.push_str("Undefined"),
        ValueKind::String => written.push_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Map => {
            let (open, close) = if is_namespace(value) { ("<Namespace {", "}>") } else { ("{", "}") };
            written.push_str(open);
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                written.push_str(if index > 0 { ", " } else { "" });
                write_repr(written, &key, depth);
                written.push_str(": ");
                write_repr(written, &value.get_item(&key).unwrap_or_default(), depth);
            }
            written.push_str(close);
        }
        ValueKind::Seq | ValueKind::Iterable if !is_placeless(value) => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            written.push(open);
            let mut count = 0;
            for element in value.try_iter().into_iter().flatten() {
                written.push_str(if count > 0 { ", " } else { "" });
                write_repr(written, &element, depth);
                count += 1;
            }
            written.push_str(if value.is_tuple() && count == 1 { "," } else { "" });
            written.push(close);
        }
        ValueKind::Number => written.push_str(&as_float(value).map_or_else(|| value.to_string(), float_text)),
        _ => written.push_str(&value.to_string()),
    }
}

/// Whether a value is what `namespace()` makes: it has attributes, where other mappings have elements alone.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// `repr` of a float: as few digits as tell it from others, with an exponent below 10⁻⁴ and from 10¹⁶ on.
pub(super) fn float_text(float: f64) -> String {
    if !float.is_finite() {
        return float.to_string().to_lowercase();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = float.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// `repr` of a string. Marks stay what they are.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut written = String::from(quote);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            MARK => {
                written.push(MARK);
                written.extend(characters.next());
            }
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            '\\' => written.push_str("\\\\"),
            _ if character == quote => written.extend(['\\', quote]),
            _ if is_printable(character) => written.push(character),
            _ => {
                let code = character as u32;
                // Writing into a string cannot fail.
                let _ = match code {
                    0..0x100 => write!(written, "\\x{code:02x}"),
                    0x100..0x1_0000 => write!(written, "\\u{code:04x}"),
                    _ => write!(written, "\\U{code:08x}"),
                };
            }
        }
    }
    written.push(quote);
    written
}

/// `str.isprintable` of a character. Rust escapes the same ones where they are not the first, and combining ones where they are.
pub(super) fn is_printable(character: char) -> bool {
    character.is_ascii_graphic() || character == ' ' || {
        let shown = format!("{:?}", format!("a{character}"));
        !shown.contains('\\')
    }
}

/// `str.isspace` of a character: Unicode's white space, and four control characters.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Which ends of a text are stripped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Both,
    Left,
    Right,
}

/// `str.strip` and its sisters.
pub(super) fn strip<'t>(mut text: &'t str, chars: Option<&str>, ends: Ends) -> &'t str {
    let stripped = |character: char| chars.map_or_else(|| is_space(character), |chars| chars.contains(character));
    if ends != Ends::Right {
        text = text.trim_start_matches(stripped);
    }
    if ends != Ends::Left {
        text = text.trim_end_matches(stripped);
    }
    text
}

/// `str.splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(end) = rest.find(ends) else {
            lines.push(rest);
            break;
        };
        let width =
            if rest[end..].starts_with("\r\n") { 2 } else { rest[end..].chars().next().map_or(1, char::len_utf8) };
        lines.push(if keep_ends { &rest[..end + width] } else { &rest[..end] });
        rest = &rest[end + width..];
    }
    lines
}

/// `str.title`: a capital behind each character that has no case.
pub(super) fn title(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut begins = true;
    // Lower case depends on what stands around: the sigma at the end of a word.
    let mut word = String::new();
    for character in text.chars() {
        let cased = character.is_lowercase() || character.is_uppercase() || title_case(character).is_some();
        if cased && !begins {
            word.push(character);
            continue;
        }
        written.push_str(&word.to_lowercase());
        word.clear();
        if cased {
            written.push_str(&capital(character));
        } else {
            written.push(character);
        }
        begins = !cased;
    }
    written + &word.to_lowercase()
}

/// A character in title case.
fn capital(character: char) -> String {
    if let Some(title) = title_case(character) {
        return title.to_string();
    }
    let mut upper = character.to_uppercase();
    let first: String = upper.next().into_iter().collect();
    // `ß` begins as `Ss`.
    first + &upper.flat_map(char::to_lowercase).collect::<String>()
}

/// The title case of letters for which it is neither the letter nor its upper case.
fn title_case(character: char) -> Option<char> {
    let shifted = |by: u32| char::from_u32(character as u32 + by);
    match character {
        'Ǆ'..='ǆ' => Some('ǅ'),
        'Ǉ'..='ǉ' => Some('ǈ'),
        'Ǌ'..='ǌ' => Some('ǋ'),
        'Ǳ'..='ǳ' => Some('ǲ'),
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => shifted(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => shifted(9),
        '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | 'ᾼ' | 'ῌ' | 'ῼ' => {
            Some(character)
        }
        _ => None,
    }
}
