//! Jinja's filters and tests, where the template engine has others or none.

use std::sync::LazyLock;

use minijinja::{
    Error, ErrorKind, State, Value, filters,
    value::{Rest, Tuple, ValueKind, ValueOrKwargs},
};
use regex::Regex;

use super::{
    iterators::is_placeless,
    limits,
    methods::centered,
    printf,
    python::{self, Ends, as_float, bind, is_namespace, lines, refused, strip},
};

type Args = Rest<ValueOrKwargs>;

/// Puts Jinja's filters and tests into an environment.
pub(super) fn register(environment: &mut minijinja::Environment) {
    environment.add_filter("tojson", |value: &Value, args: Args| super::json::to_json(value, &args.into_values()));
    environment.add_filter("string", |value: &Value| {
        let text = python::text(value);
        limits::check_written(text.len()).map(|()| text)
    });
    environment.add_filter("join", join);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("attr", attr);
    environment.add_filter("format", |state: &mut State, format: &str, args: Args| {
        let args = args.into_values();
        let named = args.first().filter(|first| first.is_kwargs()).cloned();
        printf::format(state, format, &named.unwrap_or_else(|| Value::from(Tuple::from(args))))
    });
    register_filters_of_texts(environment);
    // Python's layout of long values is its own, the others are the engine's.
    for filter in ["pprint", "split", "lines", "bool", "chain", "zip"] {
        environment.remove_filter(filter);
    }
    environment.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map && !is_namespace(value));
    environment.add_test("sequence", |value: &Value| is_sequence(value));
    environment.add_test("iterable", |value: &Value| is_sequence(value) || is_placeless(value));
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    for test in ["startingwith", "endingwith"] {
        environment.remove_test(test);
    }
}

/// Filters that take lists and the like for the texts that they are written as, which is paid for by its length.
fn register_filters_of_texts(environment: &mut minijinja::Environment) {
    for (name, filter) in [
        ("trim", Value::from_function(trim)),
        ("title", Value::from_function(|value: &Value| title(&python::text(value)))),
        ("center", Value::from_function(center)),
        ("indent", Value::from_function(indent)),
        ("replace", Value::from_function(replace)),
        ("escape", Value::from_function(escape)),
        ("e", Value::from_function(escape)),
        ("wordcount", Value::from_function(|value: &Value| word_count(&python::text(value)))),
        ("truncate", Value::from_function(truncate)),
        ("upper", Value::from_function(filters::upper)),
        ("lower", Value::from_function(filters::lower)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("safe", Value::from_function(filters::safe)),
    ] {
        environment.add_filter(name, move |state: &mut State, args: Args| {
            let args = args.into_values();
            let shown = |arg: &Value| if arg.is_kwargs() { Ok(arg.clone()) } else { limits::shown(state, arg) };
            let args = args.iter().map(shown).collect::<Result<Vec<_>, Error>>()?;
            filter.call(state, &args)
        });
    }
}

/// Whether a value has a length and elements: strings and mappings, too, and what is not defined.
fn is_sequence(value: &Value) -> bool {
    let kinds = [ValueKind::Undefined, ValueKind::String, ValueKind::Seq, ValueKind::Iterable, ValueKind::Map];
    kinds.contains(&value.kind()) && !is_namespace(value) && !is_placeless(value)
}

fn trim(value: &Value, args: Args) -> Result<String, Error> {
    let [chars] = bind(&args.into_values(), ["chars"])?;
    let chars = chars.filter(|chars| !chars.is_none()).map(|chars| python::text(&chars));
    Ok(strip(&python::text(value), chars.as_deref(), Ends::Both).to_owned())
}

/// A capital behind each hyphen, opening bracket and white space.
fn title(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut word = String::new();
    for character in text.chars() {
        if "-({[<".contains(character) || python::is_space(character) {
            written.push_str(&capitalized(&word));
            word.clear();
            written.push(character);
        } else {
            word.push(character);
        }
    }
    written + &capitalized(&word)
}

fn capitalized(word: &str) -> String {
    let mut characters = word.chars();
    let first: String = characters.next().map(char::to_uppercase).into_iter().flatten().collect();
    first + &characters.as_str().to_lowercase()
}

fn center(value: &Value, args: Args) -> Result<String, Error> {
    let [width] = bind(&args.into_values(), ["width"])?;
    let width = width.map(usize::try_from).transpose()?.unwrap_or(80);
    Ok(centered(&python::text(value), width, ' '))
}

fn indent(value: &Value, args: Args) -> Result<String, Error> {
    let [width, first, blank] = bind(&args.into_values(), ["width", "first", "blank"])?;
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indentation = match &width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(i64::try_from(width.clone())?.clamp(0, 1024) as usize),
        },
    };
    let (first, blank) = (is_true(first), is_true(blank));
    let text = python::text(value) + "\n";
    let mut written = String::new();
    for (index, line) in lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            limits::push(&mut written, "\n")?;
        }
        let indented = if index == 0 { first } else { blank || !line.is_empty() };
        if indented {
            limits::push(&mut written, &indentation)?;
        }
        limits::push(&mut written, line)?;
    }
    Ok(written)
}

