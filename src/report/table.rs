//! The table that compares runs.

use comfy_table::{CellAlignment, Table, presets};
use fedward_actors::ports::{Cost, Evaluation};

use super::Summary;

/// A comparison as text: what the columns are, and one line a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Names of the columns, broken into short lines; the first column holds names, the others numbers.
    pub columns: Vec<&'static str>,
    /// The start first, if all runs began with the same measurements, then the runs.
    pub lines: Vec<Vec<String>>,
}

impl Comparison {
    /// Compares runs, each under its name.
    pub fn of<'a>(runs: impl IntoIterator<Item = (&'a str, &'a Summary)>) -> Self {
        let runs: Vec<_> = runs.into_iter().collect();
        let start = runs.first().map(|(_, first)| &first.start_eval);
        let begins_alike = |start: &&Evaluation| runs.iter().all(|(_, run)| run.start_eval == **start);
        let start = start.filter(begins_alike).filter(|start| !start.is_empty());
        let lines = start.map(start_line).into_iter().chain(runs.iter().map(|(name, run)| line(name, run))).collect();
        Self { columns: COLUMNS.to_vec(), lines }
    }
}

const COLUMNS: [&str; 7] = [
    "variant",
    "harmful\nprompts\nrefused",
    "95% interval",
    "against\nstart",
    "harmful rows\ntrained on",
    "benign\nrows\nlost",
    "perplexity,\nheld-out\nbenign",
];

fn start_line(start: &Evaluation) -> Vec<String> {
    let [refused, interval, perplexity] = evaluation_cells(start);
    let none = String::new;
    vec!["start".to_owned(), refused, interval, none(), none(), none(), perplexity]
}

fn line(name: &str, run: &Summary) -> Vec<String> {
    let [refused, interval, perplexity] = evaluation_cells(&run.eval);
    let change = match (refusal_rate(&run.eval), refusal_rate(&run.start_eval)) {
        (Some(end), Some(start)) => format!("{:+.2}", end - start),
        _ => String::new(),
    };
    let totals = &run.totals;
    let kept = format!("{} of {}", rows(totals.unsafe_rows_trained_on()), rows(totals.rows_trained_on()));
    let lost = totals.rows_filtered_safe.to_string();
    vec![name.to_owned(), refused, interval, change, kept, lost, perplexity]
}

/// A number of rows, of which some may count in part.
fn rows(count: f64) -> String {
    if count.fract() == 0.0 { format!("{count:.0}") } else { format!("{count:.1}") }
}

/// The comparison as a terminal shows it.
pub fn comparison(summaries: &[Summary]) -> String {
    let Comparison { columns, lines } = Comparison::of(summaries.iter().map(|run| (run.label(), run)));
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let realigned = summaries.iter().any(|summary| summary.totals.realignments.total().tokens > 0);
    let costs = summaries.iter().map(|run| cost_cell(run.totals.realignments.total()));
    let header = columns.iter().copied().chain(realigned.then_some("CAI:\nseconds,\nTFLOP"));
    table.set_header(header);
    for column in 1..=COLUMNS.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The line of the start, where there is one, cost nothing.
    let mut costs = std::iter::repeat_n(String::new(), lines.len() - summaries.len()).chain(costs);
    for mut line in lines {
        line.extend(costs.next().filter(|_| realigned));
        table.add_row(line);
    }
    table.to_string()
}

/// Seconds and 10¹² floating-point operations; empty for no work.
fn cost_cell(cost: Cost) -> String {
    if cost.tokens == 0 {
        return String::new();
    }
    format!("{:.0}, {:.1}", cost.seconds, cost.flops / 1e12)
}

fn refusal_rate(evaluation: &Evaluation) -> Option<f64> {
    evaluation.get("advbench")?.values.get("refusal_rate").copied()
}

/// Refusals with their denominator, interval, perplexity; empty where they were not measured.
fn evaluation_cells(evaluation: &Evaluation) -> [String; 3] {
    let value = |benchmark: &str, name: &str| evaluation.get(benchmark)?.values.get(name).copied();
    let refused = evaluation.get("advbench").and_then(|score| {
        let rate = score.values.get("refusal_rate")?;
        Some(format!("{rate:.2} ({:.0} of {})", rate * score.n as f64, score.n))
    });
    let interval = value("advbench", "ci_low")
        .zip(value("advbench", "ci_high"))
        .map(|(low, high)| format!("{low:.2} to {high:.2}"));
    let perplexity = value("utility", "perplexity").map(|value| format!("{value:.2}"));
    [refused, interval, perplexity].map(Option::unwrap_or_default)
}
