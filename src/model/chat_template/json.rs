//! Python's `json.dumps`, which `transformers` puts in place of Jinja's escaping `tojson`.

use std::fmt::Write;

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

use super::{
    iterators::is_placeless,
    limits,
    marks::MARK,
    python::{DEEPEST, as_float, bind, float_text, refused, text},
};

/// How many bytes an indentation may have.
const WIDEST_INDENT: usize = 64;

/// How the text is laid out.
struct Layout {
    ensure_ascii: bool,
    /// What lines are indented by; without it everything is on one.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn to_json(value: &Value, args: &[Value]) -> Result<String, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = bind(args, names)?;
    let given = |option: Option<Value>| option.filter(|option| !option.is_none());
    let is_true = |option: Option<Value>| option.is_some_and(|option| option.is_true());
    let indent = given(indent).map(|indent| match indent.as_str() {
        Some(indent) if indent.len() > WIDEST_INDENT => {
            Err(refused(format!("tojson: indent of {} bytes", indent.len())))
        }
        Some(indent) => Ok(indent.to_owned()),
        None => i64::try_from(indent.clone()).map(|width| " ".repeat(width.clamp(0, WIDEST_INDENT as i64) as usize)),
    });
    let indent = indent.transpose()?;
    let separators = given(separators).map(|separators| separators.try_iter()).transpose()?;
    let separators: Option<Vec<_>> = separators.map(|separators| separators.map(|part| text(&part)).collect());
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(refused("tojson: separators: expected two texts")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let layout = Layout {
        ensure_ascii: is_true(ensure_ascii),
        indent,
        item_separator,
        key_separator,
        sort_keys: is_true(sort_keys),
    };
    let mut text = String::new();
    layout.write(&mut text, value, 0)?;
    Ok(text)
}

impl Layout {
    fn write(&self, written: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(refused(format!("tojson: found lists and the like more than {DEEPEST} deep")));
        }
        let kind = value.kind();
        match kind {
            ValueKind::Map => self.write_all(written, ('{', '}'), &self.keys(value)?, depth, |written, key| {
                self.write_string(written, &key_text(key)?);
                limits::push(written, &self.key_separator)?;
                self.write(written, &value.get_item(key)?, depth + 1)
            }),
            ValueKind::Seq | ValueKind::Iterable if !is_placeless(value) => {
                let elements: Vec<_> = value.try_iter()?.collect();
                self.write_all(written, ('[', ']'), &elements, depth, |written, element| {
                    self.write(written, element, depth + 1)
                })
            }
            ValueKind::String => {
                self.write_string(written, value.as_str().unwrap_or_default());
                Ok(())
            }
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                written.push_str(&scalar_text(value));
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::BadSerialization, format!("tojson: {kind} has no JSON form"))),
        }
    }

    fn keys(&self, map: &Value) -> Result<Vec<Value>, Error> {
        let mut keys: Vec<_> = map.try_iter()?.collect();
        if self.sort_keys {
            keys.iter().try_for_each(|key| key_text(key).map(|_| ()))?;
            keys.sort();
        }
        Ok(keys)
    }

    fn write_all(
        &self,
        written: &mut String,
        (open, close): (char, char),
        elements: &[Value],
        depth: usize,
        write: impl Fn(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |written: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                written.push('\n');
                written.push_str(&indent.repeat(depth));
            }
        };
        written.push(open);
        for (index, element) in elements.iter().enumerate() {
            if index > 0 {
                limits::push(written, &self.item_separator)?;
            }
            line(written, depth + 1);
            write(written, element)?;
            limits::check_written(written.len())?;
        }
        if !elements.is_empty() {
            line(written, depth);
        }
        written.push(close);
        Ok(())
    }

    /// Marks stay what they are.
    fn write_string(&self, written: &mut String, text: &str) {
        written.push('"');
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                MARK => {
                    written.push(MARK);
                    written.extend(characters.next());
                }
                '"' => written.push_str("\\\""),
                '\\' => written.push_str("\\\\"),
                '\n' => written.push_str("\\n"),
                '\r' => written.push_str("\\r"),
                '\t' => written.push_str("\\t"),
                '\u{8}' => written.push_str("\\b"),
                '\u{c}' => written.push_str("\\f"),
                '\0'..='\x1f' => write_escaped(written, character),
                '\x7f'.. if self.ensure_ascii => write_escaped(written, character),
                _ => written.push(character),
            }
        }
        written.push('"');
    }
}

fn write_escaped(written: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing into a string cannot fail.
        let _ = write!(written, "\\u{unit:04x}");
    }
}

/// What is no string and has no parts.
fn scalar_text(value: &Value) -> String {
    match as_float(value) {
        Some(float) if float.is_nan() => "NaN".to_owned(),
        Some(float) if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Some(float) => float_text(float),
        None if value.is_none() => "null".to_owned(),
        None if value.kind() == ValueKind::Bool => value.is_true().to_string(),
        None => value.to_string(),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => Ok(scalar_text(key)),
        kind => Err(Error::new(ErrorKind::BadSerialization, format!("tojson: {kind} cannot be a key"))),
    }
}
