//! The plots of a report: what runs did, side by side.

use std::collections::{BTreeMap, BTreeSet};

use fedward_actors::{
    ports::{BenchmarkScore, Evaluation},
    records::RoundRecord,
};

use super::{
    StoredRun,
    others::others,
    plots::{Axis, BandPoint, BarChart, BarSeries, Bars, Line, LineChart, PlotError, Svg, Ticks},
};
use crate::eval::measure::{Measure, Plot, Unit, measures};

/// Above so many clients a plot shows their middle and spread instead of a line each.
const CLIENT_LINES: usize = 8;

/// A plot and how to read it.
pub(super) struct Figure {
    pub(super) svg: Svg,
    pub(super) caption: &'static str,
}

/// All plots of these runs, in the order in which they are read.
pub(super) fn figures(runs: &[StoredRun]) -> Result<Vec<Figure>, PlotError> {
    let mut figures = Vec::new();
    for (measure, plot) in measures().filter_map(|measure| Some((measure, measure.plot?))) {
        let chart = evaluations(runs, measure, plot);
        if chart.lines.iter().any(|line| !line.points.is_empty()) {
            figures.push(Figure { svg: chart.render()?, caption: plot.caption });
        }
    }
    for (benchmark, measure) in others(runs.iter().flat_map(|run| [&run.summary.start_eval, &run.summary.eval])) {
        let bound = |score: &BenchmarkScore, name: &str| {
            let own = score.values.get(&format!("{}_{name}", measure.value));
            own.or_else(|| score.values.get(name)).copied()
        };
        let read =
            |score: &BenchmarkScore| Some((measure.read(score)?, bound(score, "ci_low").zip(bound(score, "ci_high"))));
        let title = format!("{benchmark}: share {}, by round", measure.words);
        let lines = runs.iter().map(|run| evaluation_line(run, &benchmark, read)).collect();
        let chart = LineChart { title, x: rounds_axis(), y: Axis::share("share"), lines };
        let caption = "Of its prompts or questions; bands are 95% intervals.";
        figures.push(Figure { svg: chart.render()?, caption });
    }
    figures.push(Figure {
        svg: losses(runs).render()?,
        caption: "Mean over the accepted clients, weighted by tokens. A low loss on harmful rows is no good sign.",
    });
    figures.push(Figure {
        svg: rows(runs).render()?,
        caption: "Rows of the selected clients over all rounds, by what is known of them and what the guard said. Rows that it \
            calls unsafe are filtered, replaced or reweighted, as the scenario's guard.policy says.",
    });
    figures.push(Figure {
        svg: phases(runs).render()?,
        caption: "Seconds of all rounds. Work that an earlier variant had done takes none.",
    });
    for run in runs.iter().filter(|run| !clients_of(run).is_empty()) {
        figures.push(Figure {
            svg: client_losses(run, runs.len() > 1).render()?,
            caption: if clients_of(run).len() > CLIENT_LINES {
                "The client in the middle, and the range from the lowest to the highest."
            } else {
                "Each client in the rounds that selected it."
            },
        });
    }
    Ok(figures)
}

fn rounds_axis() -> Axis {
    Axis::new("round", Ticks::Whole)
}

fn evaluations(runs: &[StoredRun], measure: &Measure, plot: Plot) -> LineChart {
    let is_share = measure.unit == Unit::Share;
    let y = if is_share { Axis::share(plot.label) } else { Axis::new(plot.label, Ticks::Number) };
    let read = |score: &BenchmarkScore| {
        let interval = if is_share { measure.interval(score) } else { None };
        Some((measure.of(score)?, interval))
    };
    let lines = runs.iter().map(|run| evaluation_line(run, measure.benchmark, read)).collect();
    LineChart { title: plot.title.to_owned(), x: rounds_axis(), y, lines }
}

/// The start, every round that was evaluated, and the end. `read` gives the value in a score, and its interval if it has one.
fn evaluation_line(
    run: &StoredRun,
    benchmark: &str,
    read: impl Fn(&BenchmarkScore) -> Option<(f64, Option<(f64, f64)>)>,
) -> Line {
    let last = run.rounds.last().map_or(0, |round| round.round.0);
    let mut by_round: BTreeMap<u32, &Evaluation> = BTreeMap::from([(0, &run.summary.start_eval)]);
    by_round.extend(run.rounds.iter().map(|round| (round.round.0, &round.eval)));
    if last > 0 && !run.summary.eval.is_empty() {
        by_round.insert(last, &run.summary.eval);
    }
    let mut line = Line { name: run.label.clone(), ..Line::default() };
    for (round, evaluation) in by_round {
        let Some((value, interval)) = evaluation.get(benchmark).and_then(&read) else { continue };
        let x = f64::from(round);
        line.points.push((x, value));
        line.band.extend(interval.map(|(low, high)| BandPoint { x, low, high }));
    }
    line
}

