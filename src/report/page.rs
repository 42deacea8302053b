//! Runs on one page, which needs nothing from outside of it: no script, no font, no request.

use std::collections::BTreeMap;

use fedward_actors::{ports::Cost, records::RoundRecord};
use minijinja::{Environment, Value, context, value::Serde};
use serde::Serialize;

use super::{Comparison, PairedComparison, StoredRun, figures::figures, pairs, plots::PlotError};

/// A page could not be made: a bug, for it is made of what is in memory.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The template engine's.
    #[error("the report's template cannot be rendered: {0:#}")]
    Template(#[from] minijinja::Error),
    /// A plot's.
    #[error(transparent)]
    Plot(#[from] PlotError),
}

/// The page of these runs, side by side. Names in it are escaped.
///
/// # Errors
///
/// [`PageError`]: a bug.
pub fn page(runs: &[StoredRun]) -> Result<String, PageError> {
    let figures: Vec<Value> = figures(runs)?
        .into_iter()
        .map(|figure| context! { svg => Value::from_safe_string(figure.svg.inline()), caption => figure.caption })
        .collect();
    let named = || runs.iter().map(|run| (run.label.as_str(), &run.summary));
    let comparison = Comparison::of(named());
    let paired = PairedComparison::of(named());
    let context = context! {
        title => title(runs),
        questions => Value::from(Serde(questions(runs))),
        columns => comparison.columns,
        lines => comparison.lines,
        reading => comparison.reading,
        paired_columns => paired.columns,
        paired_lines => paired.lines,
        paired_reading => pairs::READING,
        warnings => comparison.warnings,
        figures,
        runs => runs.iter().map(described).collect::<Vec<_>>(),
        assumptions => Value::from(Serde(assumptions(runs))),
    };
    // Names that end in .html are escaped by the template engine.
    Ok(Environment::new().render_named_str("page.html", include_str!("page.html"), context)?)
}

fn title(runs: &[StoredRun]) -> String {
    match runs {
        [run] if !run.summary.variant.is_empty() => format!("{} · {}", run.summary.scenario, run.summary.variant),
        [first, others @ ..] if others.iter().all(|run| run.summary.scenario == first.summary.scenario) => {
            first.summary.scenario.clone()
        }
        _ => format!("{} runs", runs.len()),
    }
}

/// What the runs' scenarios ask, each question once.
fn questions(runs: &[StoredRun]) -> Vec<&str> {
    in_order(runs.iter().map(|run| run.question.as_str()))
}

/// What the runs assume, each assumption once.
fn assumptions(runs: &[StoredRun]) -> Vec<&str> {
    in_order(runs.iter().flat_map(|run| run.summary.assumptions.iter().map(String::as_str)))
}

fn in_order<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen
}

/// What the template needs of one run.
fn described(run: &StoredRun) -> Value {
    context! {
        label => &run.label,
        path => run.path.display().to_string(),
        caveat => run.caveat(),
        summary => Value::from(Serde(&run.summary)),
        measures => Value::from(Serde(measures(run))),
        rounds => Value::from(Serde(&run.rounds)),
        realignments => Value::from(Serde(realignments(run))),
        seconds => run.rounds.iter().map(|round| round.seconds.total()).collect::<Vec<_>>(),
    }
}

/// What each realignment cost, by round.
fn realignments(run: &StoredRun) -> BTreeMap<u32, Cost> {
    let cost = |round: &RoundRecord| Some((round.round.0, round.align.as_ref()?.cost.total()));
    run.rounds.iter().filter_map(cost).collect()
}

/// One measure of one benchmark before and after.
#[derive(Serialize)]
struct Measured<'a> {
    benchmark: &'a str,
    measure: &'a str,
    n: u64,
    before: Option<String>,
    after: Option<String>,
}

fn measures(run: &StoredRun) -> Vec<Measured<'_>> {
    let (start, end) = (&run.summary.start_eval, &run.summary.eval);
    let mut measures = Vec::new();
    for (benchmark, score) in if end.is_empty() { start } else { end } {
        for measure in score.values.keys() {
            let value = |of: &fedward_actors::ports::Evaluation| {
                of.get(benchmark)?.values.get(measure).map(|value| super::plots::number(*value).to_string())
            };
            measures.push(Measured { benchmark, measure, n: score.n, before: value(start), after: value(end) });
        }
    }
    measures
}

#[cfg(test)]
mod tests;
