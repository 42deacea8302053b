//! The cells of a file with axes as matrices: attacks side by side, a line a defence.

use std::fmt::Write;

use super::{
    Configuration, measures_of,
    tables::{defences, spread},
};
use crate::eval::measure::{GridTable, HEADLINE, Measure, Unit};

/// A matrix for each strategy and measure, or nothing where the file has no two axes. The values of the first axis stand side by
/// side, those of the others below one another.
pub(super) fn tables(configurations: &[Configuration<'_>]) -> String {
    let Some(axes) = configurations.first().map(Configuration::point).filter(|point| point.len() > 1) else {
        return String::new();
    };
    let (across, down) = (&axes[0].0, axes[1..].iter().map(|(axis, _)| axis.as_str()).collect::<Vec<_>>().join(" × "));
    let mut text = String::new();
    for strategy in defences(configurations.iter().map(|of| of.strategy)) {
        let of_strategy: Vec<_> = configurations.iter().filter(|of| of.strategy == strategy).collect();
        for measure in measures(&of_strategy) {
            let unit = if measure.unit == Unit::Share { ", %" } else { "" };
            let _ = writeln!(text, "**{}{unit}**, {strategy}, {across} × {down}: mean ± sd over seeds\n", measure.name);
            matrix(&mut text, &down, &of_strategy, measure);
        }
    }
    text
}

/// The headline, and whatever else was measured.
fn measures(configurations: &[&Configuration<'_>]) -> Vec<&'static Measure> {
    let others = measures_of(GridTable::Ours).filter(|(_, place)| !place.stands_in).map(|(measure, _)| measure);
    let mut measures = vec![HEADLINE];
    measures.extend(others.filter(|other| (other.benchmark, other.key) != (HEADLINE.benchmark, HEADLINE.key)));
    measures.retain(|measure| configurations.iter().any(|of| of.spread(measure).is_some()));
    measures
}

fn matrix(text: &mut String, down: &str, configurations: &[&Configuration<'_>], measure: &Measure) {
    let column = |of: &Configuration<'_>| of.point()[0].1.clone();
    let row =
        |of: &Configuration<'_>| of.point()[1..].iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" ");
    let (columns, rows): (Vec<_>, Vec<_>) = configurations.iter().map(|of| (column(of), row(of))).unzip();
    let columns = defences(columns.iter().map(String::as_str));
    let _ = writeln!(text, "| {down} | {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len()));
    for name in defences(rows.iter().map(String::as_str)) {
        let _ = write!(text, "| {name} |");
        for &across in &columns {
            let found = configurations.iter().find(|of| column(of) == across && row(of) == name);
            let _ = write!(text, " {} |", spread(found.and_then(|of| of.spread(measure))));
        }
        text.push('\n');
    }
    text.push('\n');
}
