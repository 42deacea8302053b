//! `[[axis]]`: what the variants of a file are the product of, so that a grid is a matrix.

use toml::{Table, Value};

use super::{document::merge, rules::Rules};

/// A place in a scenario file: names of lists of tables, and which of each.
pub(super) type Place = Vec<(&'static str, usize)>;

/// A variant as it is written, or as axes make it.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// What it overrides, its name included.
    pub table: Table,
    /// Where that is written, what counts most first.
    pub places: Vec<Place>,
    /// What it is on each axis: nothing where it was written as a variant.
    pub point: Vec<(String, String)>,
}

/// What stands between the values in a variant's name.
const BETWEEN: &str = "--";

/// Reads the axes of a file and returns their product: the values of the last axis change first.
pub(super) fn product(written: Value, has_variants: bool, rules: &mut Rules) -> Vec<Written> {
    rules.check(!has_variants, "axis", || "found [[variant]], too; allowed: one of them".into());
    let mut points = vec![Written { table: Table::new(), places: Vec::new(), point: Vec::new() }];
    for (index, axis) in tables(written, "axis", rules).into_iter().enumerate() {
        let key = format!("axis[{index}]");
        let name = name_of(&axis, &key, rules);
        for unknown in axis.keys().filter(|found| !["name", "value"].contains(&found.as_str())) {
            rules.complain(&format!("{key}.{unknown}"), "unknown key; allowed: name, and [[axis.value]] tables");
        }
        let values = tables(axis.get("value").cloned().unwrap_or(Value::Array(Vec::new())), "axis.value", rules);
        rules.check(!values.is_empty(), &key, || "found no [[axis.value]]; allowed: one or more".into());
        let named: Vec<_> = values
            .into_iter()
            .enumerate()
            .map(|(at, value)| (at, name_of(&value, &format!("{key}.value[{at}]"), rules), value))
            .collect();
        points = points
            .iter()
            .flat_map(|point| {
                named.iter().map(|(at, value, overrides)| point.with(index, &name, *at, value, overrides))
            })
            .collect();
    }
    points
}

impl Written {
    fn with(&self, axis: usize, axis_name: &str, at: usize, value: &str, overrides: &Table) -> Self {
        let mut with = self.clone();
        let name = match self.table.get("name").and_then(Value::as_str) {
            None => value.to_owned(),
            Some(before) => format!("{before}{BETWEEN}{value}"),
        };
        merge(&mut with.table, overrides.clone());
        with.table.insert("name".to_owned(), Value::String(name));
        with.places.insert(0, vec![("axis", axis), ("value", at)]);
        with.point.push((axis_name.to_owned(), value.to_owned()));
        with
    }
}

fn name_of(table: &Table, key: &str, rules: &mut Rules) -> String {
    let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
    rules.check(!name.is_empty() && !name.contains(BETWEEN), key, || {
        format!("found name {name:?}; allowed: a name without {BETWEEN:?}, which stands between the names of values")
    });
    name.to_owned()
}

/// The tables of a list; what is none is complained of.
pub(super) fn tables(written: Value, key: &str, rules: &mut Rules) -> Vec<Table> {
    let mut refuse = |found: Value| {
        rules.complain(key, format!("found {found}; allowed: [[{key}]] tables"));
        None
    };
    match written {
        Value::Array(items) => items
            .into_iter()
            .filter_map(|item| match item {
                Value::Table(table) => Some(table),
                other => refuse(other),
            })
            .collect(),
        other => {
            refuse(other);
            Vec::new()
        }
    }
}
