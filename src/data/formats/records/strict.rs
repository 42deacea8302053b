//! JSON as it is written: no key twice, numbers that are not rounded away.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value, value::RawValue};

/// A value in which no object has a key twice.
pub(super) struct StrictValue(pub(super) Value);

/// The text of a record's fields that hold numbers beyond whole ones of 64 bits, which [`Value`] would round or write in another
/// way.
#[derive(Clone, Debug, Default)]
pub struct ExactNumbers(HashMap<String, String>);

impl ExactNumbers {
    /// Returns the text of a field, if it has to stay as it is.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Lets go of a field whose value is another now.
    pub(crate) fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }
}

impl StrictValue {
    /// Takes the fields with such numbers from the record's own text.
    pub(super) fn exact_numbers(&self, json: &[u8]) -> ExactNumbers {
        let Value::Object(fields) = &self.0 else { return ExactNumbers::default() };
        if !fields.values().any(has_float) {
            return ExactNumbers::default();
        }
        let raw: HashMap<String, &RawValue> = serde_json::from_slice(json).unwrap_or_default();
        let exact = raw.into_iter().filter(|(key, _)| fields.get(key).is_some_and(has_float));
        ExactNumbers(exact.map(|(key, raw)| (key, on_one_line(raw.get()))).collect())
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(fields) => fields.values().any(has_float),
        _ => false,
    }
}

/// JSON without white space outside of texts.
fn on_one_line(json: &str) -> String {
    let (mut in_text, mut is_escaped) = (false, false);
    let is_kept = |character: &char| {
        let was_in_text = in_text;
        match character {
            '"' if !is_escaped => in_text = !in_text,
            _ => {}
        }
        is_escaped = was_in_text && *character == '\\' && !is_escaped;
        was_in_text || !character.is_ascii_whitespace()
    };
    json.chars().filter(is_kept).collect()
}

/// A key as complaints show it: it may be anybody's text.
pub(super) fn shown(key: &str) -> String {
    if key.chars().count() <= 24 { format!("{key:?}") } else { "a long name".to_owned() }
}

impl<'de> Deserialize<'de> for StrictValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(StrictValue(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let StrictValue(value) = entries.next_value()?;
            if fields.contains_key(&key) {
                let key = shown(&key);
                return Err(A::Error::custom(format!("found the key {key} twice, expected each once; remove one")));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_stays_inside_texts_alone() {
        let json = "[ {\n \"a b\\\" c\" :\t1e2 ,\r\n \"\\\\\" : \"x  y\" } ]";
        assert_eq!(on_one_line(json), r#"[{"a b\" c":1e2,"\\":"x  y"}]"#);
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_at_any_depth() {
        let strict = |json: &str| {
            serde_json::from_str::<StrictValue>(json).map(|value| value.0).map_err(|error| error.to_string())
        };
        let json = r#"{"a": [1, -2, 0.5, true, null, "\u00e9"], "b": {"a": {}}}"#;
        assert_eq!(strict(json).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        for twice in [r#"{"a": 1, "a": 1}"#, r#"[{"b": [{"a": 1, "\u0061": 2}]}]"#] {
            assert!(strict(twice).unwrap_err().starts_with("found the key \"a\" twice"), "{twice}");
        }
    }
}
