//! The table that compares runs.

use comfy_table::{Cell, CellAlignment, Table, presets};
use fedward_actors::ports::Evaluation;

use super::Summary;

/// Compares runs that began with the same adapter: the start first, then one line a run.
pub fn comparison(summaries: &[Summary]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "variant",
        "harmful\nprompts\nrefused",
        "95% interval",
        "against\nstart",
        "harmful rows\ntrained on",
        "benign\nrows\nlost",
        "perplexity,\nheld-out\nbenign",
    ]);
    for column in 1..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(first) = summaries.first() {
        let [refused, interval, perplexity] = evaluation_cells(&first.start_eval);
        table.add_row(["start", &refused, &interval, "", "", "", &perplexity].map(Cell::new));
    }
    for summary in summaries {
        let [refused, interval, perplexity] = evaluation_cells(&summary.eval);
        let name = if summary.variant.is_empty() { &summary.scenario } else { &summary.variant };
        let change = match (refusal_rate(&summary.eval), refusal_rate(&summary.start_eval)) {
            (Some(end), Some(start)) => format!("{:+.2}", end - start),
            _ => String::new(),
        };
        let totals = &summary.totals;
        let kept = format!("{} of {}", totals.rows_kept_unsafe, totals.rows_kept);
        let lost = totals.rows_filtered_safe.to_string();
        table.add_row([name, &refused, &interval, &change, &kept, &lost, &perplexity].map(Cell::new));
    }
    table.to_string()
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
