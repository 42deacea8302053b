//! Differences between runs, and from the start, over the same prompts.

use fedward_actors::ports::Evaluation;

use super::{
    Summary,
    others::{OtherMeasure, others},
};
use crate::eval::{
    measure::{Measure, Paired, PairedItems, measures_by_kind},
    paired::{Difference, PairedOutcomes, paired_likelihood, paired_outcomes},
};

/// Runs up to which each is compared with each; of more, all with the first.
const ALL_PAIRS_UP_TO: usize = 5;

/// Paired differences as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairedComparison {
    /// Names of the columns, broken into short lines; the first holds which two are compared.
    pub columns: Vec<String>,
    /// One line a pair; empty where no two measurements are of the same prompts.
    pub lines: Vec<Vec<String>>,
}

/// How to read the table.
pub(super) const READING: &str = "differences: the first minus the second, over the same prompts, with 95% intervals; then on how many prompts \
                       only the first, and only the second, refused (or was judged safe, or was right), and the p-value of McNemar's exact test. \
                       Nothing is corrected for comparing several; an interval that holds 0 shows no difference.";

/// What is compared, read off two evaluations.
fn compared() -> impl Iterator<Item = (&'static Measure, Paired)> {
    measures_by_kind().filter_map(|measure| Some((measure, measure.paired?)))
}

impl PairedComparison {
    /// Compares each run with the start, and runs with each other.
    pub fn of<'a>(runs: impl IntoIterator<Item = (&'a str, &'a Summary)>) -> Self {
        let runs: Vec<_> = runs.into_iter().collect();
        let from_start = runs.iter().map(|(name, run)| (format!("{name} − start"), &run.start_eval, &run.eval));
        let pairs: Vec<_> = from_start.chain(between(&runs)).collect();
        let others = others(pairs.iter().flat_map(|(_, before, after)| [*before, *after]));
        let rows: Vec<_> = pairs.iter().map(|(name, before, after)| (name, cells(before, after, &others))).collect();
        let is_measured = |column: &usize| rows.iter().any(|(_, cells)| cells[*column].is_some());
        let titles = compared().map(|(_, paired)| paired.title.to_owned());
        let titles: Vec<_> = titles.chain(others.iter().map(|(name, measure)| measure.title(name))).collect();
        let measured: Vec<_> = (0..titles.len()).filter(is_measured).collect();
        if measured.is_empty() {
            return Self::default();
        }
        let line = |(name, cells): (&String, Vec<Option<String>>)| {
            let cells = measured.iter().map(|&column| cells[column].clone().unwrap_or_default());
            std::iter::once(name.clone()).chain(cells).collect()
        };
        Self {
            columns: std::iter::once("compared".to_owned())
                .chain(measured.iter().map(|&column| titles[column].clone()))
                .collect(),
            lines: rows.into_iter().map(line).collect(),
        }
    }
}

/// Each later run minus each earlier one.
fn between<'a>(runs: &[(&'a str, &'a Summary)]) -> Vec<(String, &'a Evaluation, &'a Evaluation)> {
    let earlier = if runs.len() <= ALL_PAIRS_UP_TO { runs.len() } else { 1 };
    let pairs = runs
        .iter()
        .take(earlier)
        .enumerate()
        .flat_map(|(index, first)| runs[index + 1..].iter().map(move |second| (first, second)));
    pairs.map(|((first, before), (second, after))| (format!("{second} − {first}"), &before.eval, &after.eval)).collect()
}

