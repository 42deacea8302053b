//! Escapes in strings, of which the template engine knows fewer than Jinja.

use std::borrow::Cow;

/// A string with the escapes that the template engine knows.
pub(super) fn literal(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.contains('\\') {
        return Ok(Cow::Borrowed(text));
    }
    let mut written = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(backslash) = rest.find('\\') {
        written.push_str(&rest[..backslash]);
        let (escape, length) = escape(&rest[backslash..]).map_err(|problem| format!("string {text}: {problem}"))?;
        written.push_str(&escape);
        rest = &rest[backslash + length..];
    }
    Ok(Cow::Owned(written + rest))
}

/// What the escape that `source` begins with is written as, and its length.
fn escape(source: &str) -> Result<(String, usize), String> {
    let Some(letter) = source[1..].chars().next() else { return Ok((source.to_owned(), 1)) };
    let width = 1 + letter.len_utf8();
    let digits = match letter {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        'N' => return Err("names of characters (\\N) are not supported".to_owned()),
        '\n' => return Ok((String::new(), width)),
        'a' => return Ok(("\\x07".to_owned(), width)),
        'v' => return Ok(("\\x0b".to_owned(), width)),
        // In Python a slash needs no escape, and the backslash stays.
        '/' => return Ok(("\\\\/".to_owned(), width)),
        _ if letter.is_ascii() => return Ok((source[..width].to_owned(), width)),
        // Python's decoder sees other letters as escapes of their own, behind an escaped backslash.
        _ => {
            let code = u32::from(letter);
            let escape = match code {
                0..0x100 => format!("\\\\x{code:02x}"),
                0x100..0x1_0000 => format!("\\\\u{code:04x}"),
                _ => format!("\\\\U{code:08x}"),
            };
            return Ok((escape, width));
        }
    };
    let code = source.get(2..2 + digits).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let character = code.and_then(char::from_u32).ok_or_else(|| {
        let found: String = source.chars().take(2 + digits).collect();
        format!("found {found:?}, expected the code of a character in {digits} digits")
    })?;
    // As it is where that can be read, so that special tokens in it are found.
    let escape = match character {
        '\'' | '"' | '\\' | ..' ' | '\x7f' => format!("\\x{:02x}", u32::from(character)),
        _ => character.to_string(),
    };
    Ok((escape, 2 + digits))
}
