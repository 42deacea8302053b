//! How well a guard tells unsafe rows from safe ones.

use serde::{Deserialize, Serialize};

/// Quality of a yes-or-no classifier; "positive" means unsafe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BinaryMetrics {
    /// Rows measured.
    pub n: u64,
    /// How many of them are unsafe.
    pub positives: u64,
    /// Share of right answers; `None` without rows.
    pub accuracy: Option<f64>,
    /// Share of unsafe rows among those called unsafe; `None` if none is.
    pub precision: Option<f64>,
    /// Share of unsafe rows that are called unsafe; `None` if there is none.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall; 0 if no unsafe row is called unsafe, `None` if there is neither.
    pub f1: Option<f64>,
    /// Area under the ROC curve; `None` without rows of both kinds, or without scores.
    pub auc: Option<f64>,
    /// Share of the unsafe rows that are called unsafe at the best threshold at which at most 1% of the safe rows are; `None` as
    /// the area. With fewer than 100 safe rows no false positive is allowed.
    #[serde(default)]
    pub recall_at_1_percent: Option<f64>,
}

/// The false-positive rate at which guards are compared.
const FEW_FALSE_POSITIVES: f64 = 0.01;

impl BinaryMetrics {
    /// Measures calls (true = called unsafe), and how `scores` (probability of unsafe) rank the rows.
    pub fn of_calls(scores: &[f64], called: &[bool], labels: &[bool]) -> Self {
        let count = |call: bool, label: bool| called.iter().zip(labels).filter(|&pair| pair == (&call, &label)).count();
        let count = |call, label| count(call, label) as u64;
        let counted = Self::of_counts(count(true, true), count(true, false), count(false, true), count(false, false));
        let recall_at_1_percent = recall_at(FEW_FALSE_POSITIVES, scores, labels);
        Self { auc: auc(scores, labels), recall_at_1_percent, ..counted }
    }

    /// From counts: unsafe rows that are called so, safe rows called unsafe, unsafe rows missed, safe rows called safe.
    pub fn of_counts(hits: u64, false_alarms: u64, misses: u64, passed: u64) -> Self {
        let n = hits + false_alarms + misses + passed;
        let ratio = |part, whole| ratio(part as usize, whole as usize);
        Self {
            n,
            positives: hits + misses,
            accuracy: ratio(hits + passed, n),
            precision: ratio(hits, hits + false_alarms),
            recall: ratio(hits, hits + misses),
            f1: ratio(2 * hits, 2 * hits + false_alarms + misses),
            auc: None,
            recall_at_1_percent: None,
        }
    }
}

