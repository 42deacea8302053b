//! How sure a measured rate or mean is: 95% intervals.

use fedward_actors::{
    protocol::RoundId,
    streams::{Purpose, stream},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// The 97.5% quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

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
    let mut resample = || (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..resamples).map(|_| resample()).collect();
    means.sort_by(f64::total_cmp);
    Some(MeanInterval {
        mean: values.iter().sum::<f64>() / n as f64,
        low: percentile(&means, TAIL),
        high: percentile(&means, 1.0 - TAIL),
        n: n as u64,
    })
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

    #[test]
    fn the_seed_decides() {
        let v = [0.3, 0.1, 0.9, 0.4, 0.6];
        assert_eq!(bootstrap_mean(&v, 100, 1), bootstrap_mean(&v, 100, 1));
        assert_ne!(bootstrap_mean(&v, 100, 1), bootstrap_mean(&v, 100, 2));
        assert_eq!(bootstrap_mean(&[], 100, 1), None);
        assert_eq!(bootstrap_mean(&v, 0, 1), None);
    }
}