fn losses(runs: &[StoredRun]) -> LineChart {
    let points = |rounds: &[RoundRecord]| {
        rounds.iter().filter_map(|round| Some((f64::from(round.round.0), round.train_loss?))).collect()
    };
    let lines = runs
        .iter()
        .map(|run| Line { name: run.label.clone(), points: points(&run.rounds), band: Vec::new() })
        .collect();
    let y = Axis::new("loss a token", Ticks::Number);
    LineChart { title: "Training loss, by round".to_owned(), x: rounds_axis(), y, lines }
}

fn rows(runs: &[StoredRun]) -> BarChart {
    let of = |name: &str, count: fn(&StoredRun) -> u64| BarSeries {
        name: name.to_owned(),
        values: runs.iter().map(|run| Some(count(run) as f64)).collect(),
        intervals: Vec::new(),
    };
    BarChart {
        title: "Rows by the guard's verdict".to_owned(),
        value: Axis::new("rows", Ticks::Number),
        categories: runs.iter().map(|run| run.label.clone()).collect(),
        series: vec![
            of("kept", |run| run.summary.totals.rows.kept - run.summary.totals.rows.kept_unsafe),
            of("kept though harmful", |run| run.summary.totals.rows.kept_unsafe),
            of("called unsafe", |run| run.summary.totals.rows.called_unsafe() - run.summary.totals.rows.filtered_safe),
            of("called unsafe though harmless", |run| run.summary.totals.rows.filtered_safe),
        ],
        bars: Bars::Stacked,
    }
}

fn phases(runs: &[StoredRun]) -> BarChart {
    let sum = |run: &StoredRun, of: fn(&RoundRecord) -> f64| Some(run.rounds.iter().map(of).sum());
    let series = |name: &str, of: fn(&RoundRecord) -> f64| BarSeries {
        name: name.to_owned(),
        values: runs.iter().map(|run| sum(run, of)).collect(),
        intervals: Vec::new(),
    };
    BarChart {
        title: "Time by phase".to_owned(),
        value: Axis::new("seconds", Ticks::Number),
        categories: runs.iter().map(|run| run.label.clone()).collect(),
        series: vec![
            series("clients filter and train", |round| round.seconds.train),
            series("realign", |round| round.seconds.align),
            series("evaluate", |round| round.seconds.evaluate),
            series("the rest", |round| {
                round.seconds.total() - round.seconds.train - round.seconds.align - round.seconds.evaluate
            }),
        ],
        bars: Bars::Stacked,
    }
}

fn clients_of(run: &StoredRun) -> BTreeSet<u32> {
    run.clients.iter().filter(|record| record.train_loss.is_some()).map(|record| record.client.0).collect()
}

fn client_losses(run: &StoredRun, is_named: bool) -> LineChart {
    let title = if is_named { format!("Client losses: {}", run.label) } else { "Client losses, by round".to_owned() };
    let clients = clients_of(run);
    let lines = if clients.len() > CLIENT_LINES {
        vec![middle_and_range(run)]
    } else {
        clients.into_iter().map(|client| client_line(run, client)).collect()
    };
    LineChart { title, x: rounds_axis(), y: Axis::new("loss a token", Ticks::Number), lines }
}

fn client_line(run: &StoredRun, client: u32) -> Line {
    let own = run.clients.iter().filter(|record| record.client.0 == client);
    let points = own.filter_map(|record| Some((f64::from(record.round.0), record.train_loss?))).collect();
    Line { name: format!("client {client}"), points, band: Vec::new() }
}

fn middle_and_range(run: &StoredRun) -> Line {
    let mut by_round: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for record in &run.clients {
        by_round.entry(record.round.0).or_default().extend(record.train_loss);
    }
    let mut line = Line { name: "median client".to_owned(), ..Line::default() };
    for (round, mut losses) in by_round {
        losses.sort_by(f64::total_cmp);
        let (Some(&low), Some(&high)) = (losses.first(), losses.last()) else { continue };
        let middle = f64::midpoint(losses[(losses.len() - 1) / 2], losses[losses.len() / 2]);
        line.points.push((f64::from(round), middle));
        line.band.push(BandPoint { x: f64::from(round), low, high });
    }
    line
}
