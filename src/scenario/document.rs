//! A scenario file as text and tree: merging of variants and `--set` overrides, and the line of every key.

use std::path::{Path, PathBuf};

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    Problem, ScenarioError,
    axes::{self, Written},
    grid::Axes,
    raw::RawScenario,
    rules::Rules,
};

/// A scenario file that is valid TOML.
pub(super) struct Document {
    path: PathBuf,
    text: String,
    base: Table,
    variants: Vec<Written>,
    grid: Option<Axes>,
    sets: Vec<(String, Value)>,
}

/// Which of a file's runs is meant.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// Empty for a file without variants.
    pub name: String,
    index: Option<usize>,
}

impl Document {
    pub(super) fn read(path: &Path, sets: &[String]) -> Result<Self, ScenarioError> {
        let place = path.display().to_string();
        let fail = |place: String, message: String| ScenarioError {
            problems: vec![Problem { place, key: String::new(), message }],
        };
        let text = std::fs::read_to_string(path).map_err(|error| fail(place.clone(), error.to_string()))?;
        let mut base: Table = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            fail(format!("{place}:{line}"), error.message().to_owned())
        })?;
        let sets = sets
            .iter()
            .map(|set| parse_set(set).map_err(|message| fail(format!("--set {set}"), message)))
            .collect::<Result<Vec<_>, _>>()?;
        let (variants, axes, mut grid) = (base.remove("variant"), base.remove("axis"), Table::new());
        grid.extend(base.remove("grid").map(|written| ("grid".to_owned(), written)));
        for (key, value) in sets.iter().filter(|(key, _)| covers("grid", key)) {
            merge(&mut grid, nest(key, value.clone()));
        }
        let mut document = Self { path: path.to_owned(), text, base, variants: Vec::new(), grid: None, sets };
        let mut rules = Rules::default();
        document.variants = match axes {
            Some(written) => axes::product(written, variants.is_some(), &mut rules),
            None => variants.map_or_else(Vec::new, |written| read_variants(written, &mut rules)),
        };
        if let Some(written) = grid.get("grid") {
            document.grid = Axes::read(written, !document.variants.is_empty(), &mut rules);
        }
        let whole = Variant { name: String::new(), index: None };
        let complaints = rules.broken.into_iter();
        let problems: Vec<_> = complaints.map(|(key, message)| document.problem(&whole, &key, message)).collect();
        if !problems.is_empty() {
            return Err(ScenarioError { problems });
        }
        document.check_variant_names()?;
        Ok(document)
    }

    /// The axes of a grid, if the file has them.
    pub(super) const fn grid(&self) -> Option<&Axes> {
        self.grid.as_ref()
    }

    /// The folder that relative paths are relative to.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The runs that the file describes.
    pub(super) fn variants(&self) -> Vec<Variant> {
        if self.variants.is_empty() {
            return vec![Variant { name: String::new(), index: None }];
        }
        let name_of = |table: &Table| table.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.variants
            .iter()
            .enumerate()
            .map(|(index, written)| Variant { name: name_of(&written.table), index: Some(index) })
            .collect()
    }

    /// The file with one variant and the overrides merged into it.
    pub(super) fn merged(&self, variant: &Variant) -> Table {
        let mut merged = self.base.clone();
        if let Some(index) = variant.index {
            let mut overrides = self.variants[index].table.clone();
            overrides.remove("name");
            merge(&mut merged, overrides);
        }
        for (key, value) in self.sets.iter().filter(|(key, _)| !covers("grid", key)) {
            merge(&mut merged, nest(key, value.clone()));
        }
        merged
    }

    /// What a variant is on each axis of the file.
    pub(super) fn point(&self, variant: &Variant) -> Vec<(String, String)> {
        variant.index.map_or_else(Vec::new, |index| self.variants[index].point.clone())
    }

    /// What it says of one run.
    pub(super) fn deserialize(&self, variant: &Variant) -> Result<RawScenario, ScenarioError> {
        serde_path_to_error::deserialize(Value::Table(self.merged(variant))).map_err(|error| {
            let path = error.path().to_string();
            let key = if path == "." { String::new() } else { path };
            let complaint = error.into_inner();
            let lacked = complaint.message().strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
            let problems = match lacked {
                Some(_) if key.is_empty() => self.missing(variant, &key, &["name", "question"]),
                Some(field) => self.missing(variant, &key, &[field]),
                None => vec![self.problem(variant, &key, in_plain_words(complaint.message()))],
            };
            ScenarioError { problems }
        })
    }

    /// Complaints about `fields` that the table `key` lacks, placed where that is written: they have no default.
    fn missing(&self, variant: &Variant, key: &str, fields: &[&str]) -> Vec<Problem> {
        let written = self.merged(variant);
        let place = || self.place(variant, key).unwrap_or_else(|| self.path.display().to_string());
        fields
            .iter()
            .filter(|field| !key.is_empty() || !written.contains_key(**field))
            .map(|field| Problem {
                place: place(),
                key: if key.is_empty() { (*field).to_owned() } else { format!("{key}.{field}") },
                message: "is missing; expected a value, since it has no default".to_owned(),
            })
            .collect()
    }

    /// A complaint about `key`, placed where the value that counts is written.
    pub(super) fn problem(&self, variant: &Variant, key: &str, message: String) -> Problem {
        let place = self.place(variant, key).unwrap_or_else(|| format!("{} (default value)", self.path.display()));
        Problem { place, key: key.to_owned(), message }
    }

    /// Where the value of `key` that counts is written, if it is anywhere.
    fn place(&self, variant: &Variant, key: &str) -> Option<String> {
        if let Some((set, value)) = self.sets.iter().rev().find(|(set, _)| covers(set, key)) {
            return Some(format!("--set {set}={value}"));
        }
        let places = variant.index.map_or(&[][..], |index| &self.variants[index].places);
        let in_variant = places.iter().find_map(|place| self.line(place, key));
        if let Some(line) = in_variant.or_else(|| self.line(&[], key)) {
            return Some(format!("{}:{line}", self.path.display()));
        }
        // A table of which the command line alone gives a part.
        let (set, value) = self.sets.iter().rev().find(|(set, _)| !key.is_empty() && covers(key, set))?;
        Some(format!("--set {set}={value}"))
    }

    /// The line on which `key` is written at a place; the longest written part of it counts.
    fn line(&self, place: &[(&str, usize)], key: &str) -> Option<usize> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut table = root.get_ref();
        for &(name, index) in place {
            let DeValue::Array(items) = table.get(name)?.get_ref() else { return None };
            let DeValue::Table(item) = items.get(index)?.get_ref() else { return None };
            table = item;
        }
        let mut found = None;
        for part in key.split('.') {
            // An item of an array is written where its array is.
            let part = part.split('[').next().unwrap_or(part);
            let Some((written, value)) = table.iter().find(|(written, _)| written.get_ref() == part) else {
                // An unknown key is complained of at its parent; a default below a written table has no line.
                return None;
            };
            found = Some(line_of(&self.text, written.span().start));
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        found
    }

    fn check_variant_names(&self) -> Result<(), ScenarioError> {
        let variants = self.variants();
        let mut problems = Vec::new();
        for (position, (variant, Written { table, .. })) in variants.iter().zip(&self.variants).enumerate() {
            let name = &variant.name;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_+".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                let found = table.get("name").map_or_else(|| "none".to_owned(), Value::to_string);
                let message = format!("found {found}; allowed: letters, digits, - _ + (it names a folder)");
                problems.push(self.problem(variant, "name", message));
            } else if variants[..position].iter().any(|earlier| earlier.name == *name) {
                problems.push(self.problem(
                    variant,
                    "name",
                    format!("found {name:?} twice; each variant needs its own"),
                ));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(ScenarioError { problems }) }
    }
}

