//! What Constitutional AI did in the runs of a grid, and what it took.

use std::fmt::Write;

use fedward_actors::{ports::RealignmentReport, records::RoundRecord};

use super::{AlignCost, Configuration, Spread, tables};

/// A number of a realignment.
type Count = (&'static str, fn(&RealignmentReport) -> u64);

/// What is counted, and what it is called in the CSV.
pub(super) const COUNTS: [Count; 5] = [
    ("red prompts", |report| report.red_prompts),
    ("answers kept", |report| report.good_answers),
    ("revised", |report| report.revisions),
    ("discarded", |report| report.discarded.values().sum()),
    ("pairs for DPO", |report| report.preference.map_or(0, |preference| preference.pairs)),
];

/// A line a configuration with Constitutional AI, over all rounds of a run; nothing where none has it.
pub(super) fn table(configurations: &[Configuration<'_>]) -> String {
    let realigned: Vec<_> = configurations.iter().filter(|of| is_realigned(of)).collect();
    if realigned.is_empty() {
        return String::new();
    }
    let mut text = "| Constitutional AI, a run | |".to_owned();
    let names = COUNTS.map(|(name, _)| name).into_iter().chain(AlignCost::ALL.map(AlignCost::name));
    let names: Vec<_> = names.collect();
    let _ = writeln!(text, " {} |\n|---|---|{}", names.join(" | "), "---:|".repeat(names.len()));
    for of in realigned {
        let found = COUNTS.map(|(_, count)| spread(of, count)).into_iter();
        let found: Vec<_> = found.chain(AlignCost::ALL.map(|cost| of.align(cost))).map(tables::spread).collect();
        let _ = writeln!(text, "| {} | {} | {} |", of.strategy, of.defence, found.join(" | "));
    }
    text.push('\n');
    text
}

/// Sums over the rounds of a run.
pub(super) fn spread(of: &Configuration<'_>, count: fn(&RealignmentReport) -> u64) -> Option<Spread> {
    is_realigned(of).then_some(())?;
    Spread::of(of.cells.iter().map(|cell| sum(&cell.rounds, count) as f64))
}

/// The sum over rounds.
pub(super) fn sum(rounds: &[RoundRecord], count: fn(&RealignmentReport) -> u64) -> u64 {
    rounds.iter().filter_map(|round| round.align.as_ref()).map(count).sum()
}

fn is_realigned(of: &Configuration<'_>) -> bool {
    of.cells.iter().flat_map(|cell| &cell.rounds).any(|round| round.align.is_some())
}
