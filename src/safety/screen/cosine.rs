//! Updates that point elsewhere than the others.

use fedward_actors::{
    cancel::CancelFlag,
    ports::{Candidate, Judgement, PortError, PortResult, UpdateScreen},
    protocol::{Adapter, RoundId},
};
use fedward_aggregation::vectors::{WIDTH, dot_products, for_each_sorted_block, norms};

use super::Outlier;

/// Judges deltas by their cosine to the cohort's median direction: the median of each coordinate of the deltas scaled to length 1.
///
/// Trust by cosine is that of `FLTrust` ("`FLTrust`: Byzantine-robust Federated Learning via Trust Bootstrapping", Cao et al. 2021,
/// section 4, where it is max(0, cos) to an update of the server's own), with the cohort's middle in the place of
/// rows that a server here has not. It is honest only while more than half of the cohort is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineScreen {
    /// The least cosine that is still fine, from −1 to below 1.
    pub min_cosine: f64,
    /// What becomes of a delta below it. If they are weighed, every delta is: by how far its cosine has come from
    /// `min_cosine` to 1.
    pub action: Outlier,
}

impl UpdateScreen for CosineScreen {
    fn name(&self) -> &'static str {
        "cosine"
    }

    fn judge(
        &self,
        _: RoundId,
        global: &Adapter,
        candidates: &[Candidate<'_>],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<Judgement>> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let directions: Vec<Vec<f32>> = candidates.iter().map(|candidate| direction(global, candidate)).collect();
        if cancel.is_cancelled() {
            return Err(PortError::Cancelled);
        }
        let slices: Vec<&[f32]> = directions.iter().map(Vec::as_slice).collect();
        let middle = median_direction(&slices);
        let length = norms(&[&middle])[0];
        let cosine = |direction: &&[f32]| {
            if length > 0.0 { dot_products(&[direction, &middle]).get(0, 1) / length } else { 1.0 }
        };
        Ok(slices.iter().map(cosine).map(|cosine| self.judge_cosine(cosine)).collect())
    }
}

/// The delta at length 1; one of no length has no direction and stays 0.
fn direction(global: &Adapter, candidate: &Candidate<'_>) -> Vec<f32> {
    let values = candidate.update.adapter.values().iter().zip(global.values());
    let scale = if candidate.delta_norm > 0.0 { candidate.delta_norm.recip() } else { 0.0 };
    values.map(|(&local, &global)| (scale * (f64::from(local) - f64::from(global))) as f32).collect()
}

fn median_direction(directions: &[&[f32]]) -> Vec<f32> {
    let n = directions.len();
    for_each_sorted_block(directions, |rows| {
        let (low, high) = (&rows[(n - 1) / 2], &rows[n / 2]);
        std::array::from_fn::<_, WIDTH, _>(|lane| f64::midpoint(f64::from(low[lane]), f64::from(high[lane])) as f32)
    })
}

impl CosineScreen {
    fn judge_cosine(&self, cosine: f64) -> Judgement {
        match self.action {
            Outlier::Weigh => Judgement::Weigh(((cosine - self.min_cosine) / (1.0 - self.min_cosine)).clamp(0.0, 1.0)),
            Outlier::Reject if cosine < self.min_cosine => Judgement::Reject(format!(
                "its delta's cosine to the cohort's median direction is {cosine:.4}, below {}",
                self.min_cosine
            )),
            Outlier::Reject => Judgement::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::judged, *};

    /// ```python
    /// import numpy as np
    /// x = np.array([[3, 4.], [4, 3], [5, 0], [-6, -8]]); u = x / np.linalg.norm(x, axis=1, keepdims=True)
    /// m = np.median(u, axis=0); print(u @ m / np.linalg.norm(m))
    /// ```
    const DELTAS: [[f32; 2]; 4] = [[3.0, 4.0], [4.0, 3.0], [5.0, 0.0], [-6.0, -8.0]];
    const COSINES: [f64; 4] =
        [0.866_622_456_874_168_8, 0.971_667_603_161_947, 0.919_145_030_018_057_8, -0.866_622_456_874_168_8];

    #[test]
    fn trust_is_the_cosine_to_the_median_direction() {
        let deltas = DELTAS.map(Vec::from);
        let screen = CosineScreen { min_cosine: 0.0, action: Outlier::Weigh };
        for (found, cosine) in judged(&screen, &deltas).into_iter().zip(COSINES) {
            let Judgement::Weigh(trust) = found else { panic!("{found:?}") };
            assert!((trust - cosine.max(0.0)).abs() < 1e-6, "{trust}, not {cosine}");
        }
        let screen = CosineScreen { min_cosine: 0.9, action: Outlier::Reject };
        let found = judged(&screen, &deltas);
        assert_eq!((&found[1], &found[2]), (&Judgement::Keep, &Judgement::Keep));
        let Judgement::Reject(reason) = &found[3] else { panic!("{found:?}") };
        assert_eq!(reason, "its delta's cosine to the cohort's median direction is -0.8666, below 0.9");
    }

    #[test]
    fn a_cohort_that_does_not_move_is_kept() {
        let screen = CosineScreen { min_cosine: 0.5, action: Outlier::Reject };
        assert_eq!(judged(&screen, &[vec![0.0, 0.0], vec![0.0, 0.0]]), [Judgement::Keep, Judgement::Keep]);
        assert!(judged(&screen, &[]).is_empty());
    }
}
