//! Methods of Python's strings, lists and dictionaries, beside those that `minijinja_contrib` has.

use std::sync::LazyLock;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Tuple, ValueKind},
};
use minijinja_contrib::pycompat;
use regex::Regex;

use super::iterators::View;
use super::limits;
use super::python::{Ends, bind, is_printable, is_space, lines, refused, strip, title};

/// Calls a method that the template engine itself does not know.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => limits::read(state, text)?,
        // What is looked for is compared with each element.
        None => args.iter().try_for_each(limits::sought)?,
    }
    let called = match (value.kind(), value.as_str()) {
        // Brackets in it reach into what is shown.
        (_, Some(format)) if method == "format" && !format.contains('[') => {
            let args = shown(state, args)?;
            let longest = args.iter().map(longest).max().unwrap_or(0);
            limits::check_written(format.matches('{').count().saturating_mul(longest))?;
            return pycompat::unknown_method_callback(state, value, method, &args);
        }
        (_, Some(text)) => of_text(text, method, args)?,
        (ValueKind::Seq | ValueKind::Iterable, _) => of_list(value, method, args)?,
        (ValueKind::Map, _) => of_map(value, method, args)?,
        _ => None,
    };
    called.map_or_else(|| pycompat::unknown_method_callback(state, value, method, args), Ok)
}

/// Arguments of `str.format`, whose lists and the like the engine would write in its own way.
fn shown(state: &State, args: &[Value]) -> Result<Vec<Value>, Error> {
    let named = |kwargs: &Value| -> Result<Value, Error> {
        let value = |name: Value| Ok((name.to_string(), limits::shown(state, &kwargs.get_item(&name)?)?));
        let shown: Result<Kwargs, Error> = kwargs.try_iter()?.map(value).collect();
        Ok(shown?.into())
    };
    args.iter().map(|value| if value.is_kwargs() { named(value) } else { limits::shown(state, value) }).collect()
}

/// The length of the longest text among an argument, or the arguments that are given by name.
fn longest(arg: &Value) -> usize {
    let length = |value: &Value| value.as_str().map_or(0, str::len);
    if !arg.is_kwargs() {
        return length(arg);
    }
    let named = arg.try_iter().into_iter().flatten();
    named.map(|name| arg.get_item(&name).map_or(0, |value| length(&value))).max().unwrap_or(0)
}

fn of_map(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let keys = || value.try_iter();
    let element = |key: &Value| value.get_item(key);
    let elements = match method {
        "copy" => return bind(args, []).map(|[]| Some(value.clone())),
        "keys" => View::value("keys", keys()?.collect()),
        "values" => View::value("values", keys()?.map(|key| element(&key)).collect::<Result<_, _>>()?),
        "items" => {
            let pair = |key: Value| Ok::<_, Error>(Value::from(Tuple::from([key.clone(), element(&key)?])));
            View::value("items", keys()?.map(pair).collect::<Result<_, _>>()?)
        }
        _ => return Ok(None),
    };
    bind(args, []).map(|[]| Some(elements))
}

fn of_list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => {
            let [] = bind(args, [])?;
            value.clone()
        }
        "index" => {
            let [what] = bind(args, [""])?;
            let what = what.ok_or(ErrorKind::MissingArgument)?;
            let place = value.try_iter()?.position(|element| element == what);
            Value::from(place.ok_or_else(|| refused("index: the list does not have that element"))?)
        }
        _ => return Ok(None),
    }))
}

fn of_text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => stripped(text, method, args)?,
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "partition" | "rpartition" => partitioned(text, method == "rpartition", args)?,
        "splitlines" => {
            let [keep_ends] = bind(args, ["keepends"])?;
            list(lines(text, keep_ends.is_some_and(|keep| keep.is_true())))
        }
        "startswith" | "endswith" => Value::from(has_affix(text, method == "endswith", args)?),
        "find" | "rfind" | "index" | "rindex" => found(text, method, args)?,
        "removeprefix" | "removesuffix" => {
            let [affix] = bind(args, [""])?;
            let affix = expect_text(affix.as_ref())?;
            let rest = if method == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Value::from(rest.unwrap_or(text))
        }
        "join" => joined(text, args)?,
        "center" | "ljust" | "rjust" | "zfill" => padded(text, method, args)?,
        "title" | "swapcase" => {
            let [] = bind(args, [])?;
            Value::from(if method == "title" { title(text) } else { swap_case(text) })
        }
        _ => return is_method(text, method, args),
    }))
}