/// Escapes as `markupsafe` does, and once only.
fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let mut written = String::new();
    for character in python::text(value).chars() {
        match character {
            '&' => written.push_str("&amp;"),
            '<' => written.push_str("&lt;"),
            '>' => written.push_str("&gt;"),
            '\'' => written.push_str("&#39;"),
            '"' => written.push_str("&#34;"),
            _ => written.push(character),
        }
    }
    limits::check_written(written.len())?;
    Ok(Value::from_safe_string(written))
}

fn replace(value: &Value, args: Args) -> Result<String, Error> {
    let [old, new, count] = bind(&args.into_values(), ["old", "new", "count"])?;
    let given = |value: Option<Value>| value.map(|value| python::text(&value)).ok_or(ErrorKind::MissingArgument);
    let (text, old, new) = (python::text(value), given(old)?, given(new)?);
    let count = count.filter(|count| !count.is_none()).map(i64::try_from).transpose()?;
    // Any number of times, if negative.
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let replaced = text.matches(&old).take(count).count();
    limits::check_written(text.len().saturating_add(replaced.saturating_mul(new.len())))?;
    Ok(text.replacen(&old, &new, count))
}

fn word_count(text: &str) -> usize {
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());
    WORDS.as_ref().map_or(0, |words| words.find_iter(text).count())
}

fn truncate(value: &Value, args: Args) -> Result<String, Error> {
    let [length, kill_words, end, leeway] = bind(&args.into_values(), ["length", "killwords", "end", "leeway"])?;
    let length = length.map(usize::try_from).transpose()?.unwrap_or(255);
    let leeway = leeway.filter(|leeway| !leeway.is_none()).map(usize::try_from).transpose()?.unwrap_or(5);
    let end = end.map_or_else(|| "...".to_owned(), |end| python::text(&end));
    let text = python::text(value);
    let kept = length.checked_sub(end.chars().count());
    let kept = kept.ok_or_else(|| refused(format!("truncate: found length {length}, which {end:?} alone exceeds")))?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let byte = text.char_indices().nth(kept).map_or(text.len(), |(byte, _)| byte);
    let cut = &text[..byte];
    let words = if kill_words.is_some_and(|kill| kill.is_true()) { None } else { cut.rsplit_once(' ') };
    Ok(words.map_or(cut, |(words, _)| words).to_owned() + &end)
}