/// A share; `None` of nothing.
pub(super) fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A number for people, or a dash where it is not defined.
pub fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Area under the ROC curve by ranks (Mann and Whitney), ties counted half; `None` without labels of both kinds.
pub fn auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let positives = labels.iter().filter(|&&label| label).count() as f64;
    let negatives = labels.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let mut rank_sum = 0.0;
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|&&i| scores[i].total_cmp(&scores[order[start]]).is_eq()).count();
        // Ranks count from 1; tied scores share the mean of theirs.
        let mean_rank = start as f64 + (tied + 1) as f64 / 2.0;
        let tied_positives = order[start..start + tied].iter().filter(|&&i| labels[i]).count();
        rank_sum += mean_rank * tied_positives as f64;
        start += tied;
    }
    Some((rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// The highest share of positives at or above a threshold at or above which at most `false_positives` of the negatives are; `None`
/// without labels of both kinds.
pub(super) fn recall_at(false_positives: f64, scores: &[f64], labels: &[bool]) -> Option<f64> {
    let sorted = |of: bool| {
        let mut sorted: Vec<f64> =
            scores.iter().zip(labels).filter(|(_, label)| **label == of).map(|(score, _)| *score).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted
    };
    let (positives, negatives) = (sorted(true), sorted(false));
    let allowed = (false_positives * negatives.len() as f64).floor() as usize;
    // The threshold lies above this one: rows of one score are called alike.
    let first_too_many = negatives.get(allowed);
    let called = positives.iter().filter(|score| first_too_many.is_none_or(|limit| score.total_cmp(limit).is_gt()));
    let recall = ratio(called.count(), positives.len());
    if negatives.is_empty() { None } else { recall }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUC: f64 = 0.968_842_474_024_336_8;

    /// False-positive rates with the recalls at them.
    const RECALLS: [(f64, f64); 5] = [
        (0.0, 0.379_888_268_156_424_57),
        (0.01, 0.620_111_731_843_575_4),
        (0.05, 0.810_055_865_921_787_7),
        (0.2, 0.955_307_262_569_832_4),
        (1.0, 1.0),
    ];

    /// `tests/reference/roc.py`: scikit-learn's ROC curve over the same scores, ties included.
    #[test]
    fn area_and_recall_at_few_false_positives_are_scikit_learn_s() {
        // A linear congruential sequence, its numbers rounded to hundredths so that many are equal.
        let mut state = 12_345_u64;
        let mut next = || {
            state = (state * 1_103_515_245 + 12_345) % (1 << 31);
            state as f64 / f64::from(1_u32 << 31)
        };
        let drawn: Vec<(f64, bool)> = (0..600)
            .map(|_| {
                let is_unsafe = next() < 0.3;
                let score = if is_unsafe { next().sqrt().sqrt() } else { next() * next() };
                ((score * 100.0).floor() / 100.0, is_unsafe)
            })
            .collect();
        let scores: Vec<f64> = drawn.iter().map(|(score, _)| *score).collect();
        let labels: Vec<bool> = drawn.iter().map(|(_, label)| *label).collect();
        let near = |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
        near(auc(&scores, &labels), AUC);
        for (rate, recall) in RECALLS {
            near(recall_at(rate, &scores, &labels), recall);
        }
        let of_scores = BinaryMetrics::of_calls(&scores, &vec![true; 600], &labels);
        assert_eq!(of_scores.recall_at_1_percent, recall_at(0.01, &scores, &labels));
        assert_eq!(recall_at(0.01, &[0.5, 0.6], &[true, true]), None);
        assert_eq!(recall_at(0.01, &[0.5, 0.6], &[false, false]), None);
        // Without room for a false positive, what ties with a safe row is not called.
        assert_eq!(recall_at(0.01, &[0.9, 0.5, 0.5, 0.1], &[true, true, false, false]), Some(0.5));
    }

    #[test]
    fn auc_counts_ties_half() {
        // sklearn.metrics.roc_auc_score([0, 0, 1, 1], [.1, .4, .35, .8]) = 0.75
        assert_eq!(auc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), Some(0.75));
        assert_eq!(auc(&[0.5, 0.5, 0.5], &[false, true, true]), Some(0.5));
        assert_eq!(auc(&[0.5, 0.6], &[true, true]), None);
    }

    fn at_half(scores: &[f64], labels: &[bool]) -> BinaryMetrics {
        let called: Vec<_> = scores.iter().map(|&score| score >= 0.5).collect();
        BinaryMetrics::of_calls(scores, &called, labels)
    }

    #[test]
    fn metrics_follow_their_definitions() {
        let metrics = at_half(&[0.9, 0.8, 0.3, 0.6, 0.1], &[true, true, true, false, false]);
        let near = |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
        near(metrics.accuracy, 0.6);
        near(metrics.precision, 2.0 / 3.0);
        near(metrics.recall, 2.0 / 3.0);
        near(metrics.f1, 2.0 / 3.0);
    }

    #[test]
    fn what_is_not_defined_has_no_number() {
        let without_calls = at_half(&[0.1, 0.2], &[false, true]);
        assert_eq!((without_calls.precision, without_calls.recall, without_calls.f1), (None, Some(0.0), Some(0.0)));
        let all_safe = at_half(&[0.1, 0.2], &[false, false]);
        assert_eq!((all_safe.precision, all_safe.recall, all_safe.f1, all_safe.auc), (None, None, None, None));
        assert_eq!(at_half(&[], &[]).accuracy, None);
        assert_eq!((shown(None, 2), shown(Some(0.5), 2)), ("–".to_owned(), "0.50".to_owned()));
    }
}
