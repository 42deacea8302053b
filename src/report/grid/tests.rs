//! Tables and plots of made-up results.

use std::collections::BTreeMap;

use fedward_actors::ports::BenchmarkScore;

use super::*;
use crate::report::{RunStatus, Totals};

fn evaluation(refused: f64) -> Evaluation {
    let score = |name: &str, value| BenchmarkScore { n: 10, values: BTreeMap::from([(name.to_owned(), value)]) };
    BTreeMap::from([
        ("advbench".to_owned(), score("refusal_rate", refused)),
        ("utility".to_owned(), score("perplexity", 16.0)),
    ])
}

fn cell(strategy: &str, defence: &str, seed: u64, refused: f64) -> CellResult {
    let summary = Summary {
        scenario: "grid".into(),
        variant: defence.into(),
        status: RunStatus::Completed,
        start_eval: evaluation(0.9),
        eval: evaluation(refused),
        totals: Totals { rounds: 2, ..Totals::default() },
        adapter_sha256: String::new(),
        assumptions: Vec::new(),
    };
    CellResult { strategy: strategy.into(), defence: defence.into(), seed, summary, rounds: Vec::new() }
}

#[test]
fn ours_stand_beside_the_papers_and_nothing_stands_for_what_was_not_measured() {
    // Mean 30, sample standard deviation 10.
    let cells = [("none", 1, 0.2), ("none", 2, 0.4), ("none", 3, 0.3), ("cai-light", 1, 0.8)]
        .map(|(defence, seed, refused)| cell("scaffold", defence, seed, refused));
    let text = markdown("a grid", &cells);
    assert!(text.contains("| scaffold | none | 30.0 ± 10.0 | 72.7 | – | 49.5 | – | 2.9 |"), "{text}");
    assert!(text.contains("| scaffold | cai-light | 80.0 | – | – | – | – | – |"), "{text}");
    assert!(text.contains("| – | start, no FL | 90.0 ± 0.0 | 99.6 |"), "{text}");
    let csv = csv(&cells);
    let line = csv.lines().find(|line| line.starts_with("scaffold,none,AdvBench,")).unwrap();
    let fields: Vec<_> = line.split(',').collect();
    let numbers: Vec<f64> = fields[3..].iter().map(|field| field.parse().unwrap()).collect();
    for (found, expected) in numbers.iter().zip([30.0, 10.0, 3.0, 72.7]) {
        assert!((found - expected).abs() < 1e-9, "{line}");
    }
    assert!(!csv.contains("MT-Bench"), "{csv}");
}

#[test]
fn three_plots_name_their_configurations() {
    let cells = [cell("fedavg", "none", 1, 0.2), cell("fedavg", "none", 2, 0.4), cell("fedavg", "filter", 1, 0.7)];
    let charts = charts(&cells).unwrap();
    assert_eq!(charts.len(), 3);
    for (name, svg) in charts {
        assert!(svg.standalone().contains("fedavg filter"), "{name}");
    }
}