fn join(state: &mut State, value: &Value, args: Args) -> Result<String, Error> {
    let [separator, attribute] = bind(&args.into_values(), ["d", "attribute"])?;
    let separator = separator.map_or_else(String::new, |separator| python::text(&separator));
    let attribute = attribute.filter(|attribute| !attribute.is_none());
    let parts = match attribute {
        None => value.clone(),
        Some(attribute) => {
            let kwargs: minijinja::value::Kwargs = [("attribute", attribute)].into_iter().collect();
            state.apply_filter("map", &[value.clone(), kwargs.into()])?
        }
    };
    if value.is_undefined() {
        return Ok(String::new());
    }
    let mut joined = String::new();
    for (index, part) in parts.try_iter()?.enumerate() {
        if index > 0 {
            limits::push(&mut joined, &separator)?;
        }
        limits::push(&mut joined, &python::text(&part))?;
    }
    Ok(joined)
}

fn default(value: &Value, args: Args) -> Result<Value, Error> {
    let [default, boolean] = bind(&args.into_values(), ["default_value", "boolean"])?;
    let replaced = value.is_undefined() || (boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true());
    Ok(if replaced { default.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// A number without the underscores that may stand between its digits, and without white space around.
fn number_text(text: &str) -> Result<String, Error> {
    let text = strip(text, None, Ends::Both);
    if text.chars().any(|character| character.is_numeric() && !character.is_ascii()) {
        return Err(refused(format!("found {text:?}, expected a number in ASCII digits")));
    }
    let bytes = text.as_bytes();
    let is_digit = |index: Option<usize>| index.and_then(|index| bytes.get(index)).is_some_and(u8::is_ascii_hexdigit);
    let mut written = text.to_owned();
    let mut index = 0_usize;
    written.retain(|character| {
        let between = character == '_' && is_digit(index.checked_sub(1)) && is_digit(Some(index + 1));
        index += character.len_utf8();
        !between
    });
    Ok(written)
}

fn int(value: &Value, args: Args) -> Result<Value, Error> {
    let [default, base] = bind(&args.into_values(), ["default", "base"])?;
    let base = base.map(u32::try_from).transpose()?.unwrap_or(10);
    let prefix = match base {
        2 => ["0b", "0B"],
        8 => ["0o", "0O"],
        16 => ["0x", "0X"],
        3..=36 => [""; 2],
        _ => return Err(refused(format!("int: found base {base}, expected 2 to 36"))),
    };
    let truncated = |float: f64| float.is_finite().then(|| Value::from(float.trunc() as i128));
    let parsed = |text: &str| {
        let (sign, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => (if text.starts_with('-') { -1 } else { 1 }, digits),
            None => (1, text),
        };
        let bare = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
        let whole = if bare.starts_with(['-', '+']) { None } else { i128::from_str_radix(bare, base).ok() };
        whole.map(|whole| Value::from(sign * whole)).or_else(|| truncated(text.parse().ok()?))
    };
    let whole = match (value.kind(), value.as_str()) {
        (_, Some(text)) => parsed(&number_text(text)?),
        (ValueKind::Bool, _) => Some(Value::from(i64::from(value.is_true()))),
        (ValueKind::Number, _) => as_float(value).map_or_else(|| Some(value.clone()), truncated),
        _ => None,
    };
    Ok(whole.or(default).unwrap_or_else(|| Value::from(0)))
}

fn float(value: &Value, args: Args) -> Result<Value, Error> {
    let [default] = bind(&args.into_values(), ["default"])?;
    let float = match (value.kind(), value.as_str()) {
        (_, Some(text)) => number_text(text)?.parse::<f64>().ok(),
        (ValueKind::Bool, _) => Some(f64::from(u8::from(value.is_true()))),
        (ValueKind::Number, _) => f64::try_from(value.clone()).ok(),
        _ => None,
    };
    Ok(float.map(Value::from).or(default).unwrap_or_else(|| Value::from(0.0)))
}

/// Attributes alone: the elements of a mapping are none.
fn attr(value: &Value, name: &str) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map if !is_namespace(value) => Ok(Value::UNDEFINED),
        _ => value.get_attr(name),
    }
}
