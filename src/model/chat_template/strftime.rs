//! `strftime` in the C locale, at the one moment that templates get to see.

/// Formats 26 July 2024, midnight. The date of the run would change a template's tokens from day to day; this is the date that
/// Llama 3's templates fall back to.
///
/// # Errors
///
/// Names the conversion that is not one of glibc's, or that depends on the machine.
pub(super) fn strftime(format: &str) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        text.push_str(&rest[..percent]);
        let conversion = &rest[percent..];
        // A lone sign at the end stands for itself.
        if conversion.len() == 1 {
            return Ok(text + conversion);
        }
        let (written, length) = convert(conversion).ok_or_else(|| {
            let found: String = conversion.chars().take(4).collect();
            format!(
                "strftime_now: found {found:?}, expected conversions of C's strftime, such as %d, %B, %Y, %-d or %H:%M"
            )
        })?;
        text.push_str(&written);
        rest = &conversion[length..];
    }
    Ok(text + rest)
}

/// What a conversion stands for.
enum Meaning {
    /// A number, how many digits it has at least, and what fills them.
    Number(u32, usize, char),
    /// A name, and the case that `#` gives it.
    Name(&'static str, Case),
    /// Several conversions in one, or a character.
    Fixed(&'static str),
}

#[derive(Clone, Copy)]
enum Case {
    Lower,
    Upper,
}

fn meaning(code: char) -> Option<Meaning> {
    use Meaning::{Fixed, Name, Number};
    Some(match code {
        'd' => Number(26, 2, '0'),
        'e' => Number(26, 2, ' '),
        'm' => Number(7, 2, '0'),
        'y' | 'g' => Number(24, 2, '0'),
        'Y' | 'G' => Number(2024, 4, '0'),
        'C' => Number(20, 2, '0'),
        'H' | 'M' | 'S' => Number(0, 2, '0'),
        'I' => Number(12, 2, '0'),
        'k' => Number(0, 2, ' '),
        'l' => Number(12, 2, ' '),
        'j' => Number(208, 3, '0'),
        'u' | 'w' => Number(5, 1, '0'),
        'U' => Number(29, 2, '0'),
        'V' | 'W' => Number(30, 2, '0'),
        'a' => Name("Fri", Case::Upper),
        'A' => Name("Friday", Case::Upper),
        'b' | 'h' => Name("Jul", Case::Upper),
        'B' => Name("July", Case::Upper),
        'p' => Name("AM", Case::Lower),
        'P' => Name("am", Case::Lower),
        'c' => Fixed("Fri Jul 26 00:00:00 2024"),
        'D' | 'x' => Fixed("07/26/24"),
        'F' => Fixed("2024-07-26"),
        'T' | 'X' => Fixed("00:00:00"),
        'R' => Fixed("00:00"),
        'r' => Fixed("12:00:00 AM"),
        'n' => Fixed("\n"),
        't' => Fixed("\t"),
        '%' => Fixed("%"),
        _ => return None,
    })
}

/// Codes that locales may write in another way behind `E` and `O`; C's does not.
const ALTERNATIVE: [(char, &str); 2] = [('E', "cCxXyY"), ('O', "bBdehHImMSuUVwWy")];

/// The text of the conversion that `source` begins with, and its length in bytes.
fn convert(source: &str) -> Option<(String, usize)> {
    // Python itself writes these, before C's function sees the rest: a moment without a time zone has none to name.
    for (code, text) in [("%f", "000000"), ("%z", ""), ("%Z", "")] {
        if source.starts_with(code) {
            return Some((text.to_owned(), code.len()));
        }
    }
    let inside = &source[1..];
    let flags = &inside[..inside.find(|c| !"_-0^#".contains(c))?];
    let behind = &inside[flags.len()..];
    let digits = &behind[..behind.find(|c: char| !c.is_ascii_digit())?];
    let mut codes = behind[digits.len()..].chars();
    let mut code = codes.next()?;
    let mut length = 1 + flags.len() + digits.len() + code.len_utf8();
    if let Some((_, allowed)) = ALTERNATIVE.iter().find(|(modifier, _)| *modifier == code) {
        code = codes.next().filter(|code| allowed.contains(*code))?;
        length += code.len_utf8();
    }
    let width: usize = if digits.is_empty() { 0 } else { digits.parse().ok().filter(|width| *width <= 64)? };
    // The last flag about filling counts.
    let filling = flags.chars().rfind(|flag| "_-0".contains(*flag));
    let fill = |usual: char| match filling {
        Some('_' | '-') => ' ',
        Some('0') => '0',
        _ => usual,
    };
    let filled = |text: String, least: usize, usual: char| {
        let least = if filling == Some('-') { width } else { least.max(width) };
        let missing = least.saturating_sub(text.chars().count());
        std::iter::repeat_n(fill(usual), missing).collect::<String>() + &text
    };
    let written = match meaning(code)? {
        Meaning::Number(number, least, usual) => filled(number.to_string(), least, usual),
        Meaning::Name(name, case) => {
            let name = match case {
                Case::Lower if flags.contains('#') => name.to_lowercase(),
                _ if flags.contains(['^', '#']) => name.to_uppercase(),
                _ => name.to_owned(),
            };
            filled(name, 0, ' ')
        }
        Meaning::Fixed(text) if flags.is_empty() && digits.is_empty() => text.to_owned(),
        Meaning::Fixed(_) => return None,
    };
    Some((written, length))
}
