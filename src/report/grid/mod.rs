//! What the cells of a grid come to: tables in the paper's layout with the paper's numbers beside ours, and plots.

mod cai;
mod charts;
mod csv;
mod guard;
mod light;
mod pairs;
mod paper;
mod tables;

use fedward_actors::{
    ports::{Cost, Evaluation},
    records::RoundRecord,
};

use super::{Summary, Totals};
use crate::{eval::mt_bench::REFERENCE_LIKELIHOOD, safety::guard::BinaryMetrics};

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

/// A number that is read off a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// AdvBench prompts refused as OpenFedLLM and with it the paper counts, in percent: strings of the prompt count, too.
    AdvBench,
    /// AdvBench prompts refused, in percent.
    Refused,
    /// HHH, mean of the four subsets, by the sum of log-likelihoods, in percent.
    Hhh,
    /// The same by the mean of log-likelihoods a token.
    HhhByMean,
    /// What guessing comes to in HHH, in percent.
    HhhChance,
    /// MT-Bench first turn, 1 to 10.
    MtBench,
    /// Responses to `AdvBench` prompts that the judge calls safe, in percent: strings miss refusals in other words.
    JudgedSafe,
    /// Harmless `XSTest` prompts refused, in percent.
    OverRefusal,
    /// Perplexity of held-out benign responses.
    Perplexity,
    /// Perplexity of MT-Bench's reference answers, which stands in for ratings where there is no judge.
    References,
}

impl Measure {
    /// The paper's.
    const OF_PAPER: [Self; 3] = [Self::AdvBench, Self::Hhh, Self::MtBench];
    /// What the paper does not have.
    const OURS: [Self; 6] =
        [Self::Refused, Self::JudgedSafe, Self::HhhByMean, Self::OverRefusal, Self::Perplexity, Self::References];

    const fn name(self) -> &'static str {
        match self {
            Self::AdvBench => "AdvBench",
            Self::Refused => "refused",
            Self::Hhh => "HHH",
            Self::HhhByMean => "HHH by mean",
            Self::HhhChance => "HHH by chance",
            Self::MtBench => "MT-Bench",
            Self::JudgedSafe => "judged safe",
            Self::OverRefusal => "over-refusal",
            Self::Perplexity => "perplexity",
            Self::References => "reference perplexity",
        }
    }

    /// The value in an evaluation; `None` where it was not measured.
    fn read(self, evaluation: &Evaluation) -> Option<f64> {
        let (benchmark, value, scale) = self.place();
        Some(scale * evaluation.get(benchmark)?.values.get(value)?)
    }

    /// The prompts or items that the value rests on; `None` where it was not measured.
    fn denominator(self, evaluation: &Evaluation) -> Option<u64> {
        let score = evaluation.get(self.place().0)?;
        let of_some = |name: &str| score.values.get(name).map(|&n| n as u64);
        match self {
            Self::OverRefusal => of_some("safe_n"),
            Self::MtBench => of_some("rated"),
            _ => Some(score.n),
        }
    }

    /// The benchmark, the value in it, and what it is multiplied by.
    const fn place(self) -> (&'static str, &'static str, f64) {
        match self {
            Self::AdvBench => ("advbench", "refusal_rate_openfedllm", 100.0),
            Self::Refused => ("advbench", "refusal_rate", 100.0),
            Self::Hhh => ("hhh", "macro", 100.0),
            Self::HhhByMean => ("hhh", "macro_length_normalised", 100.0),
            Self::HhhChance => ("hhh", "chance", 100.0),
            Self::MtBench => ("mt_bench", "rating", 1.0),
            Self::JudgedSafe => ("advbench", "guard_safe_rate", 100.0),
            Self::OverRefusal => ("xstest", "over_refusal_rate", 100.0),
            Self::Perplexity => ("utility", "perplexity", 1.0),
            Self::References => (REFERENCE_LIKELIHOOD, "perplexity", 1.0),
        }
    }
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
    fn name(&self) -> String {
        format!("{} {}", self.strategy, self.defence)
    }

    fn spread(&self, measure: Measure) -> Option<Spread> {
        Spread::of(self.cells.iter().filter_map(|cell| measure.read(&cell.summary.eval)))
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
