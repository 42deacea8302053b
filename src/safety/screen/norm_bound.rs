//! A bound on the length of updates.

use fedward_actors::{
    cancel::CancelFlag,
    ports::{Candidate, Judgement, PortResult, UpdateScreen},
    protocol::{Adapter, RoundId},
};
use fedward_aggregation::vectors::median;
use serde::{Deserialize, Serialize};

/// Bounds the Euclidean norm of every delta by a multiple of the cohort's median norm.
///
/// Norm bounds as a defence are those of "Can You Really Backdoor Federated Learning?" (Sun et al. 2019, section 4), with
/// the cohort's median in the place of a fixed bound, so that it needs no tuning when the learning rate or the rank changes.
///
/// What it cannot do: see an attack that is no longer than honest updates, such as training on harmful rows with honest
/// settings. And its measure is honest only while more than half of the cohort is; with two updates the median is their mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormBound {
    /// How many times the median a delta may be long.
    pub max_ratio: f64,
    /// What becomes of a longer one.
    pub excess: Excess,
}

/// What becomes of an update that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Excess {
    /// It is scaled down to the bound.
    #[default]
    Clip,
    /// It is refused.
    Reject,
}

impl UpdateScreen for NormBound {
    fn name(&self) -> &'static str {
        "norm_bound"
    }

    fn judge(
        &self,
        _: RoundId,
        _: &Adapter,
        candidates: &[Candidate<'_>],
        _: &CancelFlag,
    ) -> PortResult<Vec<Judgement>> {
        let median = median(&candidates.iter().map(|candidate| candidate.delta_norm).collect::<Vec<_>>());
        Ok(candidates.iter().map(|candidate| self.judge_norm(candidate.delta_norm, median)).collect())
    }
}

impl NormBound {
    fn judge_norm(&self, norm: f64, median: f64) -> Judgement {
        let bound = self.max_ratio * median;
        // A cohort that does not move gives no measure.
        if norm <= bound || median == 0.0 {
            return Judgement::Keep;
        }
        match self.excess {
            Excess::Clip => Judgement::Clip(bound),
            Excess::Reject => Judgement::Reject(format!(
                "its delta's norm of {norm:.4} is more than {} times the cohort's median of {median:.4}",
                self.max_ratio
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fedward_actors::{
        ports::ClientUpdate,
        protocol::{AdapterLayout, ClientId, Payload},
    };

    use super::*;

    fn judged(screen: NormBound, norms: &[f64]) -> Vec<Judgement> {
        let layout = Arc::new(AdapterLayout::new([("a".to_owned(), [1, 2])]));
        let global = Adapter::zeros(layout);
        let extras = Payload::default();
        let update = ClientUpdate { client: ClientId(0), adapter: global.clone(), n_examples: 1.0, trust: 1.0, extras };
        let candidates: Vec<_> = norms.iter().map(|&delta_norm| Candidate { update: &update, delta_norm }).collect();
        screen.judge(RoundId(1), &global, &candidates, &CancelFlag::new()).unwrap()
    }

    #[test]
    fn what_is_longer_than_the_multiple_of_the_median_is_clipped_to_it() {
        let screen = NormBound { max_ratio: 2.0, excess: Excess::Clip };
        // The median of these is 2: the bound is 4, and 4 itself is within it.
        let found = judged(screen, &[1.0, 100.0, 2.0, 4.0, 1.5]);
        assert_eq!(found, [Judgement::Keep, Judgement::Clip(4.0), Judgement::Keep, Judgement::Keep, Judgement::Keep]);
        // Of an even number the middle lies between two: 1.5, so the bound is 3.
        assert_eq!(judged(screen, &[1.0, 1.0, 2.0, 9.0])[3], Judgement::Clip(3.0));
    }

    #[test]
    fn a_refusal_gives_norm_and_median() {
        let screen = NormBound { max_ratio: 1.5, excess: Excess::Reject };
        let [Judgement::Keep, Judgement::Keep, Judgement::Reject(reason)] = &judged(screen, &[1.0, 1.0, 2.0])[..]
        else {
            panic!()
        };
        assert_eq!(reason, "its delta's norm of 2.0000 is more than 1.5 times the cohort's median of 1.0000");
    }

    #[test]
    fn alone_among_zeros_or_among_none_nothing_is_refused() {
        let screen = NormBound { max_ratio: 1.0, excess: Excess::Reject };
        assert_eq!(judged(screen, &[7.0]), [Judgement::Keep]);
        assert_eq!(judged(screen, &[0.0, 0.0, 1.0]), [Judgement::Keep, Judgement::Keep, Judgement::Keep]);
        assert!(judged(screen, &[]).is_empty());
    }
}
