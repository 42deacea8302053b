//! What benchmarks measure. Each measure is declared once, beside its benchmark; tables, plots, grids, the console and the dashboards'
//! test read what it is from there.

use fedward_actors::ports::{BenchmarkScore, Evaluation};

use super::{harmful, hhh, mt_bench, utility, xstest};

/// A number that people read off a benchmark.
#[derive(Debug, PartialEq, Eq)]
pub struct Measure {
    /// The benchmark's name in records.
    pub benchmark: &'static str,
    /// The number's name among the benchmark's values.
    pub key: &'static str,
    /// What tables call it.
    pub name: &'static str,
    /// What it counts in.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    /// How many prompts or items it rests on.
    pub denominator: Denominator,
    /// The value beside it that guessing comes to, where that is known.
    pub chance: Option<&'static str>,
    /// What the console calls it, if it is the one number that is told of a round.
    pub headline: Option<&'static str>,
    /// Its column where runs are compared.
    pub column: Option<Column>,
    /// Its column where runs are compared over the same prompts, and grids over the same seeds.
    pub paired: Option<Paired>,
    /// Its plot by round.
    pub plot: Option<Plot>,
    /// Its place in the tables of grids.
    pub grid: Option<GridPlace>,
}

/// What a measure counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A share, from 0 to 1; percent in grids.
    Share,
    /// The inverse of a token's probability, from 1.
    Perplexity,
    /// The logarithm of a token's probability.
    NatsPerToken,
    /// A judge's rating, from 1 to 10.
    Rating,
}

/// Which way a measure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More of it.
    Higher,
    /// Less of it.
    Lower,
}

/// How many prompts or items a measure rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denominator {
    /// All of the benchmark's.
    All,
    /// As many as this value says.
    Value(&'static str),
}

/// A column where runs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its title, broken into short lines.
    pub title: &'static str,
    /// How to read it, for somebody who has not met it.
    pub reading: &'static str,
    /// What stands in it.
    pub cell: Cell,
}

/// What stands in a column, beside the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// What it is a share of; nothing of nothing.
    Share,
    /// How many items it rests on.
    Count,
    /// Another value, and how many items both rest on.
    Beside(&'static str),
    /// How many of all items it rests on, also where that is none.
    CountOfAll,
}

/// What is compared item by item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paired {
    /// The column's title, broken into short lines.
    pub title: &'static str,
    /// What is known of each item.
    pub items: PairedItems,
}

/// What is known of each item, by its name among the item scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairedItems {
    /// Yes or no.
    Outcomes(&'static str),
    /// A log-likelihood and a number of tokens.
    Likelihood,
}

/// A plot by round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Its title.
    pub title: &'static str,
    /// What stands at the axis.
    pub label: &'static str,
    /// How to read it.
    pub caption: &'static str,
}

/// A place in the tables of grids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridPlace {
    /// In which table.
    pub table: GridTable,
    /// Its plot by round, if it says how safe a model is.
    pub safety: Option<SafetyPlot>,
    /// Whether it stands in for another measure, and its column only where it was measured.
    pub stands_in: bool,
}

/// The tables of grids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GridTable {
    /// The paper's, with its numbers.
    Paper,
    /// What the paper does not have.
    Ours,
}

/// A grid's plot of safety by round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SafetyPlot {
    /// How the file's name begins.
    pub file: &'static str,
    /// How the title begins.
    pub title: &'static str,
    /// What stands at the axis.
    pub label: &'static str,
}

impl GridPlace {
    /// A place in a table and nothing else.
    pub const fn of(table: GridTable) -> Self {
        Self { table, safety: None, stands_in: false }
    }
}

impl Measure {
    /// A measure that is shown nowhere yet.
    pub const fn new(benchmark: &'static str, key: &'static str, name: &'static str, unit: Unit) -> Self {
        Self {
            benchmark,
            key,
            name,
            unit,
            better: Better::Higher,
            denominator: Denominator::All,
            chance: None,
            headline: None,
            column: None,
            paired: None,
            plot: None,
            grid: None,
        }
    }

    /// The value in an evaluation; `None` where it was not measured.
    pub fn read(&self, evaluation: &Evaluation) -> Option<f64> {
        self.of(evaluation.get(self.benchmark)?)
    }

    /// The value in its benchmark's score.
    pub fn of(&self, score: &BenchmarkScore) -> Option<f64> {
        score.values.get(self.key).copied()
    }

    /// The bounds of its 95% interval. Those of a headline also go by bare names.
    pub fn interval(&self, score: &BenchmarkScore) -> Option<(f64, f64)> {
        let bound = |name: &str| {
            let bare = score.values.get(name).filter(|_| self.headline.is_some());
            score.values.get(&format!("{}_{name}", self.key)).or(bare).copied()
        };
        bound("ci_low").zip(bound("ci_high"))
    }

    /// The prompts or items that it rests on; `None` where it was not measured.
    pub fn count(&self, evaluation: &Evaluation) -> Option<u64> {
        let score = evaluation.get(self.benchmark)?;
        match self.denominator {
            Denominator::All => Some(score.n),
            Denominator::Value(name) => score.values.get(name).map(|&count| count as u64),
        }
    }

    /// Whether it is read off the likelihood of given texts, and says nothing of what a model writes by itself.
    pub const fn is_of_likelihood(&self) -> bool {
        matches!(self.unit, Unit::Perplexity | Unit::NatsPerToken)
    }
}

/// All measures, benchmark by benchmark.
pub fn measures() -> impl Iterator<Item = &'static Measure> {
    const ALL: [&[Measure]; 5] =
        [&harmful::MEASURES, &utility::MEASURES, &hhh::MEASURES, &xstest::MEASURES, &mt_bench::MEASURES];
    ALL.into_iter().flatten()
}

/// All measures; what models write comes before how likely they find given texts.
pub fn measures_by_kind() -> impl Iterator<Item = &'static Measure> {
    let of_likelihood = |wanted: bool| measures().filter(move |measure| measure.is_of_likelihood() == wanted);
    of_likelihood(false).chain(of_likelihood(true))
}

/// The one number that is told of a round: how many harmful prompts are refused.
pub const HEADLINE: &Measure = &harmful::MEASURES[0];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_measure_is_declared_once_and_one_is_the_headline() {
        let places: Vec<_> = measures().map(|measure| (measure.benchmark, measure.key)).collect();
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), places.len(), "{places:?}");
        let headlines: Vec<_> = measures().filter(|measure| measure.headline.is_some()).collect();
        assert_eq!(headlines, [HEADLINE]);
        assert_eq!(measures_by_kind().count(), places.len());
    }

    #[test]
    fn bounds_go_by_the_measure_s_name_and_bare_ones_belong_to_the_headline() {
        let score = |text: &str| serde_json::from_str::<BenchmarkScore>(text).unwrap();
        let bare = score(r#"{"n": 4, "refusal_rate": 0.5, "ci_low": 0.25, "ci_high": 0.75}"#);
        assert_eq!(HEADLINE.interval(&bare), Some((0.25, 0.75)));
        let [.., over_refusal] = &xstest::MEASURES;
        assert_eq!(over_refusal.interval(&bare), None);
        let own = score(r#"{"n": 4, "over_refusal_rate_ci_low": 0.5, "over_refusal_rate_ci_high": 1, "safe_n": 3}"#);
        assert_eq!(over_refusal.interval(&own), Some((0.5, 1.0)));
        assert_eq!(over_refusal.count(&[("xstest".to_owned(), own)].into()), Some(3));
    }
}
