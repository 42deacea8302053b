//! `[grid]`: what the variants of a file are repeated over.

use std::path::Path;

use serde::Deserialize;

use super::{Problem, Scenario, ScenarioError, document::Document, load};

/// The axes as they are written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrid {
    pub strategies: Vec<String>,
    pub seeds: Vec<u64>,
}

impl RawGrid {
    /// What is wrong with the axes, as key and message.
    pub(super) fn problem(&self, has_variants: bool) -> Option<(&'static str, String)> {
        let twice = |sorted: bool| sorted.then(|| "found a value twice; each names a folder".to_owned());
        let mut strategies = self.strategies.clone();
        strategies.sort();
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        if !has_variants {
            return Some(("grid", "found no [[variant]]; the defences of a grid are the variants of its file".into()));
        }
        if self.strategies.is_empty() {
            return Some(("grid.strategies", "found none; allowed: one or more, for example [\"fedavg\"]".into()));
        }
        if self.seeds.is_empty() {
            return Some(("grid.seeds", "found none; allowed: one or more, for example [1, 2, 3]".into()));
        }
        let strategies = twice(strategies.windows(2).any(|pair| pair[0] == pair[1]));
        let seeds = twice(seeds.windows(2).any(|pair| pair[0] == pair[1]));
        strategies.map(|message| ("grid.strategies", message)).or(seeds.map(|message| ("grid.seeds", message)))
    }
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
    load_grid_if_any(path, sets)?.ok_or_else(|| {
        let message = "found no [grid]; expected one with strategies and seeds (fedward run takes files without)";
        let place = path.display().to_string();
        ScenarioError { problems: vec![Problem { place, key: "grid".into(), message: message.into() }] }
    })
}

/// As [`load_grid`], but a file without `[grid]` is none.
///
/// # Errors
///
/// As [`load_grid`].
pub fn load_grid_if_any(path: &Path, sets: &[String]) -> Result<Option<GridFile>, ScenarioError> {
    let Some(axes) = Document::read(path, sets)?.grid().cloned() else { return Ok(None) };
    let mut cells = Vec::new();
    for seed in &axes.seeds {
        for strategy in &axes.strategies {
            let mut sets = sets.to_vec();
            sets.extend([format!("federation.strategy=\"{strategy}\""), format!("seed={seed}")]);
            cells.extend(load(path, &sets)?.scenarios);
        }
    }
    Ok(Some(GridFile { cells }))
}
