//! What the guard of a grid is worth, beside the paper's.

use std::fmt::Write;

use super::{CellResult, Spread, paper, tables};
use crate::safety::guard::BinaryMetrics;

/// A number of a guard's quality, from 0 to 1.
type Quality = (&'static str, fn(&BinaryMetrics) -> Option<f64>);

/// As in the paper's table.
const QUALITIES: [Quality; 4] = [
    ("accuracy", |metrics| metrics.accuracy),
    ("precision", |metrics| metrics.precision),
    ("recall", |metrics| metrics.recall),
    ("F1", |metrics| metrics.f1),
];

/// The guard, each seed's once, and the paper's; nothing where no guard was measured.
pub(super) fn table(cells: &[CellResult]) -> String {
    let guards: Vec<_> = tables::first_of_each_seed(cells, |cell| cell.guard).collect();
    let Some(first) = guards.first() else { return String::new() };
    let mut text = "| guard | measured on |".to_owned();
    for (name, _) in QUALITIES {
        let _ = write!(text, " {name} |");
    }
    let (n, positives) = (first.n, first.positives);
    let _ = write!(text, "\n|---|---|---:|---:|---:|---:|\n| the grid's | {n} held-out rows ({positives} unsafe) |");
    for (_, quality) in QUALITIES {
        let values = guards.iter().filter_map(|metrics| Some(100.0 * quality(metrics)?));
        let _ = write!(text, " {} |", tables::spread(Spread::of(values)));
    }
    text.push('\n');
    for (name, values) in paper::GUARDS {
        let _ = write!(text, "| {name} | the paper's SQuARe rows |");
        for value in values {
            let _ = write!(text, " {value:.1} |");
        }
        text.push('\n');
    }
    text.push('\n');
    text
}
