//! Rows whose verdict is known: what guards are fitted to and measured on.

use std::{collections::BTreeSet, path::Path, str::FromStr};

use fedward_actors::protocol::{ChatMessage, ChatRow, Hazard, Role, RowLabel};
use serde_json::Value;

use super::{
    Fields, RowFormat,
    records::{CsvComments, Record, read_records},
    rows::{self, Reading, Wanted, chat_row, describe},
    turns::role_named,
    verdicts::{Verdicts, flag, is_value},
};
use crate::data::{DataError, catalogue, hazards, scored_rows};

/// A row whose verdict is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledRow {
    /// The conversation; it ends with a prompt or with a response, and that turn is what the verdict is about.
    pub row: ChatRow,
    /// The verdict.
    pub is_unsafe: bool,
    /// Which hazards it is; `None` where nobody has said so. Empty for a safe row.
    pub hazards: Option<BTreeSet<Hazard>>,
    /// Where it comes from: the name of its file without extensions.
    pub source: String,
}

/// Where labels come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// From each record.
    Told,
    /// Every row of the file has this one.
    All(RowLabel),
}

/// Which keys of a file hold what, where its own names say something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledFields {
    prompt: String,
    response: Option<String>,
    label: Option<String>,
    hazards: Option<String>,
    /// Values of the label that mean unsafe; empty where it says so itself (safe or unsafe).
    pub unsafe_values: Vec<String>,
    /// Values that mean safe; with `unsafe_values`, empty where every other one does.
    pub safe_values: Vec<String>,
}

impl FromStr for LabelledFields {
    type Err = String;

    /// `prompt=question,response=answer,label=verdict,hazards=codes`; all but `prompt` may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = Self {
            prompt: String::new(),
            response: None,
            label: None,
            hazards: None,
            unsafe_values: Vec::new(),
            safe_values: Vec::new(),
        };
        for part in text.split(',') {
            let Some((name, key)) = part.split_once('=').filter(|(_, key)| !key.is_empty()) else {
                return Err(format!("found {part:?}; expected NAME=KEY"));
            };
            let key = key.to_owned();
            match name {
                "prompt" => fields.prompt = key,
                "response" => fields.response = Some(key),
                "label" => fields.label = Some(key),
                "hazards" => fields.hazards = Some(key),
                _ => return Err(format!("found {name:?}; expected prompt, response, label or hazards")),
            }
        }
        if fields.prompt.is_empty() {
            return Err("prompt is missing; expected for example prompt=question,label=verdict".to_owned());
        }
        Ok(fields)
    }
}

/// The name under which `PyRIT`'s judged responses are loaded.
pub const SCORED_RESPONSES: &str = "scored-responses";

/// Reads labelled rows of a file, or of the catalogue's `scored-responses`.
///
/// Without `fields`, records are rows as scenarios take them with `label` (`safe` or `unsafe`) and maybe `hazards` (`"S1,S9"`
/// or a list), or those of `OpenAI`'s moderation set (`prompt` and a flag a category). Labels and flags are compared as values:
/// case, 0 and 0.0 make no difference, nor whether a number or a flag is written as a text.
///
/// # Errors
///
/// [`DataError`] names file, record, key, what was found and what is allowed; never a row's text. A label that is neither safe nor
/// unsafe is an error, as is a file in which none has a value that is said to mean unsafe.
pub fn load_labelled(
    path: &Path,
    labels: Labels,
    fields: Option<&LabelledFields>,
) -> Result<Vec<LabelledRow>, DataError> {
    if path == Path::new(SCORED_RESPONSES) && !path.exists() {
        return judged_responses();
    }
    let source = source_name(path);
    let mut found = Vec::new();
    for record in read_records(path, CsvComments::None)? {
        let row = match fields {
            Some(fields) => named_row(&record, labels, fields),
            None => known_row(&record.fields, labels),
        };
        let (row, is_unsafe, hazards) = row.map_err(|problem| DataError::bad_record(path, record.place, problem))?;
        found.push(LabelledRow { row, is_unsafe, hazards, source: source.clone() });
    }
    if found.is_empty() {
        return Err(DataError::bad_file(path, "found no rows, expected at least one"));
    }
    if let Some(fields) = fields.filter(|fields| labels == Labels::Told && !fields.unsafe_values.is_empty())
        && found.iter().all(|row| !row.is_unsafe)
    {
        let key = fields.label.as_deref().unwrap_or_default();
        let values = fields.unsafe_values.join(" or ");
        return Err(DataError::bad_file(
            path,
            format!("{key}: found no row with {values}, expected some that are unsafe"),
        ));
    }
    Ok(found)
}

