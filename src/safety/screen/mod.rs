//! Update screens: defences that look at what clients send, before it is aggregated.

mod cosine;
mod norm_bound;
mod norm_outlier;

use serde::{Deserialize, Serialize};

pub use cosine::CosineScreen;
pub use norm_bound::{Excess, NormBound};
pub use norm_outlier::{NormOutlier, Spread};

/// What becomes of an update that does not fit the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlier {
    /// It is refused.
    #[default]
    Reject,
    /// It counts less.
    Weigh,
}

#[cfg(test)]
pub(super) mod testing {
    use std::sync::Arc;

    use fedward_actors::{
        cancel::CancelFlag,
        ports::{Candidate, Judgement, UpdateScreen},
        protocol::{Adapter, AdapterLayout, ClientId, ClientUpdate, Payload, RoundId},
    };

    /// What a screen says of these deltas of two numbers each.
    pub(in crate::safety::screen) fn judged(screen: &dyn UpdateScreen, deltas: &[Vec<f32>]) -> Vec<Judgement> {
        let layout = Arc::new(AdapterLayout::new([("a".to_owned(), [1, 2])]));
        let global = Adapter::new(Arc::clone(&layout), vec![0.5, -0.25]).unwrap();
        let update = |delta: &Vec<f32>| {
            let values = delta.iter().zip(global.values()).map(|(delta, global)| delta + global).collect();
            let adapter = Adapter::new(Arc::clone(&layout), values).unwrap();
            let extras = Payload::default();
            ClientUpdate { client: ClientId(0), adapter, n_examples: 1.0, trust: 1.0, extras }
        };
        let updates: Vec<_> = deltas.iter().map(update).collect();
        let norm = |update: &ClientUpdate| update.adapter.delta_from(&global).unwrap().l2_norm();
        let candidates: Vec<_> = updates.iter().map(|update| Candidate { update, delta_norm: norm(update) }).collect();
        screen.judge(RoundId(1), &global, &candidates, &CancelFlag::new()).unwrap()
    }
}
