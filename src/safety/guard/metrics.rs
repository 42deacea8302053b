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
}

impl BinaryMetrics {
    /// Measures calls (true = called unsafe), and how `scores` (probability of unsafe) rank the rows.
    pub fn of_calls(scores: &[f64], called: &[bool], labels: &[bool]) -> Self {
        let count = |call: bool, label: bool| called.iter().zip(labels).filter(|&pair| pair == (&call, &label)).count();
        let count = |call, label| count(call, label) as u64;
        let counted = Self::of_counts(count(true, true), count(true, false), count(false, true), count(false, false));
        Self { auc: auc(scores, labels), ..counted }
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

#[cfg(test)]
mod tests {
    use super::*;

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