/// `PyRIT`'s responses that people have judged.
fn judged_responses() -> Result<Vec<LabelledRow>, DataError> {
    let scored = scored_rows(&catalogue::fetched(SCORED_RESPONSES)?)?;
    let labelled = |scored: crate::data::ScoredRow| {
        let is_unsafe = scored.is_unsafe();
        let hazard = scored.row.topic.as_deref().and_then(hazards::of_harm);
        let hazards = if is_unsafe { hazard.map(|hazard| BTreeSet::from([hazard])) } else { Some(BTreeSet::new()) };
        LabelledRow { row: scored.row, is_unsafe, hazards, source: SCORED_RESPONSES.to_owned() }
    };
    Ok(scored.into_iter().map(labelled).collect())
}

type Labelled = (ChatRow, bool, Option<BTreeSet<Hazard>>);

/// A record whose keys the caller has named.
fn named_row(record: &Record, labels: Labels, names: &LabelledFields) -> Result<Labelled, String> {
    let value = |key: &str| {
        record.fields.get(key).ok_or_else(|| format!("missing key {key}; found: {}", rows::keys_of(&record.fields)))
    };
    let mut messages = vec![ChatMessage::new(Role::User, rows::text(&names.prompt, value(&names.prompt)?)?)];
    if let Some(key) = &names.response {
        messages.push(ChatMessage::new(Role::Assistant, rows::text(key, value(key)?)?));
    }
    let is_unsafe = match (labels, &names.label) {
        (Labels::All(label), _) => label == RowLabel::Unsafe,
        (Labels::Told, Some(key)) => {
            let verdicts = Verdicts { unsafe_values: &names.unsafe_values, safe_values: &names.safe_values };
            verdicts.is_unsafe(key, value(key)?)?
        }
        (Labels::Told, None) => return Err("label is missing; name its key, or say what all rows are".to_owned()),
    };
    let hazards = match &names.hazards {
        Some(key) => hazards_of(key, value(key)?)?,
        None => None,
    };
    Ok(labelled(ChatRow { messages, topic: None, label: None }, is_unsafe, hazards))
}

/// A record in one of the forms that are told by their keys.
fn known_row(fields: &Fields, labels: Labels) -> Result<Labelled, String> {
    let wanted = if has_response(fields) { Wanted::Row } else { Wanted::Prompt };
    // Whether a response is to be trained on says nothing of its safety.
    let (Reading::Row(row, _) | Reading::NotTrained(row)) = chat_row(fields, RowFormat::Auto, wanted)? else {
        return Err("found no response to assess; correct or remove the row".to_owned());
    };
    if labels == Labels::Told
        && let Some(flags) = moderation_flags(fields)?
    {
        let hazards: BTreeSet<_> = flags.iter().filter_map(|label| hazards::of_moderation(label)).collect();
        let known = !hazards.is_empty() || flags.is_empty();
        return Ok(labelled(row, !flags.is_empty(), known.then_some(hazards)));
    }
    let is_unsafe = match labels {
        Labels::All(label) => label == RowLabel::Unsafe,
        Labels::Told => {
            let missing = "missing key label (\"safe\" or \"unsafe\"); add it, or say what all rows of the file are";
            rows::label(fields)?.ok_or(missing)? == RowLabel::Unsafe
        }
    };
    let hazards = fields.get("hazards").map(|value| hazards_of("hazards", value)).transpose()?.flatten();
    Ok(labelled(row, is_unsafe, hazards))
}

fn labelled(mut row: ChatRow, is_unsafe: bool, hazards: Option<BTreeSet<Hazard>>) -> Labelled {
    row.label = Some(if is_unsafe { RowLabel::Unsafe } else { RowLabel::Safe });
    let hazards = if is_unsafe { hazards.filter(|hazards| !hazards.is_empty()) } else { Some(BTreeSet::new()) };
    (row, is_unsafe, hazards)
}

/// Whether a record holds an answer beside its prompt.
fn has_response(fields: &Fields) -> bool {
    let ends_with_assistant = |key: &str, role: &str| {
        let last = fields.get(key).and_then(Value::as_array).and_then(|turns| turns.last());
        last.is_some_and(|turn| turn[role].as_str().and_then(role_named) == Some(Role::Assistant))
    };
    rows::names_response(fields)
        || ["chosen", "rejected"].iter().any(|key| fields.contains_key(*key))
        || ends_with_assistant("messages", "role")
        || ends_with_assistant("conversations", "from")
}

