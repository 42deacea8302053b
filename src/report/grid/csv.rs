//! Every number of a grid, one line a cell and measure, for whoever computes the tables anew.

use std::{collections::BTreeSet, fmt::Write};

use fedward_actors::ports::Evaluation;

use super::{AlignCost, CellResult, RowShare, cai, guard, measures_of, paper, read, read_chance};
use crate::{
    eval::measure::{GridTable, Measure},
    report::others::others,
};

/// What a line is about. Names of strategies and variants hold neither commas nor quotes.
struct Row<'a> {
    strategy: &'a str,
    defence: &'a str,
    seed: u64,
    measure: String,
    value: f64,
    /// Prompts or items that it rests on, where it is a rate or mean of such.
    n: Option<u64>,
    /// The paper's value, which is the same for all seeds.
    paper: Option<f64>,
}

/// One line a seed: strategy, defence, seed, measure, value, n, the paper's value. What runs of one seed began with has no strategy.
pub fn csv(cells: &[CellResult]) -> String {
    let mut text = "strategy,defence,seed,measure,value,n,paper\n".to_owned();
    for row in before(cells).chain(cells.iter().flat_map(after)) {
        let Row { strategy, defence, seed, measure, value, n, paper } = row;
        let n = n.map_or_else(String::new, |n| n.to_string());
        let paper = paper.map_or_else(String::new, |paper| paper.to_string());
        let _ = writeln!(text, "{strategy},{defence},{seed},{measure},{value},{n},{paper}");
    }
    text
}

/// The base model, the start and what guessing comes to, once a seed.
fn before(cells: &[CellResult]) -> impl Iterator<Item = Row<'_>> {
    let mut seeds = BTreeSet::new();
    let first_of_seed = cells.iter().filter(move |cell| seeds.insert(cell.seed));
    first_of_seed.flat_map(|cell| {
        let mut rows = Vec::new();
        if let Some(base) = &cell.summary.base_eval {
            rows.extend(measured(cell, "base", base, |_| None));
        }
        rows.extend(measured(cell, "start", &cell.summary.start_eval, paper::base));
        let start = &cell.summary.start_eval;
        let guessed =
            measures_of(GridTable::Paper).filter_map(|(measure, _)| Some((measure, read_chance(measure, start)?)));
        rows.extend(guessed.map(|(measure, value)| Row {
            strategy: "",
            defence: "chance",
            seed: cell.seed,
            measure: measure.name.to_owned(),
            value,
            n: measure.count(start),
            paper: None,
        }));
        rows
    })
}

fn measured<'a>(
    cell: &'a CellResult,
    name: &'a str,
    evaluation: &'a Evaluation,
    paper: impl Fn(&Measure) -> Option<f64>,
) -> impl Iterator<Item = Row<'a>> {
    let row = move |measure: String, value: f64, n: Option<u64>, paper: Option<f64>| Row {
        strategy: "",
        defence: name,
        seed: cell.seed,
        measure,
        value,
        n,
        paper,
    };
    let measures = measures_of(GridTable::Paper).chain(measures_of(GridTable::Ours));
    let own = measures.filter_map(move |(measure, _)| {
        let (value, n) = (read(measure, evaluation)?, measure.count(evaluation));
        Some(row(measure.name.to_owned(), value, n, paper(measure)))
    });
    let others = others([evaluation]).into_iter().filter_map(move |(benchmark, measure)| {
        let score = evaluation.get(&benchmark)?;
        let value = 100.0 * measure.read(score)?;
        Some(row(format!("{benchmark} {}", measure.words), value, Some(score.n), None))
    });
    own.chain(others)
}

/// What a cell ended with.
fn after(cell: &CellResult) -> Vec<Row<'_>> {
    let own = |measure: String, value: f64, n: Option<u64>| Row {
        strategy: &cell.strategy,
        defence: &cell.defence,
        seed: cell.seed,
        measure,
        value,
        n,
        paper: None,
    };
    let theirs = |measure: &Measure| paper::result(&cell.strategy, &cell.defence, measure);
    let mut rows: Vec<_> = measured(cell, &cell.defence, &cell.summary.eval, theirs)
        .map(|row| Row { strategy: &cell.strategy, ..row })
        .collect();
    let shares = RowShare::ALL.into_iter().filter_map(|share| Some((share.name(), share.read(&cell.summary.totals)?)));
    rows.extend(shares.map(|(name, value)| own(name.to_owned(), value, Some(cell.summary.totals.rows.all()))));
    if cell.rounds.iter().any(|round| round.align.is_some()) {
        rows.extend(cai::COUNTS.map(|(name, count)| {
            own(format!("cai_{}", name.to_lowercase().replace(' ', "_")), cai::sum(&cell.rounds, count) as f64, None)
        }));
    }
    let costs = ["cai_seconds", "cai_kilotokens", "cai_teraflops"].into_iter().zip(AlignCost::ALL);
    rows.extend(costs.map(|(name, cost)| own(name.to_owned(), cost.read(&cell.rounds), None)));
    rows.extend(guard::numbers(cell).into_iter().map(|(name, value)| own(name, value, None)));
    let warned = cell.rounds.iter().filter(|round| !round.warnings.is_empty()).count();
    for (name, count) in [("rounds", cell.rounds.len()), ("rounds with warnings", warned)] {
        rows.push(own(name.to_owned(), count as f64, None));
    }
    rows
}
