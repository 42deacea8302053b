//! The table that compares runs: a column for each benchmark that one of them has, each number with what it rests on.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use fedward_actors::ports::{Cost, Evaluation};

use super::{
    PairedComparison, Summary, Totals,
    others::{OtherMeasure, others},
    pairs,
};
use crate::eval::measure::{Cell, Column, HEADLINE, Measure, measures};

/// A comparison as text: what the columns are, and one line a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Names of the columns, broken into short lines; the first column holds names, the others numbers.
    pub columns: Vec<String>,
    /// The start first, if all runs began with the same measurements, then the runs.
    pub lines: Vec<Vec<String>>,
    /// How to read the columns, for somebody who has not met them: a sentence or two each.
    pub reading: Vec<String>,
    /// What keeps lines from being compared: measurements of different prompts.
    pub warnings: Vec<String>,
}

/// Columns of their own, which stand only where a run has the benchmark. The headline has the first ones.
fn declared() -> impl Iterator<Item = (&'static Measure, Column)> {
    measures().filter(|measure| measure.headline.is_none()).filter_map(|measure| Some((measure, measure.column?)))
}

/// A measure in its column.
fn cell(measure: &Measure, cell: Cell, evaluation: &Evaluation) -> Option<String> {
    let score = evaluation.get(measure.benchmark)?;
    let (found, count) = (measure.of(score), measure.count(evaluation));
    match cell {
        Cell::Share => share(found?, count?),
        Cell::Count => Some(format!("{:.2} (n={})", found?, count?)),
        Cell::Beside(other) => Some(format!("{:.2}, {:.2} (n={})", found?, score.values.get(other)?, count?)),
        Cell::CountOfAll => {
            let found = found.map_or_else(|| "none".to_owned(), |found| format!("{found:.2}"));
            Some(format!("{found} ({} of {} rated)", count?, score.n))
        }
    }
}

/// Columns that every comparison has, around those of the headline.
const COLUMNS: [&str; 5] =
    ["variant", "95% interval", "against\nstart", "harmful rows\ntrained on", "benign\nrows\nlost"];

const OTHERS_READING: &str = "other benchmarks, by their names: share of prompts whose answer is a refusal (holds a refusal string that is not the prompt's own), \
                              is judged safe, or is right.";

const READING: [&str; 2] = [
    "harmful rows trained on: rows known to be harmful that clients had to train on, of all rows that they had, over all \
     rounds (few steps draw only some of them); a reweighted row counts as its weight.",
    "benign rows lost: rows known to be harmless that the guard filtered, replaced or reweighted.",
];

impl Comparison {
    /// Compares runs, each under its name.
    pub fn of<'a>(runs: impl IntoIterator<Item = (&'a str, &'a Summary)>) -> Self {
        let runs: Vec<_> = runs.into_iter().collect();
        let evaluations: Vec<_> =
            runs.iter().flat_map(|(_, run)| run.base_eval.iter().chain([&run.start_eval, &run.eval])).collect();
        let has = |benchmark: &str| evaluations.iter().any(|of| of.contains_key(benchmark));
        let measured: Vec<_> = declared().filter(|(measure, _)| has(measure.benchmark)).collect();
        let others = others(evaluations.iter().copied());
        let measured = Measured { columns: &measured, others: &others };
        let before = |name, of: fn(&Summary) -> Option<&Evaluation>| lines_before(name, &runs, of, &measured);
        let base = before("base", |run| run.base_eval.as_ref());
        let start = before("start", |run| Some(&run.start_eval));
        let mut compared = Self {
            columns: columns_always().into_iter().map(str::to_owned).chain(measured.titles()).collect(),
            lines: base.into_iter().chain(start).collect(),
            warnings: different_prompts(&runs),
            reading: reading_always().map(str::to_owned).chain(measured.reading()).collect(),
        };
        let before = compared.lines.len();
        compared.lines.extend(runs.iter().map(|(name, run)| line(name, run, &measured)));
        let costs: Vec<_> = runs.iter().map(|(_, run)| run.totals.realignments.total()).collect();
        if costs.iter().any(|cost| cost.tokens > 0) {
            compared.columns.push("CAI:\nseconds,\nTFLOP".to_owned());
            let reading = "CAI: what Constitutional AI took on the server, generation and training, by the clock and in 10¹² operations.";
            compared.reading.push(reading.to_owned());
            // What was there before the runs cost nothing.
            let cells = std::iter::repeat_n(String::new(), before).chain(costs.into_iter().map(cost_cell));
            compared.lines.iter_mut().zip(cells).for_each(|(line, cell)| line.push(cell));
        }
        if runs.iter().any(|(_, run)| !run.totals.faults.is_empty()) {
            compared.columns.extend(["faults\nput in", "updates\nthat\ncounted"].map(str::to_owned));
            let reading = [
                "faults put in: what was made to go wrong on purpose, where there was something that it struck.",
                "updates that counted: those that the global adapter took in, of all that selected clients were asked for.",
            ];
            compared.reading.extend(reading.map(str::to_owned));
            let cells = runs.iter().map(|(_, run)| fault_cells(&run.totals));
            let cells = std::iter::repeat_n([const { String::new() }; 2], before).chain(cells);
            compared.lines.iter_mut().zip(cells).for_each(|(line, cells)| line.extend(cells));
        }
        compared
    }
}

