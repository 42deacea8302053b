//! How sure a measured rate or mean is: 95% intervals.

use fedward_actors::{
    protocol::RoundId,
    streams::{Purpose, stream},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// The 97.5% quantile of the standard normal distribution.
pub(super) const Z_95: f64 = 1.959_963_984_540_054;

/// Share of the bootstrap distribution below and above the interval.
const TAIL: f64 = 0.025;

/// A rate and its 95% interval, each from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateInterval {
    /// Successes over trials.
    pub rate: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// Trials: the rate's denominator.
    pub n: u64,
}

impl RateInterval {
    /// Wilson's score interval (Wilson, 1927, without continuity correction), which stays within 0 and 1 and says
    /// something where no trial, or every trial, succeeded. `None` without trials.
    ///
    /// # Panics
    ///
    /// If there are more successes than trials.
    pub fn wilson(successes: u64, n: u64) -> Option<Self> {
        assert!(successes <= n, "{successes} successes in {n} trials");
        if n == 0 {
            return None;
        }
        let trials = n as f64;
        let rate = successes as f64 / trials;
        let z2_over_n = Z_95 * Z_95 / trials;
        let centre = (rate + z2_over_n / 2.0) / (1.0 + z2_over_n);
        let half = Z_95 * (rate * (1.0 - rate) / trials + z2_over_n / (4.0 * trials)).sqrt() / (1.0 + z2_over_n);
        // At the ends the bounds are 0 and 1 exactly; rounding would leave them a little off.
        let low = if successes == 0 { 0.0 } else { centre - half };
        let high = if successes == n { 1.0 } else { centre + half };
        Some(Self { rate, low, high, n })
    }

    /// [`RateInterval::wilson`] of outcomes that are each a success or not.
    pub fn of(outcomes: impl IntoIterator<Item = bool>) -> Option<Self> {
        let (mut successes, mut n) = (0, 0);
        for outcome in outcomes {
            successes += u64::from(outcome);
            n += 1;
        }
        Self::wilson(successes, n)
    }
}

/// A mean and its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanInterval {
    /// The mean of the values.
    pub mean: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// How many values.
    pub n: u64,
}