/// The variants as they are written.
fn read_variants(written: Value, rules: &mut Rules) -> Vec<Written> {
    let tables = axes::tables(written, "variant", rules).into_iter().enumerate();
    tables.map(|(index, table)| Written { table, places: vec![vec![("variant", index)]], point: Vec::new() }).collect()
}

/// Whether an override of `set` decides `key`.
fn covers(set: &str, key: &str) -> bool {
    key == set || key.strip_prefix(set).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// A complaint of the parser without the names of types.
fn in_plain_words(complaint: &str) -> String {
    const WORDS: [(&str, &str); 12] = [
        ("u16", "a whole number from 0 to 65535"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("u64", "a whole number from 0"),
        ("usize", "a whole number from 0"),
        ("a nonzero u32", "a whole number from 1 to 4294967295"),
        ("a nonzero usize", "a whole number from 1"),
        ("f32", "a number"),
        ("f64", "a number"),
        ("a boolean", "true or false"),
        ("a map", "a table"),
        ("struct ", "a table"),
        ("internally tagged enum ", "a table with its `kind`, for example { kind = \"constant\" }"),
    ];
    let Some((found, expected)) = complaint.rsplit_once("expected ") else { return complaint.to_owned() };
    if expected == "a sequence" {
        let quoted = found.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"')).map(|(text, _)| text);
        return format!("{found}expected a list: {}", quoted.map_or_else(|| "[…]".to_owned(), as_list));
    }
    // A name follows some of them.
    let matches = |name: &str| if name.ends_with(' ') { expected.starts_with(name) } else { expected == name };
    match WORDS.iter().find(|(name, _)| matches(name)) {
        Some((_, words)) => format!("{found}expected {words}"),
        None => complaint.to_owned(),
    }
}

/// A list as TOML has it of one as people write it: `a,b`.
pub(super) fn as_list(text: &str) -> String {
    let items = text.trim_matches(['[', ']', '(', ')', ' ']).split([',', ' ']).filter(|item| !item.is_empty());
    let item = |item: &str| match item.trim_matches(['"', '\'', '\\']) {
        number if number.parse::<i64>().is_ok() => number.to_owned(),
        text => format!("{text:?}"),
    };
    format!("[{}]", items.map(item).collect::<Vec<_>>().join(", "))
}

/// `key=value`, the value in TOML's notation; a bare word is taken for a string.
fn parse_set(set: &str) -> Result<(String, Value), String> {
    let (key, value) = set.split_once('=').ok_or("found no =; expected key=value, for example federation.rounds=3")?;
    let key = key.trim();
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err(format!("found key {key:?}; expected a dotted key, for example federation.rounds"));
    }
    let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut table| table.remove("value"));
    let value = match parsed {
        None => Value::String(value.trim().to_owned()),
        Some(parsed) => parsed,
    };
    Ok((key.to_owned(), from_here(key, value)))
}

/// Keys, by their last part, whose value may be a path.
const PATH_KEYS: [&str; 6] = ["base", "path", "source", "constitution", "data", "prompts"];

/// More of them by their whole name, or by what it begins with.
fn is_path(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    PATH_KEYS.contains(&last) || key == "guard.model" || key.starts_with("evaluation.data.")
}

/// On the command line a path is relative to the working directory, in the file to the file's folder.
fn from_here(key: &str, value: Value) -> Value {
    match &value {
        Value::String(text) if is_path(key) && Path::new(text).exists() => match std::path::absolute(text) {
            Ok(path) => Value::String(path.display().to_string()),
            Err(_) => value,
        },
        _ => value,
    }
}

/// `a.b.c` and a value as nested tables.
fn nest(key: &str, value: Value) -> Table {
    match key.split_once('.') {
        None => Table::from_iter([(key.to_owned(), value)]),
        Some((first, rest)) => Table::from_iter([(first.to_owned(), Value::Table(nest(rest, value)))]),
    }
}

/// Writes `overrides` over `base`, table by table.
pub(super) fn merge(base: &mut Table, overrides: Table) {
    for (key, value) in overrides {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(overrides)) => merge(inner, overrides),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}
