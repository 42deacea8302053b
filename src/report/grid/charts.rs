//! The plots of a grid.

use super::{AlignCost, CellResult, Configuration, Spread, configurations, read};
use crate::eval::{
    measure::{HEADLINE, Measure, SafetyPlot, measures},
    utility,
};
use crate::report::plots::{
    Axis, BandPoint, BarChart, BarSeries, Bars, LabelledPoint, Line, LineChart, PlotError, ScatterChart, Svg, Ticks,
};

/// Name of the file and plot, for each plot.
///
/// # Errors
///
/// [`PlotError`]: a bug.
pub fn charts(cells: &[CellResult]) -> Result<Vec<(String, Svg)>, PlotError> {
    let configurations = configurations(cells);
    // A plot a strategy: the lines of all of them would hide each other.
    let mut charts = Vec::new();
    for of_strategy in configurations.chunk_by(|one, next| one.strategy == next.strategy) {
        let [Configuration { strategy, .. }, ..] = of_strategy else { continue };
        let safety = measures().filter_map(|measure| Some((measure, measure.grid?.safety?)));
        for (measure, SafetyPlot { file, title, label }) in safety {
            let chart = by_round(measure, format!("{title}, by round: {strategy}"), label, of_strategy);
            if chart.lines.iter().any(|line| !line.points.is_empty()) {
                charts.push((format!("{file}-{strategy}.svg"), chart.render()?));
            }
        }
    }
    charts.extend([
        ("safety-against-utility.svg".to_owned(), safety_against_utility(&configurations).render()?),
        ("safety-against-cost.svg".to_owned(), safety_against_cost(&configurations).render()?),
        ("cost-of-cai.svg".to_owned(), cost_of_cai(&configurations).render()?),
    ]);
    Ok(charts)
}

fn by_round(measure: &Measure, title: String, label: &str, configurations: &[Configuration<'_>]) -> LineChart {
    LineChart {
        title,
        x: Axis::new("round (0: the start)", Ticks::Whole),
        y: Axis { range: Some((0.0, 100.0)), ..Axis::new(label, Ticks::Number) },
        lines: configurations.iter().map(|of| line(measure, of)).collect(),
    }
}

/// Mean over seeds in each round that was evaluated, with a band of one standard deviation.
fn line(measure: &Measure, of: &Configuration<'_>) -> Line {
    let mut line = Line { name: of.defence.to_owned(), ..Line::default() };
    let last = of.cells.iter().map(|cell| cell.summary.totals.rounds).max().unwrap_or(0);
    for round in 0..=last {
        let evaluation = |cell: &&&CellResult| {
            if round == 0 {
                return read(measure, &cell.summary.start_eval);
            }
            if round == cell.summary.totals.rounds {
                return read(measure, &cell.summary.eval);
            }
            read(measure, &cell.rounds.iter().find(|row| row.round.0 == round)?.eval)
        };
        let Some(spread) = Spread::of(of.cells.iter().filter_map(|cell| evaluation(&cell))) else { continue };
        let x = f64::from(round);
        line.points.push((x, spread.mean));
        line.band.extend(spread.interval().map(|(low, high)| BandPoint { x, low, high }));
    }
    line
}

fn safety_against_utility(configurations: &[Configuration<'_>]) -> ScatterChart {
    let x = Axis::new("perplexity of held-out benign responses (lower is better)", Ticks::Number);
    safety_against("Safety against utility", x, configurations, |of| of.spread(&utility::MEASURES[0]))
}

fn safety_against_cost(configurations: &[Configuration<'_>]) -> ScatterChart {
    let x = Axis::new("10¹² floating-point operations of Constitutional AI a run", Ticks::Number);
    let cost = |of: &Configuration<'_>| of.align(AlignCost::TeraFlops);
    safety_against("Safety against the cost of Constitutional AI", x, configurations, cost)
}

/// Refusals upwards, and something else from left to right, where both were measured.
fn safety_against(
    title: &str,
    x: Axis,
    configurations: &[Configuration<'_>],
    other: impl Fn(&Configuration<'_>) -> Option<Spread>,
) -> ScatterChart {
    let point = |of: &Configuration<'_>| {
        let (safety, other) = (of.spread(HEADLINE)?, other(of)?);
        Some(LabelledPoint {
            label: of.name(),
            x: other.mean,
            y: safety.mean,
            x_interval: other.interval(),
            y_interval: safety.interval(),
        })
    };
    ScatterChart {
        title: title.into(),
        x,
        y: Axis::new("AdvBench prompts refused, %", Ticks::Number),
        points: configurations.iter().filter_map(point).collect(),
    }
}

fn cost_of_cai(configurations: &[Configuration<'_>]) -> BarChart {
    let costs: Vec<_> = configurations.iter().map(|of| of.align(AlignCost::Seconds)).collect();
    let highest = costs.iter().flatten().map(|cost| cost.mean + cost.sd.unwrap_or(0.0));
    BarChart {
        title: "Constitutional AI, seconds a run".into(),
        value: Axis::new("seconds", Ticks::Number).from_zero(highest),
        categories: configurations.iter().map(Configuration::name).collect(),
        series: vec![BarSeries {
            name: "seconds".into(),
            values: costs.iter().map(|cost| cost.map(|cost| cost.mean)).collect(),
            intervals: costs.iter().map(|cost| cost.and_then(Spread::interval)).collect(),
        }],
        bars: Bars::Stacked,
    }
}
