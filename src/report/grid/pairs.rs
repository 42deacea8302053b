//! Defences side by side over the same seeds: an interval says whether a difference is more than their scatter.

use std::fmt::Write;

use super::{CellResult, Configuration, read};
use crate::eval::{
    bootstrap::bootstrap_mean,
    measure::{Measure, Unit, measures_by_kind},
    paired::{Difference, t_interval},
};
use crate::report::pairs::signed;

/// What is compared.
fn compared() -> Vec<&'static Measure> {
    measures_by_kind().filter(|measure| measure.grid.is_some() && measure.paired.is_some()).collect()
}

/// Bootstrap samples behind an interval.
const RESAMPLES: u32 = 10_000;

/// What stands in front of the table.
const READING: &str = "Differences between defences, paired over seeds: mean, 95% interval of Student's t, and in brackets the \
bootstrap's, which is too narrow where seeds are few. Where an interval holds 0, the seeds show no difference. Nothing is corrected \
for comparing several.";

/// A line for each pair of defences that somebody would compare, or nothing with one seed.
pub(super) fn table(configurations: &[Configuration<'_>]) -> String {
    let lines: Vec<_> = pairs(configurations).into_iter().filter_map(|pair| line(pair.0, pair.1)).collect();
    let compared = compared();
    let is_measured = |column: &usize| lines.iter().any(|(_, cells)| cells[*column].is_some());
    let measured: Vec<_> = (0..compared.len()).filter(is_measured).collect();
    if measured.is_empty() {
        return String::new();
    }
    let names: Vec<_> = measured.iter().map(|&column| compared[column].name).collect();
    let mut text = format!("{READING}\n\n| strategy | compared | {} | seeds |\n", names.join(" | "));
    let _ = writeln!(text, "|---|---|{}---:|", "---:|".repeat(names.len()));
    for ((strategy, pair, seeds), cells) in &lines {
        let cells: Vec<_> = measured.iter().map(|&column| cells[column].as_deref().unwrap_or("–")).collect();
        let _ = writeln!(text, "| {strategy} | {pair} | {} | {seeds} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

/// Each defence after the first, with the first; what is added to another defence, with that; and what is called
/// `<defence>-<form>`, its light form or a control, with the defence.
fn pairs<'a, 'c>(all: &'a [Configuration<'c>]) -> Vec<(&'a Configuration<'c>, &'a Configuration<'c>)> {
    let mut pairs = Vec::new();
    for later in all {
        if !later.point().is_empty() {
            pairs.extend(all.iter().filter(|of| is_base_of(of, later, &all[0])).map(|of| (of, later)));
            continue;
        }
        let of_strategy: Vec<_> = all.iter().filter(|of| of.strategy == later.strategy).collect();
        let is_first = |of: &Configuration<'_>| of_strategy.first().is_some_and(|first| first.defence == of.defence);
        let is_part = |of: &Configuration<'_>| {
            let rest = later.defence.strip_prefix(of.defence).or_else(|| later.defence.strip_suffix(of.defence));
            rest.is_some_and(|rest| rest.starts_with(['-', '+']) || rest.ends_with('+'))
        };
        let earlier = of_strategy.iter().filter(|of| of.defence != later.defence && (is_first(of) || is_part(of)));
        pairs.extend(earlier.map(|earlier| (*earlier, later)));
    }
    pairs
}

/// Whether two configurations differ on one axis alone, on which `base` has the value of the first of all: no attack, no defence.
fn is_base_of(base: &Configuration<'_>, later: &Configuration<'_>, first: &Configuration<'_>) -> bool {
    let axes = base.point().iter().zip(later.point()).zip(first.point());
    let differing: Vec<_> = axes.filter(|((base, later), _)| base != later).collect();
    let is_first = |((base, _), first): &((&(String, String), _), &(String, String))| base == first;
    base.strategy == later.strategy && differing.len() == 1 && differing.iter().all(is_first)
}

type Named<'a> = (&'a str, String, usize);

/// The differences of one pair, over the seeds that both have; `None` for fewer than two.
fn line<'a>(earlier: &Configuration<'a>, later: &Configuration<'a>) -> Option<(Named<'a>, Vec<Option<String>>)> {
    let of_seed = |seed| earlier.cells.iter().find(|cell: &&&CellResult| cell.seed == seed).copied();
    let both: Vec<_> = later.cells.iter().filter_map(|cell| Some((of_seed(cell.seed)?, *cell))).collect();
    if both.len() < 2 {
        return None;
    }
    let cell = |measure: &Measure| {
        let value = |cell: &CellResult| read(measure, &cell.summary.eval);
        let differences: Option<Vec<f64>> = both.iter().map(|(a, b)| Some(value(b)? - value(a)?)).collect();
        cell_of(&differences?, if measure.unit == Unit::Share { 1 } else { 2 })
    };
    let pair = format!("{} − {}", later.defence, earlier.defence);
    Some(((later.strategy, pair, both.len()), compared().into_iter().map(cell).collect()))
}

fn cell_of(differences: &[f64], digits: usize) -> Option<String> {
    let Difference { mean, low, high, .. } = t_interval(differences)?;
    // A fixed seed: the interval belongs to the numbers.
    let bootstrap = bootstrap_mean(differences, RESAMPLES, 0)?;
    let [mean, low, high, least, most] =
        [mean, low, high, bootstrap.low, bootstrap.high].map(|value| signed(value, digits));
    Some(format!("{mean}, {low} to {high} [{least} to {most}]"))
}
