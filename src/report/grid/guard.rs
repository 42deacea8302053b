//! What the guards of a grid are worth, beside the paper's.

use std::fmt::Write;

use super::{CellResult, Spread, paper, tables};
use crate::{report::Totals, safety::guard::BinaryMetrics};

/// A number of a guard's quality, from 0 to 1.
type Quality = (&'static str, fn(&BinaryMetrics) -> Option<f64>);

/// As in the paper's table, and what does not depend on a threshold.
const QUALITIES: [Quality; 6] = [
    ("accuracy", |metrics| metrics.accuracy),
    ("precision", |metrics| metrics.precision),
    ("recall", |metrics| metrics.recall),
    ("F1", |metrics| metrics.f1),
    ("AUC", |metrics| metrics.auc),
    ("recall at 1% FPR", |metrics| metrics.recall_at_1_percent),
];

/// What a guard was measured on, and the measurement in a cell.
type Measured = (&'static str, fn(&CellResult) -> Option<BinaryMetrics>);

const MEASURED: [Measured; 3] = [
    ("clients' rows", |cell| cell.guard.is_some().then(|| on_clients_rows(&cell.summary.totals))),
    ("clients' rows by score", |cell| cell.guard?.on_clients),
    ("held-out rows of what it was fitted on", |cell| cell.guard?.held_out),
];

/// Every number of the guard of a cell: what it is called in the CSV, and its value.
pub(super) fn numbers(cell: &CellResult) -> Vec<(String, f64)> {
    let of = |(on, measured): Measured| {
        let metrics = measured(cell)?;
        let counts = [("rows", metrics.n), ("unsafe", metrics.positives)].map(|(name, count)| (name, count as f64));
        let qualities = QUALITIES.into_iter().filter_map(move |(name, of)| Some((name, 100.0 * of(&metrics)?)));
        Some(counts.into_iter().chain(qualities).map(move |(name, value)| (format!("guard on {on}: {name}"), value)))
    };
    MEASURED.into_iter().filter_map(of).flatten().collect()
}

/// Guards that are worth the same, by the defences that they belong to.
struct Line<'a> {
    defences: Vec<&'a str>,
    /// One a seed.
    found: Vec<BinaryMetrics>,
}

/// The guards and the paper's; nothing where there is no guard.
pub(super) fn table(cells: &[CellResult]) -> String {
    let lines = MEASURED.map(|(on, measured)| (on, lines(cells, measured)));
    if lines.iter().all(|(_, lines)| lines.is_empty()) {
        return String::new();
    }
    let mut text = "| guard of | measured on | rows (unsafe), all seeds |".to_owned();
    for (name, _) in QUALITIES {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|---|---|---:|{}", "---:|".repeat(QUALITIES.len()));
    for (on, lines) in lines {
        for Line { defences, found } in lines {
            let sum = |of: fn(&BinaryMetrics) -> u64| found.iter().map(of).sum::<u64>();
            let (n, positives) = (sum(|metrics| metrics.n), sum(|metrics| metrics.positives));
            let _ = write!(text, "| {} | {on} | {n} ({positives}) |", defences.join(", "));
            for (_, quality) in QUALITIES {
                let values = found.iter().filter_map(|metrics| Some(100.0 * quality(metrics)?));
                let _ = write!(text, " {} |", tables::spread(Spread::of(values)));
            }
            text.push('\n');
        }
    }
    for (name, values) in paper::GUARDS {
        let _ = write!(text, "| {name} | the paper's SQuARe rows | – |");
        for value in values {
            let _ = write!(text, " {value:.1} |");
        }
        text += &" – |".repeat(QUALITIES.len() - values.len());
        text.push('\n');
    }
    text.push('\n');
    text
}

fn lines(cells: &[CellResult], measured: fn(&CellResult) -> Option<BinaryMetrics>) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for defence in tables::defences(cells.iter().map(|cell| cell.defence.as_str())) {
        let of_defence = cells.iter().filter(|cell| cell.defence == defence);
        let found: Vec<_> = tables::first_of_each_seed(of_defence, measured).collect();
        match lines.iter_mut().find(|line| line.found == found) {
            _ if found.is_empty() => {}
            Some(line) => line.defences.push(defence),
            None => lines.push(Line { defences: vec![defence], found }),
        }
    }
    lines
}

/// What became of clients' rows over all rounds, against their labels.
fn on_clients_rows(totals: &Totals) -> BinaryMetrics {
    let rows = totals.rows;
    let hits = rows.called_unsafe().saturating_sub(rows.filtered_safe);
    BinaryMetrics::of_counts(hits, rows.filtered_safe, rows.kept_unsafe, rows.kept.saturating_sub(rows.kept_unsafe))
}