fn list<'t>(parts: impl IntoIterator<Item = &'t str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn expect_text(value: Option<&Value>) -> Result<&str, Error> {
    let value = value.ok_or(ErrorKind::MissingArgument)?;
    value.as_str().ok_or_else(|| refused(format!("found a {}, expected a string", value.kind())))
}

/// A text that may be absent or none.
fn optional_text(value: Option<&Value>) -> Result<Option<&str>, Error> {
    value.filter(|value| !value.is_none()).map(|value| expect_text(Some(value))).transpose()
}

fn stripped(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let [chars] = bind(args, [""])?;
    let ends = match method {
        "lstrip" => Ends::Left,
        "rstrip" => Ends::Right,
        _ => Ends::Both,
    };
    Ok(Value::from(strip(text, optional_text(chars.as_ref())?, ends)))
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let [separator, most] = bind(args, ["sep", "maxsplit"])?;
    let most = most.map(i64::try_from).transpose()?.unwrap_or(-1);
    // No limit below zero.
    let pieces = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let Some(separator) = optional_text(separator.as_ref())? else {
        return Ok(list(words(text, from_right, pieces)));
    };
    if separator.is_empty() {
        return Err(refused("split: empty separator"));
    }
    if !from_right {
        return Ok(list(text.splitn(pieces, separator)));
    }
    let mut parts: Vec<_> = text.rsplitn(pieces, separator).collect();
    parts.reverse();
    Ok(list(parts))
}

/// Splits at white space; what is left once there are enough pieces keeps its own, but not at its ends.
fn words(text: &str, from_right: bool, pieces: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = strip(text, None, Ends::Both);
    while !rest.is_empty() {
        let border = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match border.filter(|_| words.len() + 1 < pieces) {
            None => {
                words.push(rest);
                break;
            }
            Some(border) if from_right => {
                let width = rest[border..].chars().next().map_or(1, char::len_utf8);
                words.push(&rest[border + width..]);
                rest = strip(&rest[..border], None, Ends::Right);
            }
            Some(border) => {
                words.push(&rest[..border]);
                rest = strip(&rest[border..], None, Ends::Left);
            }
        }
    }
    if from_right {
        words.reverse();
    }
    words
}

fn partitioned(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let [separator] = bind(args, [""])?;
    let separator = expect_text(separator.as_ref())?;
    if separator.is_empty() {
        return Err(refused("partition: empty separator"));
    }
    let parts = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match (parts, from_right) {
        (Some((before, behind)), _) => [before, separator, behind],
        (None, true) => ["", "", text],
        (None, false) => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// The part of a text between two places, counted in characters and from its end if negative, and where it begins.
fn within<'t>(text: &'t str, start: Option<&Value>, end: Option<&Value>) -> Result<Option<(usize, &'t str)>, Error> {
    let length = text.chars().count();
    let place = |place: Option<&Value>, default: usize| -> Result<usize, Error> {
        let Some(place) = place.filter(|place| !place.is_none()) else { return Ok(default) };
        let place = i64::try_from(place.clone())?;
        let from_end = length.saturating_sub(place.unsigned_abs() as usize);
        Ok(if place < 0 { from_end } else { place as usize })
    };
    let (start, end) = (place(start, 0)?, place(end, length)?.min(length));
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(byte, _)| byte);
    Ok((start <= end).then(|| (start, &text[byte(start)..byte(end)])))
}

