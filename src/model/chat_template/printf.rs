//! Python's `format % values`.

use minijinja::{
    Error, State, Value,
    formatting::{self, FormatStyle},
    value::ValueKind,
};

use super::{
    limits,
    python::{as_float, refused, repr, text},
};

/// One conversion: `%[(key)][flags][width][.precision]type`.
struct Conversion<'f> {
    key: Option<&'f str>,
    flags: &'f str,
    width: &'f str,
    precision: Option<&'f str>,
    kind: char,
}

/// Formats a tuple's elements, a mapping's by their keys, or else one value.
pub(super) fn format(state: &State, format: &str, values: &Value) -> Result<Value, Error> {
    let places: Vec<Value> = if values.is_tuple() { values.try_iter()?.collect() } else { vec![values.clone()] };
    let mut unused = places.iter();
    let mut written = String::new();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        written.push_str(&rest[..percent]);
        let (conversion, behind) = Conversion::parse(&rest[percent + 1..])?;
        rest = behind;
        if conversion.kind == '%' {
            written.push('%');
            continue;
        }
        let value = match conversion.key {
            Some(key) if values.kind() == ValueKind::Map => {
                let value = values.get_item(&Value::from(key))?;
                if value.is_undefined() {
                    return Err(refused(format!("%({key}): the mapping does not have that key")));
                }
                value
            }
            Some(key) => return Err(refused(format!("%({key}): expected a mapping"))),
            None => unused.next().cloned().ok_or_else(|| refused("not enough arguments for format string"))?,
        };
        limits::push(&mut written, &conversion.write(state, &value)?)?;
    }
    // A value that has elements may have more than the format asks for.
    let whole = !values.is_tuple() && matches!(values.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable);
    if !whole && unused.next().is_some() {
        return Err(refused("not all arguments converted during string formatting"));
    }
    Ok(Value::from(written + rest))
}

impl<'f> Conversion<'f> {
    /// The conversion behind a percent sign, and what follows it.
    fn parse(source: &'f str) -> Result<(Self, &'f str), Error> {
        let incomplete = || refused("incomplete format");
        let (key, source) = match source.strip_prefix('(') {
            Some(inside) => inside.split_once(')').map(|(key, rest)| (Some(key), rest)).ok_or_else(incomplete)?,
            None => (None, source),
        };
        let (flags, source) = source.split_at(source.find(|c| !"-+ #0".contains(c)).unwrap_or(source.len()));
        let digits =
            |source: &'f str| source.split_at(source.find(|c: char| !c.is_ascii_digit()).unwrap_or(source.len()));
        let (width, source) = digits(source);
        let (precision, source) = match source.strip_prefix('.') {
            Some(source) => {
                let (precision, source) = digits(source);
                (Some(precision), source)
            }
            None => (None, source),
        };
        let source = source.trim_start_matches(['h', 'l', 'L']);
        let kind = source.chars().next().ok_or_else(incomplete)?;
        if width.len() > 4 || precision.is_some_and(|precision| precision.len() > 3) {
            return Err(refused(format!("%{width}{kind}: wider than supported")));
        }
        Ok((Self { key, flags, width, precision, kind }, &source[kind.len_utf8()..]))
    }

    fn write(&self, state: &State, value: &Value) -> Result<String, Error> {
        let shown = match self.kind {
            's' => text(&limits::shown(state, value)?),
            'r' if value.as_str().is_none() => text(&limits::shown(state, value)?),
            'r' => repr(value),
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'c' => {
                return self.write_number(value);
            }
            kind => return Err(refused(format!("%{kind}: expected one of %s, %r, %d, %i, %x, %o, %e, %f, %g, %c"))),
        };
        let most = self.precision.map(|precision| precision.parse().unwrap_or(0));
        let shown: String = shown.chars().take(most.unwrap_or(usize::MAX)).collect();
        let width: usize = self.width.parse().unwrap_or(0);
        Ok(if self.flags.contains('-') { format!("{shown:<width$}") } else { format!("{shown:>width$}") })
    }

    fn write_number(&self, value: &Value) -> Result<String, Error> {
        let kind = if matches!(self.kind, 'i' | 'u') { 'd' } else { self.kind };
        if kind != 'c' && !matches!(value.kind(), ValueKind::Number | ValueKind::Bool) {
            return Err(refused(format!("%{kind}: found a {}, expected a number", value.kind())));
        }
        let value = match as_float(value).filter(|_| kind == 'd') {
            Some(float) => &Value::from(float.trunc() as i128),
            None => value,
        };
        let precision = self.precision.map(|precision| format!(".{precision}")).unwrap_or_default();
        let format = format!("%{}{}{precision}{kind}", self.flags, self.width);
        formatting::format(FormatStyle::Printf, &format, std::slice::from_ref(value))
    }
}
