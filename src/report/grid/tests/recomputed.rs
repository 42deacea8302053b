//! `scenarios/paper/check.py` computes the tables of a grid anew from its CSV.

use std::{fs, path::Path, process::Command};

use super::*;

/// A grid with everything that a table is made of: two strategies, three seeds, guards, full and light Constitutional AI, warnings.
fn grid() -> Vec<CellResult> {
    let mut cells = Vec::new();
    for seed in 1..=3 {
        for strategy in ["fedavg", "scaffold"] {
            for (place, defence) in ["none", "filter", "cai", "cai-light", "filter+cai"].into_iter().enumerate() {
                let draw = (seed as f64 * 0.713 + place as f64 * 0.291 + strategy.len() as f64 * 0.177).fract();
                let mut cell = cell(strategy, defence, seed, draw);
                cell.summary.base_eval = Some(evaluation(0.1 * draw));
                for evaluation in [&mut cell.summary.start_eval, &mut cell.summary.eval] {
                    let values = [("macro", 0.4 + draw / 7.0), ("macro_length_normalised", 0.55), ("chance", 0.5)];
                    let values = values.map(|(name, value)| (name.to_owned(), value)).into();
                    evaluation.insert("hhh".to_owned(), BenchmarkScore { n: 10, items: None, values });
                    let refusals = &mut evaluation.get_mut("advbench").unwrap().values;
                    refusals.insert("guard_safe_rate".to_owned(), 1.0 - draw / 3.0);
                }
                if defence.starts_with("filter") {
                    let held_out =
                        BinaryMetrics::of_calls(&[0.9, draw, 0.4], &[true, true, false], &[true, false, true]);
                    cell.guard = Some(CellGuard { held_out: Some(held_out), on_clients: Some(held_out) });
                    cell.summary.totals.rows = GuardCounts {
                        kept: 60 + seed,
                        filtered: 40,
                        kept_unsafe: 3,
                        filtered_safe: 2,
                        ..GuardCounts::default()
                    };
                }
                cell.rounds = vec![round(), RoundRecord { warnings: vec!["too few".to_owned()], ..round() }];
                if defence.contains("cai") {
                    let part = Cost { seconds: 100.0 * draw + 1.0, tokens: 1234, flops: 3e12 * draw };
                    let cost = RealignmentCost { generate: part, sft: part, dpo: Cost::default() };
                    let report = RealignmentReport {
                        red_prompts: 16,
                        revisions: 9 + seed,
                        cost,
                        ..RealignmentReport::default()
                    };
                    cell.rounds[0].align = Some(report);
                }
                cells.push(cell);
            }
        }
    }
    cells
}

/// Whether the script finds every number, and what it says.
fn checked(folder: &Path) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/paper/check.py");
    let output = Command::new("python3").arg(script).arg(folder).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn every_number_of_the_tables_is_computed_anew_from_the_csv() {
    let folder = tempfile::tempdir().unwrap();
    let cells = grid();
    let text = markdown("a grid", &cells);
    fs::write(folder.path().join("grid.csv"), csv(&cells)).unwrap();
    fs::write(folder.path().join("grid.md"), &text).unwrap();
    let (is_right, said) = checked(folder.path());
    assert!(is_right && said.contains(", 0 differ"), "{said}\n{text}");
    // What remains are the paper's own numbers: of what is not measured here, of its guard and of its costs.
    assert!(!said.contains("warnings'") && !said.contains("compared'"), "{said}");
    // A number of each table that is another is found.
    for (table, number) in [
        ("| none | ", "± "),
        ("| fedavg | none | ", "± "),
        ("| fedavg | filter − none | ", " to "),
        ("| fedavg | cai | ", "| "),
        ("| fedavg | cai-light beside cai | none | ", ""),
        ("| held-out rows of what it was fitted on | ", "("),
        ("fedavg filter: warnings in ", ""),
    ] {
        let line = text.find(table).unwrap_or_else(|| panic!("no {table} in {text}")) + table.len();
        let digit = line + text[line..].find(number).unwrap() + number.len();
        let digit = digit + text[digit..].find(|letter: char| letter.is_ascii_digit()).unwrap();
        let mut changed = text.clone();
        changed.replace_range(digit..=digit, if &text[digit..=digit] == "7" { "3" } else { "7" });
        fs::write(folder.path().join("grid.md"), &changed).unwrap();
        let (is_right, said) = checked(folder.path());
        assert!(!is_right && said.contains(", 1 differ"), "{table}: {said}");
    }
}
