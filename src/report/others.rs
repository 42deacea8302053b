//! Benchmarks that no table has a column for by itself: sets of harmful prompts, and the user's own.

use std::collections::BTreeSet;

use fedward_actors::ports::{BenchmarkScore, Evaluation};

use crate::eval::measure::measures;

/// What such a benchmark may say.
pub(super) struct OtherMeasure {
    /// Its name among the values of a score.
    pub(super) value: &'static str,
    /// Its name among the scores of items.
    pub(super) item: &'static str,
    /// What it is called beside the benchmark's name.
    pub(super) words: &'static str,
}

const MEASURES: [OtherMeasure; 3] = [
    OtherMeasure { value: "refusal_rate", item: "refused", words: "refused" },
    OtherMeasure { value: "guard_safe_rate", item: "guard_safe", words: "judged safe" },
    OtherMeasure { value: "accuracy", item: "right", words: "right" },
];

/// Returns the other benchmarks of evaluations with what they say, by name.
pub(super) fn others<'e>(
    evaluations: impl IntoIterator<Item = &'e Evaluation>,
) -> Vec<(String, &'static OtherMeasure)> {
    let mut found = BTreeSet::new();
    for (name, score) in evaluations.into_iter().flatten() {
        let says = |measure: &OtherMeasure| score.values.contains_key(measure.value);
        let places = MEASURES.iter().enumerate().filter(|(_, measure)| says(measure)).map(|(place, _)| place);
        if measures().all(|measure| measure.benchmark != name) {
            found.extend(places.map(|place| (name.clone(), place)));
        }
    }
    found.into_iter().map(|(name, place)| (name, &MEASURES[place])).collect()
}

impl OtherMeasure {
    /// The rate in a score, if it has one.
    pub(super) fn read(&self, score: &BenchmarkScore) -> Option<f64> {
        score.values.get(self.value).copied()
    }

    /// The title of a column, broken into short lines.
    pub(super) fn title(&self, benchmark: &str) -> String {
        format!("{benchmark}\n{}", self.words.replace(' ', "\n"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_no_column_is_found_with_what_it_says() {
        let evaluation: Evaluation = serde_json::from_value(json!({
            "advbench": {"n": 2, "refusal_rate": 0.5},
            "harmbench": {"n": 2, "refusal_rate": 0.5, "guard_safe_rate": 1.0},
            "mine": {"n": 4, "accuracy": 0.25},
        }))
        .unwrap();
        let found = others([&evaluation, &evaluation]);
        let titles: Vec<_> = found.iter().map(|(name, measure)| measure.title(name)).collect();
        assert_eq!(titles, ["harmbench\nrefused", "harmbench\njudged\nsafe", "mine\nright"]);
        assert_eq!(found[2].1.read(&evaluation["mine"]), Some(0.25));
    }
}