/// Percentile bootstrap (Efron, 1979) of the mean of `values`, which should be finite, in one fixed order: values are
/// drawn with replacement `resamples` times. Seeded, so that the same values give the same bounds. `None` without values
/// or resamples.
pub fn bootstrap_mean(values: &[f64], resamples: u32, seed: u64) -> Option<MeanInterval> {
    if values.is_empty() || resamples == 0 {
        return None;
    }
    let n = values.len();
    let mut rng = stream(seed, Purpose::Evaluation, RoundId::START, None);
    let resample = || (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64;
    Some(interval(values.iter().sum::<f64>() / n as f64, n, resamples, resample))
}

/// As [`bootstrap_mean`], of the sum of numerators over the sum of denominators: pairs are drawn together. `None` if the
/// denominators do not sum to more than 0.
pub fn bootstrap_ratio(pairs: &[(f64, f64)], resamples: u32, seed: u64) -> Option<MeanInterval> {
    let ratio = |chosen: &mut dyn Iterator<Item = (f64, f64)>| {
        let (above, below) = chosen.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        (below > 0.0).then(|| above / below)
    };
    let whole = ratio(&mut pairs.iter().copied())?;
    if resamples == 0 {
        return None;
    }
    let n = pairs.len();
    let mut rng = stream(seed, Purpose::Evaluation, RoundId::START, None);
    // A sample of pairs that are all empty says nothing.
    let resample = || ratio(&mut (0..n).map(|_| pairs[rng.random_range(0..n)])).unwrap_or(whole);
    Some(interval(whole, n, resamples, resample))
}

/// As [`bootstrap_mean`], of the mean of the groups' means: values are drawn within their groups. Empty groups do not
/// count; `None` if all are empty.
pub fn bootstrap_macro_mean(groups: &[Vec<f64>], resamples: u32, seed: u64) -> Option<MeanInterval> {
    let groups: Vec<_> = groups.iter().filter(|group| !group.is_empty()).collect();
    if groups.is_empty() || resamples == 0 {
        return None;
    }
    let share = 1.0 / groups.len() as f64;
    let whole = groups.iter().map(|group| share * group.iter().sum::<f64>() / group.len() as f64).sum();
    let n = groups.iter().map(|group| group.len()).sum();
    let mut rng = stream(seed, Purpose::Evaluation, RoundId::START, None);
    let mut mean_of = |group: &[f64]| {
        let drawn: f64 = (0..group.len()).map(|_| group[rng.random_range(0..group.len())]).sum();
        drawn / group.len() as f64
    };
    let resample = || groups.iter().map(|group| share * mean_of(group)).sum();
    Some(interval(whole, n, resamples, resample))
}

/// The statistic of all values with the bounds of its bootstrap distribution.
fn interval(mean: f64, n: usize, resamples: u32, mut resample: impl FnMut() -> f64) -> MeanInterval {
    let mut statistics: Vec<f64> = (0..resamples).map(|_| resample()).collect();
    statistics.sort_by(f64::total_cmp);
    MeanInterval { mean, low: percentile(&statistics, TAIL), high: percentile(&statistics, 1.0 - TAIL), n: n as u64 }
}

/// The value below which the given share of `sorted` lies, interpolated linearly as numpy does by default.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.binomtest(k, n).proportion_ci(.95, method="wilson")`, scipy 1.16.
    #[test]
    fn wilson_agrees_with_scipy() {
        for (successes, n, low, high) in [
            (0, 64, 0.0, 0.056_624_059_792_805_34),
            (9, 100, 0.048_072_540_002_565_146, 0.162_262_128_527_163_1),
            (62, 64, 0.893_027_082_290_416_9, 0.991_387_861_653_828_1),
            (520, 520, 0.992_666_752_972_660_2, 1.0),
            (1, 2, 0.094_531_205_734_230_74, 0.905_468_794_265_769_3),
        ] {
            let interval = RateInterval::wilson(successes, n).unwrap();
            assert!((interval.low - low).abs() < 1e-12 && (interval.high - high).abs() < 1e-12, "{interval:?}");
            assert!((interval.rate - successes as f64 / n as f64).abs() < 1e-15);
        }
        assert_eq!(RateInterval::wilson(0, 0), None);
        assert_eq!(RateInterval::of([true, false]), RateInterval::wilson(1, 2));
    }

    /// `np.percentile([1, 2, 4, 8, 16], q)` for q = 2.5, 50, 97.5.
    #[test]
    fn percentiles_agree_with_numpy() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (share, expected) in [(0.0, 1.0), (0.025, 1.1), (0.5, 4.0), (0.975, 15.2), (1.0, 16.0)] {
            assert!((percentile(&sorted, share) - expected).abs() < 1e-12);
        }
        assert!((percentile(&[3.0], 0.975) - 3.0).abs() < 1e-15);
    }

    /// `scipy.stats.bootstrap((v,), np.mean, n_resamples=200000, method="percentile")` gave 4.475 and 6.8, and
    /// 0.921875 and 1 for 62 successes in 64. Bounds of 20,000 resamples wander by about 0.02.
    #[test]
    fn bootstrap_agrees_with_scipy() {
        let v = [7., 3., 9.5, 1., 6., 6., 8., 2.5, 4., 10., 5.5, 7.5, 3.5, 9., 6.5, 1.5, 8.5, 2., 5., 7.];
        let interval = bootstrap_mean(&v, 20_000, 1).unwrap();
        assert!((interval.mean - 5.65).abs() < 1e-12);
        assert!((interval.low - 4.475).abs() < 0.06 && (interval.high - 6.8).abs() < 0.06, "{interval:?}");
        let successes: Vec<f64> = (0..64).map(|i| if i < 62 { 1.0 } else { 0.0 }).collect();
        let interval = bootstrap_mean(&successes, 20_000, 1).unwrap();
        assert!((interval.low - 0.921_875).abs() < 1e-12 && (interval.high - 1.0).abs() < 1e-12, "{interval:?}");
    }

    /// `np.percentile(a[i].sum(1) / b[i].sum(1), [2.5, 97.5])` with a million draws `i` gave -1.2647 and -0.75.
    #[test]
    fn ratios_agree_with_numpy() {
        let pairs =
            [(-1.0, 2.0), (-3.0, 2.0), (-8.0, 6.0), (-2.0, 3.0), (-5.0, 4.0), (-1.5, 3.0), (-9.0, 7.0), (-0.5, 1.0)];
        let interval = bootstrap_ratio(&pairs, 20_000, 1).unwrap();
        assert!((interval.mean + 30.0 / 28.0).abs() < 1e-12);
        assert!((interval.low + 1.2647).abs() < 0.02 && (interval.high + 0.75).abs() < 0.02, "{interval:?}");
        assert_eq!(bootstrap_ratio(&[(1.0, 0.0)], 10, 1), None);
    }

    #[test]
    fn groups_count_alike_however_large_they_are() {
        let interval = bootstrap_macro_mean(&[vec![1.0; 90], vec![], vec![0.0; 10]], 200, 1).unwrap();
        assert_eq!((interval.mean, interval.low, interval.high, interval.n), (0.5, 0.5, 0.5, 100));
        // One group is the plain mean.
        let v = [0.3, 0.1, 0.9, 0.4, 0.6];
        let (one, plain) = (bootstrap_macro_mean(&[v.to_vec()], 100, 1).unwrap(), bootstrap_mean(&v, 100, 1).unwrap());
        assert!((one.low - plain.low).abs() < 1e-12 && (one.high - plain.high).abs() < 1e-12);
        assert_eq!(bootstrap_macro_mean(&[vec![]], 100, 1), None);
    }

    #[test]
    fn the_seed_decides() {
        let v = [0.3, 0.1, 0.9, 0.4, 0.6];
        assert_eq!(bootstrap_mean(&v, 100, 1), bootstrap_mean(&v, 100, 1));
        assert_ne!(bootstrap_mean(&v, 100, 1), bootstrap_mean(&v, 100, 2));
        assert_eq!(bootstrap_mean(&[], 100, 1), None);
        assert_eq!(bootstrap_mean(&v, 0, 1), None);
    }
}
