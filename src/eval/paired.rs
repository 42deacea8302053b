//! Differences between two measurements of the same prompts, or of the same seeds: pairs say more than two intervals side
//! by side, since what makes a prompt hard is hard for both.

use fedward_actors::ports::{BenchmarkScore, ItemScores};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, StudentsT};

use super::{
    bootstrap::{Z_95, bootstrap_ratio},
    utility::RESAMPLES,
};

/// A difference and its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The later measurement minus the earlier one.
    pub mean: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// Pairs that it rests on.
    pub n: usize,
}

/// Two measurements of the same yes-or-no items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairedOutcomes {
    /// Items that are yes in the later one alone.
    pub gained: u64,
    /// Items that are yes in the earlier one alone.
    pub lost: u64,
    /// All items.
    pub n: u64,
}

impl PairedOutcomes {
    /// Counts pairs; `None` if there is no item, or not one outcome of each.
    pub fn of(before: &[f64], after: &[f64]) -> Option<Self> {
        if before.len() != after.len() || before.is_empty() {
            return None;
        }
        let count = |from: f64, to: f64| {
            let changed = before.iter().zip(after).filter(|(b, a)| (**b > 0.5, **a > 0.5) == (from > 0.5, to > 0.5));
            changed.count() as u64
        };
        Some(Self { gained: count(0.0, 1.0), lost: count(1.0, 0.0), n: before.len() as u64 })
    }

    /// Returns the difference of the two rates, its interval by Bonett and Price ("Adjusted Wald confidence interval for a
    /// difference of binomial proportions based on paired data", 2012): Wald's with an item added to each of the two kinds of change,
    /// so that no change is no certainty.
    pub fn difference(self) -> Difference {
        let n = self.n as f64;
        let [gained, lost] = [self.gained, self.lost].map(|count| (count as f64 + 1.0) / (n + 2.0));
        let centre = gained - lost;
        let half = Z_95 * ((gained + lost - centre * centre) / (n + 2.0)).sqrt();
        Difference {
            mean: (self.gained as f64 - self.lost as f64) / n,
            low: (centre - half).max(-1.0),
            high: (centre + half).min(1.0),
            n: self.n as usize,
        }
    }

    /// Returns the p-value of `McNemar`'s exact test ("Note on the sampling error of the difference between correlated
    /// proportions or percentages", 1947): of changes that go either way alike, at least as one-sided a split.
    pub fn mcnemar_p(self) -> f64 {
        let changed = self.gained + self.lost;
        let fewer = self.gained.min(self.lost);
        Binomial::new(0.5, changed).map_or(1.0, |split| (2.0 * split.cdf(fewer)).min(1.0))
    }
}

/// Returns the outcomes of a score by name in two evaluations; `None` unless both measured the same items.
pub fn paired_outcomes(before: &BenchmarkScore, after: &BenchmarkScore, name: &str) -> Option<PairedOutcomes> {
    let (before, after) = (before.items.as_ref()?, after.items.as_ref()?);
    let is_same = before.sha256 == after.sha256;
    is_same.then(|| PairedOutcomes::of(before.scores.get(name)?, after.scores.get(name)?)).flatten()
}

/// Returns the mean of paired differences with the interval of Student's t; `None` for fewer than two.
pub fn t_interval(differences: &[f64]) -> Option<Difference> {
    let n = differences.len();
    let freedom = n.checked_sub(1).filter(|&freedom| freedom > 0)? as f64;
    let mean = differences.iter().sum::<f64>() / n as f64;
    let variance = differences.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom;
    let quantile = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.975);
    let half = quantile * (variance / n as f64).sqrt();
    Some(Difference { mean, low: mean - half, high: mean + half, n })
}

