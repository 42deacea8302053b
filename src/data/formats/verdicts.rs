//! Labels as values: 0, 0.0 and "0" are one, as are unsafe and Unsafe.

use fedward_actors::protocol::RowLabel;
use serde_json::Value;

use super::rows::describe;

/// Which values of a label mean what.
pub(super) struct Verdicts<'a> {
    /// Empty where the label says it itself.
    pub(super) unsafe_values: &'a [String],
    /// Empty where every value that is not unsafe means safe.
    pub(super) safe_values: &'a [String],
}

/// A value as it is compared.
#[derive(Clone, Debug, PartialEq)]
enum Plain {
    Number(f64),
    Text(String),
}

impl Plain {
    fn of_text(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        let is_number = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
        match text.as_str() {
            "" => None,
            "true" => Some(Self::Number(1.0)),
            "false" => Some(Self::Number(0.0)),
            _ => Some(text.parse().ok().filter(|_| is_number).map_or(Self::Text(text), Self::Number)),
        }
    }

    /// `None` for what is no single value.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::of_text(text),
            Value::Number(number) => number.as_f64().map(Self::Number),
            Value::Bool(flag) => Some(Self::Number(f64::from(u8::from(*flag)))),
            _ => None,
        }
    }
}

impl Verdicts<'_> {
    /// Whether a label means unsafe.
    ///
    /// # Errors
    ///
    /// What was found, if it means neither.
    pub(super) fn is_unsafe(&self, key: &str, value: &Value) -> Result<bool, String> {
        let wrong = |expected: &str| format!("{key}: found {}, expected {expected}", shown(value));
        if self.unsafe_values.is_empty() {
            return own_verdict(key, value).ok_or_else(|| {
                wrong("\"safe\" or \"unsafe\"; say by --unsafe-value which values mean unsafe, if it has others")
            });
        }
        let found = Plain::of(value).ok_or_else(|| wrong("a text, a number or a flag; correct or remove the row"))?;
        let is_one_of = |values: &[String]| values.iter().any(|text| Plain::of_text(text).as_ref() == Some(&found));
        match is_one_of(self.unsafe_values) {
            true => Ok(true),
            false if self.safe_values.is_empty() || is_one_of(self.safe_values) => Ok(false),
            false => Err(wrong(&[self.unsafe_values, self.safe_values].concat().join(" or "))),
        }
    }
}

/// What a label says by itself: a word, or yes or no under a key that asks for it.
fn own_verdict(key: &str, value: &Value) -> Option<bool> {
    let label = |text: &str| match text.trim().to_lowercase().as_str() {
        "safe" => Some(RowLabel::Safe),
        "unsafe" => Some(RowLabel::Unsafe),
        _ => None,
    };
    if let Some(label) = value.as_str().and_then(label) {
        return Some(label == RowLabel::Unsafe);
    }
    let is_yes = flag(key, value).ok()?;
    match key.to_lowercase().as_str() {
        "unsafe" | "is_unsafe" => Some(is_yes),
        "safe" | "is_safe" => Some(!is_yes),
        _ => None,
    }
}

/// Whether a flag is raised.
///
/// # Errors
///
/// What was found, if it is no flag.
pub(super) fn flag(key: &str, value: &Value) -> Result<bool, String> {
    match Plain::of(value) {
        Some(Plain::Number(0.0)) => Ok(false),
        Some(Plain::Number(number)) if (number - 1.0).abs() < f64::EPSILON => Ok(true),
        _ => Err(format!("{key}: found {}, expected 0 or 1", shown(value))),
    }
}

/// Whether there is anything to compare: neither null nor an empty text.
pub(super) fn is_value(value: &Value) -> bool {
    !value.is_null() && value.as_str().is_none_or(|text| !text.trim().is_empty())
}

/// A short word as it is, anything else in words.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if !text.trim().is_empty() && text.len() <= 16 => format!("{text:?}"),
        other => describe(other),
    }
}
