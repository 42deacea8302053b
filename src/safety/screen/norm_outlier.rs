//! Updates whose length does not fit the others'.

use fedward_actors::{
    cancel::CancelFlag,
    ports::{Candidate, Judgement, PortResult, UpdateScreen},
    protocol::{Adapter, RoundId},
};
use fedward_aggregation::vectors::median;
use serde::{Deserialize, Serialize};

use super::Outlier;

/// Finds deltas whose norm lies more than so many deviations from the cohort's middle, to either side: a boosted update is too long,
/// a free rider's too short.
///
/// The middle and the deviation are median and 1.4826 · MAD ("How to Detect and Handle Outliers", Iglewicz and Hoaglin 1993, where
/// 3.5 is recommended), or mean and standard deviation. The latter are the attackers' to move: of n updates none can
/// lie more than (n − 1) / √n standard deviations off, which is 1.79 of 5 and 2.85 of 10.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOutlier {
    /// What deviations are counted in.
    pub measure: Spread,
    /// How many of them are still fine.
    pub max_deviations: f64,
    /// What becomes of an outlier. A weighed one's trust is `max_deviations` over its deviations.
    pub action: Outlier,
}

/// What deviations are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// The median of absolute deviations from the median, times 1.4826.
    #[default]
    Mad,
    /// The standard deviation, of the n values.
    ZScore,
}

impl Spread {
    /// The middle of the norms and their deviation.
    fn of(self, norms: &[f64]) -> (f64, f64) {
        match self {
            Self::Mad => {
                let middle = median(norms);
                let far: Vec<f64> = norms.iter().map(|norm| (norm - middle).abs()).collect();
                (middle, 1.4826 * median(&far))
            }
            Self::ZScore => {
                let n = norms.len().max(1) as f64;
                let middle = norms.iter().sum::<f64>() / n;
                (middle, (norms.iter().map(|norm| (norm - middle).powi(2)).sum::<f64>() / n).sqrt())
            }
        }
    }
}

impl UpdateScreen for NormOutlier {
    fn name(&self) -> &'static str {
        "norm_outlier"
    }

    fn judge(
        &self,
        _: RoundId,
        _: &Adapter,
        candidates: &[Candidate<'_>],
        _: &CancelFlag,
    ) -> PortResult<Vec<Judgement>> {
        let norms: Vec<f64> = candidates.iter().map(|candidate| candidate.delta_norm).collect();
        let (middle, deviation) = self.measure.of(&norms);
        Ok(norms.into_iter().map(|norm| self.judge_norm(norm, middle, deviation)).collect())
    }
}

impl NormOutlier {
    fn judge_norm(&self, norm: f64, middle: f64, deviation: f64) -> Judgement {
        let deviations = (norm - middle).abs() / deviation;
        // A cohort whose norms agree gives no measure.
        if deviation == 0.0 || deviations <= self.max_deviations {
            return Judgement::Keep;
        }
        match self.action {
            Outlier::Weigh => Judgement::Weigh(self.max_deviations / deviations),
            Outlier::Reject => Judgement::Reject(format!(
                "its delta's norm of {norm:.4} lies {deviations:.1} deviations of {deviation:.4} from the cohort's middle of \
                 {middle:.4}, more than {}",
                self.max_deviations
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::judged, *};

    /// ```python
    /// import numpy as np
    /// x = np.array([1.0, 1.2, 0.9, 1.1, 5.0]); m = np.median(x)
    /// print(abs(x - m) / (1.4826 * np.median(abs(x - m))), abs(x - x.mean()) / x.std())
    /// ```
    const NORMS: [f64; 5] = [1.0, 1.2, 0.9, 1.1, 5.0];
    const MAD_OF_LAST: f64 = 26.305_139_619_587_19;
    const Z_OF_LAST: f64 = 1.996_006_226_295_436_6;

    #[test]
    fn deviations_are_numpy_s() {
        let trust = |measure, max_deviations| {
            let screen = NormOutlier { measure, max_deviations, action: Outlier::Weigh };
            let judged = judged(&screen, &NORMS.map(|norm| vec![norm as f32, 0.0]));
            assert!(judged[..4].iter().all(|judgement| *judgement == Judgement::Keep), "{judged:?}");
            let Judgement::Weigh(trust) = judged[4] else { panic!("{judged:?}") };
            trust
        };
        assert!((trust(Spread::Mad, 3.5) - 3.5 / MAD_OF_LAST).abs() < 1e-6);
        assert!((trust(Spread::ZScore, 1.5) - 1.5 / Z_OF_LAST).abs() < 1e-6);
    }

    #[test]
    fn both_sides_are_refused_in_words_and_a_cohort_in_agreement_is_kept() {
        let screen = NormOutlier { measure: Spread::Mad, max_deviations: 3.0, action: Outlier::Reject };
        let norms = |values: &[f32]| values.iter().map(|&norm| vec![norm, 0.0]).collect::<Vec<_>>();
        let found = judged(&screen, &norms(&[1.0, 1.1, 1.2, 0.0, 1.0]));
        let Judgement::Reject(reason) = &found[3] else { panic!("{found:?}") };
        assert!(reason.starts_with("its delta's norm of 0.0000 lies 6.7 deviations of 0.1483"), "{reason}");
        assert!(judged(&screen, &norms(&[1.0, 1.0, 1.0, 9.0])).iter().all(|found| *found == Judgement::Keep));
        assert!(judged(&screen, &[]).is_empty());
    }
}