/// The labels that `OpenAI`'s moderation set raises on a record; `None` if it is no record of that set. A flag that is missing or
/// empty is not raised: the set leaves out what nobody has looked at.
fn moderation_flags(fields: &Fields) -> Result<Option<Vec<&'static str>>, String> {
    const FLAGS: [&str; 8] = ["S", "H", "V", "HR", "SH", "S3", "H2", "V2"];
    if !FLAGS.iter().any(|flag| fields.contains_key(*flag)) || fields.contains_key("label") {
        return Ok(None);
    }
    let mut raised = Vec::new();
    for name in FLAGS {
        if fields.get(name).filter(|value| is_value(value)).map(|value| flag(name, value)).transpose()? == Some(true) {
            raised.push(name);
        }
    }
    Ok(Some(raised))
}

/// A list of codes, or one text with commas; `None` for nothing at all.
fn hazards_of(key: &str, value: &Value) -> Result<Option<BTreeSet<Hazard>>, String> {
    let codes: Vec<String> = match value {
        Value::Null => return Ok(None),
        Value::String(text) => {
            text.split(',').map(|code| code.trim().to_owned()).filter(|code| !code.is_empty()).collect()
        }
        Value::Array(codes) => codes.iter().map(|code| code.as_str().unwrap_or_default().to_owned()).collect(),
        other => return Err(format!("{key}: found {}, expected codes S1 to S14", describe(other))),
    };
    let hazard = |code: &String| {
        let shown = if code.len() <= 8 { format!("{code:?}") } else { "a long text".to_owned() };
        hazards::parse(code).ok_or_else(|| format!("{key}: found {shown}, allowed: S1 to S14"))
    };
    codes.iter().map(hazard).collect::<Result<_, _>>().map(Some)
}