fn cells(before: &Evaluation, after: &Evaluation, others: &[(String, &'static OtherMeasure)]) -> Vec<Option<String>> {
    let own = compared().map(|(measure, paired)| cell(measure, paired.items, before, after));
    let other = |(name, measure): &(String, &OtherMeasure)| {
        paired_outcomes(before.get(name)?, after.get(name)?, measure.item).map(outcomes_cell)
    };
    own.chain(others.iter().map(other)).collect()
}

fn cell(measure: &Measure, items: PairedItems, before: &Evaluation, after: &Evaluation) -> Option<String> {
    let (before, after) = (before.get(measure.benchmark)?, after.get(measure.benchmark)?);
    match items {
        PairedItems::Outcomes(name) => paired_outcomes(before, after, name).map(outcomes_cell),
        PairedItems::Likelihood => paired_likelihood(before, after).map(|found| difference_cell(found, 3)),
    }
}

fn outcomes_cell(outcomes: PairedOutcomes) -> String {
    let p = outcomes.mcnemar_p();
    let p = if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") };
    format!("{}, {}:{}, {p}", difference_cell(outcomes.difference(), 2), outcomes.gained, outcomes.lost)
}

fn difference_cell(Difference { mean, low, high, .. }: Difference, digits: usize) -> String {
    format!("{} [{}, {}]", signed(mean, digits), signed(low, digits), signed(high, digits))
}

/// A number with its sign and so many digits behind the point; with more where it would read as 0 and is none, since a bound says on
/// which side of 0 it lies.
pub(super) fn signed(value: f64, digits: usize) -> String {
    let rounded = format!("{value:+.digits$}");
    let reads_as_zero = rounded.chars().all(|character| !('1'..='9').contains(&character));
    match (value == 0.0, reads_as_zero) {
        (true, _) => format!("{:+.digits$}", 0.0),
        (false, true) if digits < 6 => signed(value, digits + 1),
        _ => rounded,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::{RunStatus, Totals};

    fn evaluation(refused: &[u8], nats: [f64; 2]) -> Evaluation {
        let advbench: Value = json!({"n": refused.len(), "items": {"sha256": "a", "refused": refused}});
        let utility = json!({"n": 2, "items": {"sha256": "b", "log_likelihood": nats, "response_tokens": [4, 4]}});
        serde_json::from_value(json!({"advbench": advbench, "utility": utility})).unwrap()
    }

    fn run(start: Evaluation, end: Evaluation) -> Summary {
        Summary {
            scenario: "s".into(),
            variant: "v".into(),
            status: RunStatus::Completed,
            base_eval: None,
            start_eval: start,
            eval: end,
            totals: Totals::default(),
            adapter_sha256: String::new(),
            assumptions: Vec::new(),
        }
    }

    #[test]
    fn runs_are_compared_with_the_start_and_with_each_other() {
        let start = evaluation(&[1, 1, 1, 1], [-10.0, -20.0]);
        let a = run(start.clone(), evaluation(&[0, 0, 0, 1], [-9.0, -17.0]));
        let b = run(start, evaluation(&[1, 1, 1, 0], [-10.0, -20.0]));
        let PairedComparison { columns, lines } = PairedComparison::of([("a", &a), ("b", &b)]);
        assert_eq!(columns, ["compared", "harmful\nprompts\nrefused", "held-out\nbenign rows,\nnats a token"]);
        let names: Vec<_> = lines.iter().map(|line| line[0].as_str()).collect();
        assert_eq!(names, ["a − start", "b − start", "b − a"]);
        // By hand: (1 − 4) / 6 ∓ 1.96 √((5/6 − 1/4) / 6), and by the binomial distribution 2 / 2³.
        assert_eq!(lines[0][1..], ["-0.75 [-1.00, +0.11], 0:3, p = 0.250", "+0.500 [+0.250, +0.750]"]);
        assert_eq!(lines[2][1], "+0.50 [-0.42, +1.00], 3:1, p = 0.625");
    }

    #[test]
    fn a_number_reads_as_zero_only_where_it_is() {
        let found = [0.0, -0.0, 0.04, -0.04, 0.0001, 0.96].map(|value| signed(value, 1));
        assert_eq!(found, ["+0.0", "+0.0", "+0.04", "-0.04", "+0.0001", "+1.0"]);
    }

    #[test]
    fn what_was_measured_on_other_prompts_is_not_compared() {
        let start = evaluation(&[1, 1], [-10.0, -20.0]);
        let other: Evaluation =
            serde_json::from_value(json!({"advbench": {"n": 2, "items": {"sha256": "c", "refused": [1, 0]}}})).unwrap();
        assert_eq!(PairedComparison::of([("a", &run(start, other))]), PairedComparison::default());
    }
}