fn has_affix(text: &str, at_end: bool, args: &[Value]) -> Result<bool, Error> {
    let [affix, start, end] = bind(args, [""; 3])?;
    let affix = affix.ok_or(ErrorKind::MissingArgument)?;
    let Some((_, text)) = within(text, start.as_ref(), end.as_ref())? else { return Ok(false) };
    let has = |affix: &Value| {
        let affix = expect_text(Some(affix))?;
        Ok(if at_end { text.ends_with(affix) } else { text.starts_with(affix) })
    };
    if !affix.is_tuple() {
        return has(&affix);
    }
    let found: Result<Vec<_>, Error> = affix.try_iter()?.map(|affix| has(&affix)).collect();
    Ok(found?.contains(&true))
}

fn found(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let [what, start, end] = bind(args, [""; 3])?;
    let what = expect_text(what.as_ref())?;
    let within = within(text, start.as_ref(), end.as_ref())?;
    let place = within.and_then(|(start, text)| {
        let byte = if method.starts_with('r') { text.rfind(what) } else { text.find(what) };
        byte.map(|byte| start + text[..byte].chars().count())
    });
    match place {
        Some(place) => Ok(Value::from(place)),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(refused(format!("{method}: substring not found"))),
    }
}

fn joined(separator: &str, args: &[Value]) -> Result<Value, Error> {
    let [parts] = bind(args, [""])?;
    let mut joined = String::new();
    for (index, part) in parts.ok_or(ErrorKind::MissingArgument)?.try_iter()?.enumerate() {
        if index > 0 {
            limits::push(&mut joined, separator)?;
        }
        limits::push(&mut joined, expect_text(Some(&part))?)?;
    }
    Ok(Value::from(joined))
}

/// How wide a text may be made.
const WIDEST: usize = 1 << 16;

/// `str.center`, where Python puts the odd character.
pub(super) fn centered(text: &str, width: usize, fill: char) -> String {
    let missing = width.min(WIDEST).saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    let filled = |count| std::iter::repeat_n(fill, count).collect::<String>();
    format!("{}{text}{}", filled(left), filled(missing - left))
}

fn padded(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let [width, fill] = bind(args, [""; 2])?;
    let width = usize::try_from(i64::try_from(width.ok_or(ErrorKind::MissingArgument)?)?.max(0)).unwrap_or(0);
    let mut fill = optional_text(fill.as_ref())?.unwrap_or(" ").chars();
    let (Some(fill), None) = (fill.next(), fill.next()) else {
        return Err(refused(format!("{method}: expected one character to fill with")));
    };
    let missing = width.min(WIDEST).saturating_sub(text.chars().count());
    let filled = |fill: char| std::iter::repeat_n(fill, missing).collect::<String>();
    Ok(Value::from(match method {
        "center" => centered(text, width, fill),
        "ljust" => format!("{text}{}", filled(fill)),
        "rjust" => format!("{}{text}", filled(fill)),
        _ => {
            let sign = usize::from(text.starts_with(['-', '+']));
            format!("{}{}{}", &text[..sign], filled('0'), &text[sign..])
        }
    }))
}

fn swap_case(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_uppercase() {
            swapped.extend(character.to_lowercase());
        } else {
            swapped.extend(character.to_uppercase());
        }
    }
    swapped
}

/// Methods that ask what characters are, whose answers `minijinja_contrib` approximates.
fn is_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    static LETTERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}+$").ok());
    static ALPHANUMERIC: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}]+$").ok());
    static DECIMALS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}+$").ok());
    let matches = |pattern: &Option<Regex>| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    let is = match method {
        "isalpha" => matches(&LETTERS),
        "isalnum" => matches(&ALPHANUMERIC),
        "isdecimal" => matches(&DECIMALS),
        "isdigit" | "isnumeric" if text.is_ascii() => matches(&DECIMALS),
        "isdigit" | "isnumeric" => return Err(refused(format!("{method} of other than ASCII text is not supported"))),
        "isspace" => !text.is_empty() && text.chars().all(is_space),
        "isprintable" => text.chars().all(is_printable),
        _ => return Ok(None),
    };
    let [] = bind(args, [])?;
    Ok(Some(Value::from(is)))
}
