//! `[grid]`: what the variants of a file are repeated over.

use std::path::Path;

use toml::{Table, Value};

use super::{Paths, Problem, Scenario, ScenarioError, document::Document, document::as_list, load_for, rules::Rules};
use crate::federated;

const STRATEGIES: &str = "strategies";
const SEEDS: &str = "seeds";

/// The axes.
#[derive(Clone, Debug)]
pub(super) struct Axes {
    pub strategies: Vec<String>,
    pub seeds: Vec<u64>,
}

impl Axes {
    /// Reads what is written under `grid`; `None` if that is no table. What is wrong with it is complained of.
    pub(super) fn read(written: &Value, has_variants: bool, rules: &mut Rules) -> Option<Self> {
        rules.check(has_variants, "grid", || {
            "found no [[variant]] and no [[axis]]; the defences of a grid are the variants of its file".into()
        });
        let Value::Table(table) = written else {
            rules.complain("grid", format!("found {written}; allowed: a table with {STRATEGIES} and {SEEDS}"));
            return None;
        };
        for key in table.keys().filter(|key| ![STRATEGIES, SEEDS].contains(&key.as_str())) {
            rules.complain(&format!("grid.{key}"), format!("unknown key; allowed: {STRATEGIES}, {SEEDS}"));
        }
        let known = format!("names of {}", federated::NAMES.join(", "));
        let strategy = |value: &Value| value.as_str().filter(|name| federated::NAMES.contains(name)).map(str::to_owned);
        let seed = |value: &Value| value.as_integer().and_then(|seed| u64::try_from(seed).ok());
        Some(Self {
            strategies: axis(table, STRATEGIES, &known, strategy, rules),
            seeds: axis(table, SEEDS, "whole numbers from 0, for example [1, 2, 3]", seed, rules),
        })
    }
}

/// The values of one axis: a list of one or more, none twice.
fn axis<T: PartialEq>(
    grid: &Table,
    name: &str,
    allowed: &str,
    value_of: impl Fn(&Value) -> Option<T>,
    rules: &mut Rules,
) -> Vec<T> {
    let key = format!("grid.{name}");
    let Some(written) = grid.get(name) else {
        rules.complain("grid", format!("found no {name}; allowed: a list of {allowed}"));
        return Vec::new();
    };
    let Value::Array(items) = written else {
        let list = written.as_str().map_or_else(String::new, |text| format!("; write {}", as_list(text)));
        rules.complain(&key, format!("found {written}; allowed: a list of {allowed}{list}"));
        return Vec::new();
    };
    rules.check(!items.is_empty(), &key, || format!("found none; allowed: one or more {allowed}"));
    let mut values = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match value_of(item) {
            None => rules.complain(&format!("{key}[{index}]"), format!("found {item}; allowed: {allowed}")),
            Some(value) if values.contains(&value) => {
                rules.complain(&key, format!("found {item} twice; each names a folder"));
            }
            Some(value) => values.push(value),
        }
    }
    values
}

/// The cells of a grid file, seed by seed, so that what a seed's cells share is made once and then let go.
#[derive(Clone, Debug)]
pub struct GridFile {
    /// Each with strategy, variant and seed of its own.
    pub cells: Vec<Scenario>,
}

/// Reads a grid file: each variant with each strategy and each seed.
///
/// # Errors
///
/// [`ScenarioError`] with every complaint of the first strategy and seed that have any.
pub fn load_grid(path: &Path, sets: &[String]) -> Result<GridFile, ScenarioError> {
    load_grid_if_any(path, sets, Paths::Here)?.ok_or_else(|| {
        let message = "found no [grid]; expected one with strategies and seeds (fedward run takes files without)";
        let place = path.display().to_string();
        ScenarioError { problems: vec![Problem { place, key: "grid".into(), message: message.into() }] }
    })
}

/// A grid sets these itself, cell by cell.
const SET_BY_THE_GRID: [(&str, &str); 2] = [("seed", "grid.seeds"), ("federation.strategy", "grid.strategies")];

fn refuse_overridden_axes(sets: &[String]) -> Result<(), ScenarioError> {
    let axis_of = |set: &String| {
        let key = set.split_once('=')?.0.trim();
        let (key, axis) = SET_BY_THE_GRID.into_iter().find(|(name, _)| *name == key)?;
        let message = format!("a grid has this for each cell; set {axis} instead");
        Some(Problem { place: format!("--set {set}"), key: key.to_owned(), message })
    };
    let problems: Vec<_> = sets.iter().filter_map(axis_of).collect();
    if problems.is_empty() { Ok(()) } else { Err(ScenarioError { problems }) }
}

/// As [`load_grid`], but a file without `[grid]` is none, and it may be for another machine.
///
/// # Errors
///
/// As [`load_grid`].
pub fn load_grid_if_any(path: &Path, sets: &[String], paths: Paths) -> Result<Option<GridFile>, ScenarioError> {
    let Some(axes) = Document::read(path, sets)?.grid().cloned() else { return Ok(None) };
    refuse_overridden_axes(sets)?;
    let mut cells = Vec::new();
    for seed in &axes.seeds {
        for strategy in &axes.strategies {
            let mut sets = sets.to_vec();
            sets.extend([format!("federation.strategy=\"{strategy}\""), format!("seed={seed}")]);
            cells.extend(load_for(path, &sets, paths)?.0.scenarios);
        }
    }
    let is_fixed = |of: &Scenario| of.seeds.data.and(of.seeds.training).and(of.seeds.evaluation).is_some();
    if axes.seeds.len() > 1 && cells.iter().any(is_fixed) {
        let message = "found seeds.data, seeds.training and seeds.evaluation, which leave nothing to grid.seeds: every seed would be the \
                       same run; leave one of them out, or name one seed";
        let place = path.display().to_string();
        return Err(ScenarioError {
            problems: vec![Problem { place, key: "grid.seeds".into(), message: message.into() }],
        });
    }
    Ok(Some(GridFile { cells }))
}
