//! What people read of a measurement.

use comfy_table::{Table, presets};

use crate::{
    data::hazards,
    safety::guard::{BinaryMetrics, Measurement, shown},
};

/// Quality by source, by hazard, and by threshold.
pub(super) fn tables(measured: &Measurement) -> String {
    let mut parts = vec![by_source(measured).to_string()];
    if !measured.by_hazard.is_empty() {
        parts.push(by_hazard(measured).to_string());
    }
    parts.push(curve(measured).to_string());
    parts.join("\n")
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

fn by_source(measured: &Measurement) -> Table {
    let mut table =
        new_table(&["rows", "n", "unsafe", "accuracy", "precision", "recall", "F1", "AUC", "recall at 1% FPR"]);
    let mut add = |name: &str, metrics: &BinaryMetrics| {
        let BinaryMetrics { n, positives, accuracy, precision, recall, f1, auc, recall_at_1_percent } = metrics;
        let mut cells = vec![name.to_owned(), n.to_string(), positives.to_string()];
        cells.extend([accuracy, precision, recall, f1, auc, recall_at_1_percent].map(|value| shown(*value, 3)));
        table.add_row(cells);
    };
    if measured.by_source.len() > 1 {
        measured.by_source.iter().for_each(|(source, metrics)| add(source, metrics));
    }
    add("all", &measured.all);
    table
}

fn by_hazard(measured: &Measurement) -> Table {
    let mut table = new_table(&["hazard", "n", "called unsafe", "named", "named rightly"]);
    for metrics in &measured.by_hazard {
        let code = &metrics.hazard;
        let name = hazards::parse(code).map_or("", hazards::name);
        let mut cells = vec![format!("{code} {name}"), metrics.n.to_string()];
        cells.extend([metrics.recall, metrics.named_recall, metrics.named_precision].map(|value| shown(value, 3)));
        table.add_row(cells);
    }
    table
}

fn curve(measured: &Measurement) -> Table {
    let mut table = new_table(&["threshold", "precision", "recall", "F1", "false alarms"]);
    for point in &measured.curve {
        let mut cells = vec![point.threshold.to_string()];
        cells.extend([point.precision, point.recall, point.f1, point.false_alarm_rate].map(|value| shown(value, 3)));
        table.add_row(cells);
    }
    table
}
