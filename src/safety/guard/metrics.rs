//! How well a guard tells unsafe rows from safe ones.

use serde::{Deserialize, Serialize};

/// Quality of a yes-or-no classifier; "positive" means unsafe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BinaryMetrics {
    /// Rows measured.
    pub n: u64,
    /// How many of them are unsafe.
    pub positives: u64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Share of unsafe rows among those called unsafe; 0 if none is.
    pub precision: f64,
    /// Share of unsafe rows that are called unsafe; 0 if there is none.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Area under the ROC curve; `None` without rows of both kinds.
    pub auc: Option<f64>,
}

impl BinaryMetrics {
    /// Measures `scores` (probability of unsafe) against `labels` (true = unsafe) at `threshold`.
    pub fn measure(scores: &[f64], labels: &[bool], threshold: f64) -> Self {
        let count = |called: bool, actual: bool| {
            scores
                .iter()
                .zip(labels)
                .filter(|&(&score, &label)| (score >= threshold) == called && label == actual)
                .count()
        };
        let (hits, false_alarms, misses) = (count(true, true), count(true, false), count(false, true));
        let ratio = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let precision = ratio(hits, hits + false_alarms);
        let recall = ratio(hits, hits + misses);
        let f1 = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        Self {
            n: labels.len() as u64,
            positives: (hits + misses) as u64,
            accuracy: ratio(labels.len() - false_alarms - misses, labels.len()),
            precision,
            recall,
            f1,
            auc: auc(scores, labels),
        }
    }
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

    #[test]
    fn metrics_follow_their_definitions() {
        let metrics = BinaryMetrics::measure(&[0.9, 0.8, 0.3, 0.6, 0.1], &[true, true, true, false, false], 0.5);
        assert!((metrics.accuracy - 0.6).abs() < 1e-12);
        assert!((metrics.precision - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.recall - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.f1 - 2.0 / 3.0).abs() < 1e-12);
    }
}
