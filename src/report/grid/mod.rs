//! What the cells of a grid come to: tables in the paper's layout with the paper's numbers beside ours, and plots.

mod cai;
mod charts;
mod csv;
mod guard;
mod light;
mod matrix;
mod pairs;
mod paper;
mod tables;

use fedward_actors::{
    ports::{Cost, Evaluation},
    records::RoundRecord,
};

use super::{Summary, Totals};
use crate::{
    eval::measure::{GridPlace, GridTable, Measure, Unit, measures_by_kind},
    safety::guard::BinaryMetrics,
};

pub use charts::charts;
pub use csv::csv;
pub use tables::markdown;

/// A finished cell.
#[derive(Clone, Debug)]
pub struct CellResult {
    /// The federated algorithm.
    pub strategy: String,
    /// The defence: the variant's name.
    pub defence: String,
    /// What it is on each axis of the file, if that has any.
    pub point: Vec<(String, String)>,
    /// The seed.
    pub seed: u64,
    /// The checksum of the adapter that it started from.
    pub start_sha256: String,
    /// What the run came to.
    pub summary: Summary,
    /// Its rounds.
    pub rounds: Vec<RoundRecord>,
    /// Its guard, if clients had one.
    pub guard: Option<CellGuard>,
}

/// What is known of a cell's guard.
#[derive(Clone, Copy, Debug)]
pub struct CellGuard {
    /// What it is worth on rows that it was not fitted on, where that was measured.
    pub held_out: Option<BinaryMetrics>,
    /// What it is worth on clients' rows by its scores, where that was measured.
    pub on_clients: Option<BinaryMetrics>,
}

/// The measures of a table, with their places there.
fn measures_of(table: GridTable) -> impl Iterator<Item = (&'static Measure, GridPlace)> {
    let placed = measures_by_kind().filter_map(|measure| Some((measure, measure.grid?)));
    placed.filter(move |(_, place)| place.table == table)
}

/// The value of a measure in an evaluation, shares in percent; `None` where it was not measured.
fn read(measure: &Measure, evaluation: &Evaluation) -> Option<f64> {
    Some(scale(measure) * measure.read(evaluation)?)
}

/// What guessing comes to, as [`read`] has it.
fn read_chance(measure: &Measure, evaluation: &Evaluation) -> Option<f64> {
    let score = evaluation.get(measure.benchmark)?;
    Some(scale(measure) * score.values.get(measure.chance?)?)
}

fn scale(measure: &Measure) -> f64 {
    if measure.unit == Unit::Share { 100.0 } else { 1.0 }
}

/// What Constitutional AI takes in all rounds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AlignCost {
    /// Seconds on the clock.
    Seconds,
    /// Tokens through the model, in thousands.
    KiloTokens,
    /// Floating-point operations by formula, in 10^12.
    TeraFlops,
}

impl AlignCost {
    const ALL: [Self; 3] = [Self::Seconds, Self::KiloTokens, Self::TeraFlops];

    const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::KiloTokens => "thousand tokens",
            Self::TeraFlops => "TFLOP",
        }
    }

    fn read(self, rounds: &[RoundRecord]) -> f64 {
        let mut total = Cost::default();
        for align in rounds.iter().filter_map(|round| round.align.as_ref()) {
            total += align.cost.total();
        }
        match self {
            Self::Seconds => total.seconds,
            Self::KiloTokens => total.tokens as f64 / 1e3,
            Self::TeraFlops => total.flops / 1e12,
        }
    }
}

/// What became of the rows of the clients that trained, in percent of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowShare {
    /// Labelled unsafe and trained on, each by its weight.
    HarmfulTrainedOn,
    /// Labelled safe and filtered, replaced or reweighted.
    HarmlessLost,
}

impl RowShare {
    const ALL: [Self; 2] = [Self::HarmfulTrainedOn, Self::HarmlessLost];

    const fn name(self) -> &'static str {
        match self {
            Self::HarmfulTrainedOn => "harmful rows trained on",
            Self::HarmlessLost => "harmless rows lost",
        }
    }

    fn read(self, totals: &Totals) -> Option<f64> {
        let rows = match self {
            Self::HarmfulTrainedOn => totals.rows.unsafe_trained_on(),
            Self::HarmlessLost => totals.rows.filtered_safe as f64,
        };
        let all = totals.rows.all();
        (all > 0).then(|| 100.0 * rows / all as f64)
    }
}

/// Mean and standard deviation over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    mean: f64,
    /// Of the sample (n − 1); `None` for one seed.
    sd: Option<f64>,
    n: usize,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt());
        (n > 0).then_some(Self { mean, sd, n })
    }

    fn interval(self) -> Option<(f64, f64)> {
        self.sd.map(|sd| (self.mean - sd, self.mean + sd))
    }
}

/// Cells that differ by their seed alone.
struct Configuration<'a> {
    strategy: &'a str,
    defence: &'a str,
    cells: Vec<&'a CellResult>,
}

impl Configuration<'_> {
    /// What its cells are on each axis.
    fn point(&self) -> &[(String, String)] {
        self.cells.first().map_or(&[], |cell| &cell.point)
    }

    fn name(&self) -> String {
        format!("{} {}", self.strategy, self.defence)
    }

    fn spread(&self, measure: &Measure) -> Option<Spread> {
        Spread::of(self.cells.iter().filter_map(|cell| read(measure, &cell.summary.eval)))
    }

    fn rows(&self, of: RowShare) -> Option<Spread> {
        Spread::of(self.cells.iter().filter_map(|cell| of.read(&cell.summary.totals)))
    }

    /// What Constitutional AI took in a run.
    fn align(&self, of: AlignCost) -> Option<Spread> {
        Spread::of(self.cells.iter().map(|cell| of.read(&cell.rounds)))
    }
}

/// In the order of first appearance.
fn configurations(cells: &[CellResult]) -> Vec<Configuration<'_>> {
    let mut all: Vec<Configuration<'_>> = Vec::new();
    for cell in cells {
        let same = |of: &&mut Configuration<'_>| of.strategy == cell.strategy && of.defence == cell.defence;
        match all.iter_mut().find(same) {
            Some(found) => found.cells.push(cell),
            None => {
                all.push(Configuration { strategy: &cell.strategy, defence: &cell.defence, cells: vec![cell] });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