/// Returns by how much the mean log-likelihood of a response token differs, with a bootstrap interval over rows; `None` unless both
/// measured the same rows.
pub fn paired_likelihood(before: &BenchmarkScore, after: &BenchmarkScore) -> Option<Difference> {
    let (before, after) = (before.items.as_ref()?, after.items.as_ref()?);
    let nats = |items: &'_ ItemScores| items.scores.get("log_likelihood").cloned();
    let (before_nats, after_nats) = (nats(before)?, nats(after)?);
    let tokens = before.scores.get("response_tokens")?;
    if before.sha256 != after.sha256 || after.scores.get("response_tokens") != Some(tokens) {
        return None;
    }
    let changes = after_nats.iter().zip(&before_nats).map(|(after, before)| after - before);
    let pairs: Vec<_> = changes.zip(tokens.iter().copied()).collect();
    // A fixed seed: the interval belongs to the two measurements, not to a run.
    let found = bootstrap_ratio(&pairs, RESAMPLES, 0)?;
    Some(Difference { mean: found.mean, low: found.low, high: found.high, n: pairs.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(gained: u64, lost: u64, n: u64) -> PairedOutcomes {
        PairedOutcomes { gained, lost, n }
    }

    /// By hand: 27/50 - 5/50 = 0.44, more or less 1.959964 √((0.64 - 0.44²) / 50).
    #[test]
    fn the_interval_of_two_rates_is_bonett_and_price_s() {
        let found = outcomes(26, 4, 48).difference();
        assert!((found.mean - 22.0 / 48.0).abs() < 1e-12);
        assert!((found.low - 0.254_806_7).abs() < 1e-7 && (found.high - 0.625_193_3).abs() < 1e-7, "{found:?}");
        // Nothing changed: no difference, and no certainty either.
        let none = outcomes(0, 0, 64).difference();
        assert!(none.mean.abs() < 1e-12 && none.low < -0.03 && none.high > 0.03);
    }

    /// `scipy.stats.binomtest(k, n).pvalue`.
    #[test]
    fn the_exact_test_agrees_with_scipy() {
        for (gained, lost, expected) in [
            (26, 4, 5.947_612_226_009e-5),
            (1, 7, 0.070_312_5),
            (5, 5, 1.0),
            (0, 0, 1.0),
            (39, 1, 7.457_856_554_538e-11),
        ] {
            let found = outcomes(gained, lost, 64).mcnemar_p();
            assert!((found - expected).abs() < 1e-9 * expected, "{gained}, {lost}: {found}");
        }
    }

    #[test]
    fn pairs_are_counted_only_where_both_measured_the_same_items() {
        let (before, after) = ([1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0, 0.0]);
        assert_eq!(PairedOutcomes::of(&before, &after), Some(outcomes(2, 1, 5)));
        assert_eq!(PairedOutcomes::of(&before, &after[..4]), None);
        let score = |sha256: &str, refused: &[f64]| {
            let json = serde_json::json!({"n": 5, "items": {"sha256": sha256, "refused": refused}});
            serde_json::from_value::<BenchmarkScore>(json).unwrap()
        };
        let paired = |sha256| paired_outcomes(&score("a", &before), &score(sha256, &after), "refused");
        assert_eq!(paired("a"), Some(outcomes(2, 1, 5)));
        assert_eq!(paired("b"), None);
        assert_eq!(paired_outcomes(&score("a", &before), &score("a", &after), "judged_safe"), None);
    }

    /// `scipy.stats.t.interval(.95, 4, loc=d.mean(), scale=scipy.stats.sem(d))`.
    #[test]
    fn few_seeds_have_student_s_interval() {
        let found = t_interval(&[1.0, 9.0, 4.0, 0.0, 7.0]).unwrap();
        assert!((found.mean - 4.2).abs() < 1e-12);
        assert!((found.low + 0.560_611_664_6).abs() < 1e-9 && (found.high - 8.960_611_664_6).abs() < 1e-9, "{found:?}");
        assert_eq!(t_interval(&[1.0]), None);
    }

    /// Rows that became likelier by 1 and 3 nats in 4 tokens: half a nat a token, whichever rows are drawn between 0.5 and 0.75 … 0.25.
    #[test]
    fn likelihoods_are_compared_row_by_row() {
        let score = |nats: [f64; 2], tokens: [f64; 2]| {
            let json = serde_json::json!({"n": 2, "items": {"sha256": "a", "log_likelihood": nats, "response_tokens": tokens}});
            serde_json::from_value::<BenchmarkScore>(json).unwrap()
        };
        let before = score([-10.0, -20.0], [4.0, 4.0]);
        let found = paired_likelihood(&before, &score([-9.0, -17.0], [4.0, 4.0])).unwrap();
        let bounds = [found.mean, found.low, found.high].map(|value| (value * 1e9).round() / 1e9);
        assert_eq!((bounds, found.n), ([0.5, 0.25, 0.75], 2));
        assert_eq!(paired_likelihood(&before, &score([-9.0, -17.0], [4.0, 5.0])), None);
    }
}