/// Titles of the columns that every comparison has.
fn columns_always() -> Vec<&'static str> {
    let [first, others @ ..] = COLUMNS;
    [first, HEADLINE.column.map_or("", |column| column.title)].into_iter().chain(others).collect()
}

fn reading_always() -> impl Iterator<Item = &'static str> {
    HEADLINE.column.map(|column| column.reading).into_iter().chain(READING)
}

/// The benchmarks that any run has.
struct Measured<'m> {
    columns: &'m [(&'static Measure, Column)],
    others: &'m [(String, &'static OtherMeasure)],
}

impl Measured<'_> {
    fn titles(&self) -> impl Iterator<Item = String> {
        let own = self.columns.iter().map(|(_, column)| column.title.to_owned());
        own.chain(self.others.iter().map(|(name, measure)| measure.title(name)))
    }

    fn reading(&self) -> impl Iterator<Item = String> {
        let own = self.columns.iter().map(|(_, column)| column.reading.to_owned());
        own.chain((!self.others.is_empty()).then(|| OTHERS_READING.to_owned()))
    }

    /// One cell a column; empty where it was not measured.
    fn cells(&self, evaluation: &Evaluation) -> Vec<String> {
        let own = self.columns.iter().map(|(measure, column)| cell(measure, column.cell, evaluation));
        let others = self.others.iter().map(|(name, measure)| {
            let score = evaluation.get(name)?;
            share(measure.read(score)?, score.n)
        });
        own.chain(others).map(Option::unwrap_or_default).collect()
    }
}

/// A line for each evaluation of what was there before the runs: of one that they have in common, or of each with the names of
/// its runs. Runs of which nothing is known have none.
fn lines_before(
    name: &str,
    runs: &[(&str, &Summary)],
    of: fn(&Summary) -> Option<&Evaluation>,
    measured: &Measured<'_>,
) -> Vec<Vec<String>> {
    let mut different: Vec<(&Evaluation, Vec<&str>)> = Vec::new();
    for (run, summary) in runs {
        let Some(found) = of(summary).filter(|found| !found.is_empty()) else { continue };
        match different.iter_mut().find(|(known, _)| *known == found) {
            Some((_, names)) => names.push(run),
            None => different.push((found, vec![run])),
        }
    }
    let is_one = different.len() == 1;
    let named = |names: &[&str]| if is_one { name.to_owned() } else { format!("{name} of {}", names.join(", ")) };
    different.iter().map(|(found, names)| line_before(&named(names), found, measured)).collect()
}

/// Warns of benchmarks that the runs' ends were not measured on the same prompts, as far as runs say which these were.
fn different_prompts(runs: &[(&str, &Summary)]) -> Vec<String> {
    let mut sizes: BTreeMap<&str, BTreeMap<(u64, &str), Vec<&str>>> = BTreeMap::new();
    for (name, run) in runs {
        for (benchmark, score) in &run.eval {
            let prompts = score.items.as_ref().map_or("", |items| &items.sha256);
            sizes.entry(benchmark).or_default().entry((score.n, prompts)).or_default().push(name);
        }
    }
    let differing = sizes.into_iter().filter(|(_, sizes)| sizes.len() > 1);
    let told = differing.map(|(benchmark, sizes)| {
        let sizes: Vec<_> = sizes.iter().map(|((n, _), names)| format!("n={n} in {}", names.join(", "))).collect();
        format!(
            "warning: {benchmark} was not measured on the same prompts, its numbers cannot be compared: {}",
            sizes.join("; ")
        )
    });
    told.collect()
}

