//! The results of Noh & Baek, "Toward Responsible Federated LLMs" (arXiv 2502.16691), on Llama-3.1-8B-Instruct.

use super::measures_of;
use crate::eval::measure::{GridTable, Measure};

/// The base model without federated learning: AdvBench, HHH, MT-Bench.
const BASE: [f64; 3] = [99.6, 60.0, 6.8];

/// By defence: the same with `FedAvg`, then with SCAFFOLD.
const RESULTS: [(&str, [f64; 3], [f64; 3]); 4] = [
    ("none", [72.5, 49.3, 2.7], [72.7, 49.5, 2.9]),
    ("filter", [81.2, 51.8, 2.4], [78.8, 54.6, 2.7]),
    ("cai", [96.2, 57.3, 5.8], [96.5, 62.6, 5.9]),
    ("filter+cai", [96.3, 63.7, 6.1], [97.1, 63.9, 5.8]),
];

/// The paper's guards on SQuARe, in percent: accuracy, precision, recall, F1.
pub(super) const GUARDS: [(&str, [f64; 4]); 2] = [
    ("Llama Guard 3 (the paper)", [70.1, 90.6, 0.5, 1.0]),
    ("Llama Guard 3, fine-tuned (the paper)", [75.5, 56.7, 73.7, 64.1]),
];

/// Minutes that Constitutional AI takes a round, light and full, on four A100.
pub(super) const MINUTES: [f64; 2] = [3.2, 80.0];

fn pick(row: [f64; 3], measure: &Measure) -> Option<f64> {
    measures_of(GridTable::Paper).zip(row).find(|((of, _), _)| *of == measure).map(|(_, value)| value)
}

/// What the paper found without federated learning.
pub(super) fn base(measure: &Measure) -> Option<f64> {
    pick(BASE, measure)
}

/// What the paper found; `None` for what it does not have.
pub(super) fn result(strategy: &str, defence: &str, measure: &Measure) -> Option<f64> {
    let (_, fedavg, scaffold) = RESULTS.iter().find(|(name, ..)| *name == defence)?;
    match strategy {
        "fedavg" => pick(*fedavg, measure),
        "scaffold" => pick(*scaffold, measure),
        _ => None,
    }
}
