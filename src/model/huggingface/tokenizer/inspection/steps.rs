//! The steps of a normalizer, pre-tokenizer, post-processor or decoder.

use serde_json::{Map, Value};

/// Sequences within sequences.
const MAX_NESTING: usize = 8;
/// Steps of one part, all sequences together.
const MAX_STEPS: usize = 128;
/// Longest regular expression or text that is looked for, in bytes.
const MAX_PATTERN_BYTES: usize = 8192;
/// Deepest parentheses of a regular expression: it is compiled by recursion.
const MAX_PARENTHESES: usize = 100;
/// Longest text that is put in, in bytes.
const MAX_CONTENT_BYTES: usize = 1024;
/// What the replacements of a decoder may make of a byte, taken together.
const MAX_GROWTH: usize = 4096;
/// Largest count, for example of characters that are cut off.
const MAX_COUNT: u64 = 1 << 24;

/// Checks the part under `key`.
pub(super) fn check(key: &str, part: &Value) -> Result<(), String> {
    let mut walk = Walk { steps: 0, growth: 1 };
    walk.value(key, part, 0)?;
    if key == "decoder" && walk.growth > MAX_GROWTH {
        let growth = walk.growth;
        return Err(format!(
            "{key}: found replacements that make {growth} bytes of one, expected at most {MAX_GROWTH}"
        ));
    }
    Ok(())
}

struct Walk {
    steps: usize,
    growth: usize,
}

impl Walk {
    fn value(&mut self, path: &str, value: &Value, depth: usize) -> Result<(), String> {
        match value {
            Value::Object(fields) => self.fields(path, fields, depth),
            Value::Array(values) => values
                .iter()
                .enumerate()
                .try_for_each(|(index, value)| self.value(&format!("{path}[{index}]"), value, depth)),
            Value::Number(found) if found.as_u64().is_some_and(|found| found > MAX_COUNT) => {
                Err(format!("{path}: found {found}, expected at most {MAX_COUNT}"))
            }
            _ => Ok(()),
        }
    }

    fn fields(&mut self, path: &str, fields: &Map<String, Value>, depth: usize) -> Result<(), String> {
        if let Some(kind) = fields.get("type") {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(format!("{path}: found more than {MAX_STEPS} steps"));
            }
            if kind == "FixedLength" && fields.get("length").is_some_and(|length| length == 0) {
                return Err(format!("{path}.length: found 0, expected at least 1"));
            }
        }
        if depth > MAX_NESTING {
            return Err(format!("{path}: found steps nested more than {MAX_NESTING} deep"));
        }
        for (key, value) in fields {
            let path = format!("{path}.{key}");
            match (key.as_str(), value) {
                ("Regex", Value::String(pattern)) => check_regex(&path, pattern)?,
                ("String", Value::String(pattern)) => check_length(&path, pattern, MAX_PATTERN_BYTES)?,
                ("precompiled_charsmap", Value::String(charsmap)) => {
                    check_charsmap(charsmap).map_err(|problem| format!("{path}: {problem}"))?;
                }
                (_, Value::String(text)) => {
                    check_length(&path, text, MAX_CONTENT_BYTES)?;
                    if key == "content" {
                        self.growth = self.growth.saturating_mul(text.len() + 1);
                    }
                }
                _ => self.value(&path, value, depth + 1)?,
            }
        }
        Ok(())
    }
}

fn check_length(path: &str, text: &str, max: usize) -> Result<(), String> {
    if text.len() > max {
        return Err(format!("{path}: found {} bytes, expected at most {max}", text.len()));
    }
    Ok(())
}

fn check_regex(path: &str, pattern: &str) -> Result<(), String> {
    check_length(path, pattern, MAX_PATTERN_BYTES)?;
    let (mut open, mut deepest, mut characters) = (0_usize, 0, pattern.chars());
    while let Some(character) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '(' | '[' => open += 1,
            ')' | ']' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    if deepest > MAX_PARENTHESES {
        return Err(format!("{path}: found {deepest} nested parentheses, expected at most {MAX_PARENTHESES}"));
    }
    Ok(())
}

/// The map of `SentencePiece`: the bytes of a trie of 32-bit units, how many there are before them, and the texts that the trie
/// points to behind them.
fn check_charsmap(charsmap: &str) -> Result<(), String> {
    let bytes = decode_base64(charsmap).ok_or("found something else than base64")?;
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(format!("found {} bytes, expected a trie's length in the first 4", bytes.len()));
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || !length.is_multiple_of(4) || length > rest.len() {
        return Err(format!(
            "found a trie of {length} bytes, expected a positive multiple of 4 up to the {} bytes that follow",
            rest.len()
        ));
    }
    if std::str::from_utf8(&rest[length..]).is_err() {
        return Err("found texts behind the trie that are not UTF-8".to_owned());
    }
    Ok(())
}

/// Decodes base64 with padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let symbols = text.trim_end_matches('=').bytes();
    if !text.len().is_multiple_of(4) || text.len() - symbols.len() > 2 {
        return None;
    }
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in symbols {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode_base64("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(decode_base64("/////w=="), Some(vec![0xff; 4]));
        assert_eq!((decode_base64("a"), decode_base64("a==="), decode_base64("!!!!")), (None, None, None));
    }

    #[test]
    fn steps_that_ask_for_too_much_are_refused_by_their_place() {
        let mut nested = json!({"type": "NFC"});
        for _ in 0..20 {
            nested = json!({"type": "Sequence", "normalizers": [nested]});
        }
        let replace = |content: &str| json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
        let cases = [
            (json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}), "found a trie of 4294967295 bytes"),
            (json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}), "found a trie of 0 bytes"),
            (json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAD/"}), "not UTF-8"),
            (json!({"type": "Precompiled", "precompiled_charsmap": "AAA"}), "something else than base64"),
            (
                json!({"type": "Strip", "content": "a", "start": 0, "stop": 1_u64 << 60}),
                "part.stop: found 1152921504606846976",
            ),
            (json!({"type": "FixedLength", "length": 0}), "part.length: found 0"),
            (nested, "nested more than 8 deep"),
            (json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 200]}), "more than 128 steps"),
            (
                json!([{"type": "Split", "pattern": {"Regex": "(".repeat(101)}}]),
                "part[0].pattern.Regex: found 101 nested",
            ),
            (
                json!({"type": "Split", "pattern": {"Regex": "a".repeat(8193)}}),
                "found 8193 bytes, expected at most 8192",
            ),
            (replace(&"x".repeat(1025)), "part.content: found 1025 bytes"),
        ];
        for (part, expected) in cases {
            let error = check("part", &part).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let twice = json!([replace(&"x".repeat(99)), replace(&"x".repeat(99))]);
        assert!(check("decoder", &twice).unwrap_err().starts_with("decoder: found replacements that make 10000 bytes"));
        assert_eq!(check("normalizer", &twice), Ok(()));
        let llama3 =
            json!({"type": "Split", "pattern": {"Regex": "\\((?i:'s|'t)|[^(\\r\\n\\p{L}]?\\p{L}+|\\s+(?!\\S)"}});
        assert_eq!(check("pre_tokenizer", &llama3), Ok(()));
    }
}