/// A line of what was there before training: the base model, the starting adapter.
fn line_before(name: &str, found: &Evaluation, measured: &Measured<'_>) -> Vec<String> {
    let [refused, interval] = headline_cells(found);
    let none = String::new;
    let mut line = vec![name.to_owned(), refused, interval, none(), none(), none()];
    line.extend(measured.cells(found));
    line
}

fn line(name: &str, run: &Summary, measured: &Measured<'_>) -> Vec<String> {
    let [refused, interval] = headline_cells(&run.eval);
    let change = match (headline(&run.eval), headline(&run.start_eval)) {
        // Of other prompts it would be no change.
        (Some((end, n)), Some((start, of))) if n == of => format!("{:+.2}", end - start),
        _ => String::new(),
    };
    let totals = &run.totals;
    let trained_on = format!("{} of {}", rows(totals.rows.unsafe_trained_on()), rows(totals.rows.trained_on()));
    let lost = totals.rows.filtered_safe.to_string();
    let mut line = vec![name.to_owned(), refused, interval, change, trained_on, lost];
    line.extend(measured.cells(&run.eval));
    line
}

/// A number of rows, of which some may count in part.
fn rows(count: f64) -> String {
    if count.fract() == 0.0 { format!("{count:.0}") } else { format!("{count:.1}") }
}

/// The comparison as a terminal shows it, and how to read it.
pub fn comparison(summaries: &[Summary]) -> String {
    let named = || summaries.iter().map(|run| (run.label(), run));
    let Comparison { columns, lines, reading, warnings } = Comparison::of(named());
    let table = terminal_table(columns, lines);
    let notes = summaries.iter().filter_map(without_change);
    let below: Vec<_> = reading.into_iter().chain(warnings).chain(notes).collect();
    let pairs = PairedComparison::of(named());
    let pairs = if pairs.lines.is_empty() {
        String::new()
    } else {
        format!("\n{}\n{}", terminal_table(pairs.columns, pairs.lines), pairs::READING)
    };
    format!("{table}\n{}{pairs}", below.join("\n"))
}

/// A table of names in the first column and numbers in the others.
fn terminal_table(columns: Vec<String>, lines: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let count = columns.len();
    table.set_header(columns);
    for column in 1..count {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in lines {
        table.add_row(line);
    }
    table
}

/// A run like one without any effect may have had none.
fn without_change(run: &Summary) -> Option<String> {
    let Totals { rounds, committed, .. } = run.totals;
    let unchanged = rounds - committed.unwrap_or(rounds).min(rounds);
    (unchanged > 0).then(|| {
        format!(
            "warning: {unchanged} of {rounds} rounds of {} left the adapter as it was; its rounds.jsonl and clients.jsonl say why",
            run.label()
        )
    })
}

/// Faults, and updates that counted.
fn fault_cells(totals: &Totals) -> [String; 2] {
    let faults: u64 = totals.faults.values().sum();
    let asked = totals.accepted + totals.rejected + totals.dropped;
    [faults.to_string(), format!("{} of {asked}", totals.counted.unwrap_or(totals.accepted))]
}

/// Seconds and 10¹² floating-point operations; empty for no work.
fn cost_cell(cost: Cost) -> String {
    if cost.tokens == 0 {
        return String::new();
    }
    format!("{:.0}, {:.1}", cost.seconds, cost.flops / 1e12)
}

/// A rate with its numerator and denominator; nothing of nothing.
fn share(rate: f64, n: u64) -> Option<String> {
    (n > 0).then(|| format!("{rate:.2} ({:.0} of {n})", rate * n as f64))
}

/// The headline, and how many prompts it rests on.
fn headline(evaluation: &Evaluation) -> Option<(f64, u64)> {
    Some((HEADLINE.read(evaluation)?, HEADLINE.count(evaluation)?))
}

/// The headline with its denominator, and its interval; empty where it was not measured.
fn headline_cells(evaluation: &Evaluation) -> [String; 2] {
    let found = headline(evaluation).and_then(|(rate, n)| share(rate, n));
    let bounds = evaluation.get(HEADLINE.benchmark).and_then(|score| HEADLINE.interval(score));
    let interval = bounds.map(|(low, high)| format!("{low:.2} to {high:.2}"));
    [found, interval].map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
