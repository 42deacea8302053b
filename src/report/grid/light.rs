//! Light Constitutional AI beside full: how much of the gain, for how much of the cost.
//!
//! A variant called `<name>-light` is taken for the light form of `<name>`, as in the paper. What the two gain is counted
//! from what they have beside Constitutional AI: `<defence>` for `<defence>+<name>`, else the variant `none`.

use std::fmt::Write;

use super::{AlignCost, Configuration, paper};
use crate::eval::measure::{Measure, measures};

/// What a gain is counted from where there is no other defence.
const NO_DEFENCE: &str = "none";

/// What gains are counted in: refusals by strings, and by the guard's verdicts, which do not hang on words.
fn gains() -> Vec<&'static Measure> {
    measures().filter(|measure| measure.grid.is_some_and(|place| place.safety.is_some())).collect()
}

/// A light form beside the full one.
struct Pair<'a> {
    light: &'a Configuration<'a>,
    full: &'a Configuration<'a>,
    /// Both without Constitutional AI.
    without: Option<&'a Configuration<'a>>,
    /// What the light and the full form gain, by measure, in percentage points: a share of a small gain says nothing.
    gains: Vec<Option<[f64; 2]>>,
    /// Share of the full form's cost, by kind.
    costs: [Option<f64>; 3],
}

/// A line a pair, or nothing where there are no pairs.
pub(super) fn table(configurations: &[Configuration<'_>]) -> String {
    let pairs: Vec<_> = configurations.iter().filter_map(|light| pair(light, configurations)).collect();
    if pairs.is_empty() {
        return String::new();
    }
    let mut text = "| strategy | light beside full | over |".to_owned();
    for measure in gains() {
        let _ = write!(text, " gain in {}, points |", measure.name);
    }
    for cost in AlignCost::ALL {
        let _ = write!(text, " of its {} |", cost.name());
    }
    let numbers = gains().len() + AlignCost::ALL.len();
    let _ = writeln!(text, "\n|---|---|---|{}", "---:|".repeat(numbers));
    for Pair { light, full, without, gains, costs } in pairs {
        let over = without.map_or("–", |without| without.defence);
        let strategy = light.strategy;
        let _ = write!(text, "| {strategy} | {} beside {} | {over} |", light.defence, full.defence);
        for gain in gains {
            let gain = gain.map_or_else(|| "–".to_owned(), |[light, full]| format!("{light:.1} of {full:.1}"));
            let _ = write!(text, " {gain} |");
        }
        for cost in costs {
            let _ = write!(text, " {} |", percent(cost));
        }
        text.push('\n');
    }
    let [light, full] = paper::MINUTES;
    let share = percent(ratio(light, full));
    let unknown = " – |".repeat(gains().len());
    let _ =
        writeln!(text, "| – | the paper's, {light} of {full:.0} minutes a round | – |{unknown} {share} | – | – |\n");
    text
}

fn pair<'a>(light: &'a Configuration<'a>, all: &'a [Configuration<'a>]) -> Option<Pair<'a>> {
    let find = |defence: &str| all.iter().find(|of| of.strategy == light.strategy && of.defence == defence);
    let full = find(light.defence.strip_suffix("-light")?)?;
    let other = full.defence.rsplit_once('+').and_then(|(other, _)| find(other));
    let without = other.or_else(|| find(NO_DEFENCE));
    let gain_in = |measure: &Measure| {
        let mean = |of: &Configuration<'_>| Some(of.spread(measure)?.mean);
        let gain = |of| Some(mean(of)? - mean(without?)?);
        gain(light).zip(gain(full)).map(<[f64; 2]>::from)
    };
    let gains = gains().into_iter().map(gain_in).collect();
    let costs = AlignCost::ALL.map(|cost| ratio(light.align(cost)?.mean, full.align(cost)?.mean));
    Some(Pair { light, full, without, gains, costs })
}

/// `None` where there is nothing to have a share of.
fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.0}%", 100.0 * share))
}