/// The file's name up to its first dot.
fn source_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, text: &str, labels: Labels, fields: Option<&str>) -> Result<Vec<LabelledRow>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let fields = fields.map(|fields| {
            let mut fields: LabelledFields = fields.parse().unwrap();
            if !fields.label.as_deref().is_some_and(|label| label.contains("safe") || label == "verdict") {
                fields.unsafe_values = vec!["0".to_owned()];
            }
            fields
        });
        load_labelled(&path, labels, fields.as_ref())
            .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    fn codes(row: &LabelledRow) -> Option<String> {
        let codes: Vec<_> = row.hazards.as_ref()?.iter().map(ToString::to_string).collect();
        Some(codes.join(","))
    }

    #[test]
    fn flags_of_the_moderation_set_become_hazards() {
        let text = "{\"prompt\": \"a\", \"S\": 0, \"H\": 1, \"V2\": 1}\n{\"prompt\": \"b\", \"S\": 0}\n{\"prompt\": \"c\", \"HR\": 1}\n";
        let rows = load("samples.jsonl", text, Labels::Told, None).unwrap();
        let found: Vec<_> = rows.iter().map(|row| (row.is_unsafe, codes(row))).collect();
        let expected = [(true, Some("S1,S10".to_owned())), (false, Some(String::new())), (true, None)];
        assert_eq!(found, expected);
        assert_eq!(rows[0].row.messages, [ChatMessage::new(Role::User, "a")]);
        assert_eq!((rows[0].source.as_str(), rows[0].row.label), ("samples", Some(RowLabel::Unsafe)));
    }

    /// The same rows as JSON with numbers, with texts, and as CSV: every form gives the same verdicts.
    #[test]
    fn flags_are_values_however_they_are_written() {
        let verdicts = |name: &str, text: &str| {
            let rows = load(name, text, Labels::Told, None).unwrap();
            rows.iter().map(|row| (row.is_unsafe, codes(row))).collect::<Vec<_>>()
        };
        let expected = [(false, Some(String::new())), (true, Some("S10".to_owned())), (true, Some("S10".to_owned()))];
        for (name, text) in [
            ("a.jsonl", "{\"prompt\":\"a\",\"H\":0}\n{\"prompt\":\"b\",\"H\":1}\n{\"prompt\":\"c\",\"H\":1.0}"),
            (
                "a.jsonl",
                "{\"prompt\":\"a\",\"H\":\"0\"}\n{\"prompt\":\"b\",\"H\":\"1\"}\n{\"prompt\":\"c\",\"H\":\"True\"}",
            ),
            ("a.csv", "prompt,H,V\na,0,\nb,1,0\nc,true,0.0\n"),
        ] {
            assert_eq!(verdicts(name, text), expected, "{text}");
        }
        let error = load("a.csv", "prompt,H\na,maybe\n", Labels::Told, None).unwrap_err();
        assert_eq!(error, "a.csv, line 2: H: found \"maybe\", expected 0 or 1");
    }

    #[test]
    fn labels_are_values_however_they_are_written() {
        let file = |key: &str, values: [&str; 2]| {
            let line = |value: &str| format!("{{\"prompt\": \"a\", \"{key}\": {value}}}");
            values.map(line).join("\n")
        };
        let load = |key: &str, values: [&str; 2]| {
            let fields = format!("prompt=prompt,label={key}");
            load("a.jsonl", &file(key, values), Labels::Told, Some(&fields))
        };
        for (key, values) in [
            ("verdict", ["\"Safe\"", "\" UNSAFE\""]),
            ("is_unsafe", ["false", "true"]),
            ("is_safe", ["true", "false"]),
            ("is_safe", ["\"1\"", "\"0\""]),
            ("acceptable?", ["1", "0"]),
            ("acceptable?", ["1.0", "0.0"]),
            ("acceptable?", ["\"1\"", "\"0.0\""]),
            ("acceptable?", ["true", "false"]),
        ] {
            let found: Vec<_> = load(key, values).unwrap().iter().map(|row| row.is_unsafe).collect();
            assert_eq!(found, [false, true], "{key} {values:?}");
        }
        for (key, values, problem) in [
            ("verdict", ["\"safe\"", "\"bad\""], "verdict: found \"bad\", expected \"safe\" or \"unsafe\""),
            ("verdict", ["\"safe\"", "true"], "verdict: found true, expected \"safe\" or \"unsafe\""),
            ("acceptable?", ["0", "null"], "acceptable?: found null, expected"),
            ("acceptable?", ["0", "\" \""], "acceptable?: found an empty text, expected"),
        ] {
            let error = load(key, values).unwrap_err();
            assert!(error.starts_with(&format!("a.jsonl, line 2: {problem}")), "{error}");
        }
    }

    #[test]
    fn rows_carry_their_own_label_and_hazards() {
        let text = r#"[{"prompt": "a", "response": "b", "label": "unsafe", "hazards": ["S9", "S2"]},
                       {"messages": [{"role": "user", "content": "c"}], "label": "safe"},
                       {"instruction": "d", "output": "e", "label": "unsafe", "hazards": "S14"}]"#;
        let rows = load("own.json", text, Labels::Told, None).unwrap();
        assert_eq!(
            rows.iter().map(codes).collect::<Vec<_>>(),
            [Some("S2,S9".into()), Some(String::new()), Some("S14".into())]
        );
        assert_eq!(rows.iter().map(|row| row.row.response().is_some()).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn keys_can_be_named_and_a_file_can_be_all_of_one_kind() {
        let text = r#"[{"question_en": "a", "response_en": "b", "acceptable?": 0}, {"question_en": "c", "response_en": "d", "acceptable?": 1}]"#;
        let fields = "prompt=question_en,response=response_en,label=acceptable?";
        let rows = load("square.json", text, Labels::Told, Some(fields)).unwrap();
        assert_eq!(rows.iter().map(|row| row.is_unsafe).collect::<Vec<_>>(), [true, false]);
        let all_safe = text.replace(": 0}", ": 1}");
        let error = load("square.json", &all_safe, Labels::Told, Some(fields)).unwrap_err();
        assert_eq!(error, "square.json: acceptable?: found no row with 0, expected some that are unsafe");
        let rows =
            load("rows.json", r#"[{"prompt": "a", "response": "b"}]"#, Labels::All(RowLabel::Safe), None).unwrap();
        assert!(!rows[0].is_unsafe);
    }

    #[test]
    fn what_is_wrong_is_named_without_any_text() {
        let told = |text: &str| load("rows.json", text, Labels::Told, None).unwrap_err();
        let error = told(r#"[{"prompt": "secret", "response": "b"}]"#);
        assert!(error.starts_with("rows.json, item 1: missing key label") && !error.contains("secret"), "{error}");
        let error = told(r#"[{"prompt": "secret", "label": "unsafe", "hazards": "S15"}]"#);
        assert_eq!(error, "rows.json, item 1: hazards: found \"S15\", allowed: S1 to S14");
        let error = load("a.json", r#"[{"b": "c"}]"#, Labels::Told, Some("prompt=question,label=x")).unwrap_err();
        assert_eq!(error, "a.json, item 1: missing key question; found: b");
        assert!("response=a".parse::<LabelledFields>().unwrap_err().contains("prompt is missing"));
        assert!("prompt=a,verdict=b".parse::<LabelledFields>().unwrap_err().contains("expected prompt, response"));
    }
}
