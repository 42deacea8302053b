//! How clients' adapters become the next global model: by their factors, or by the products `s B A` that the factors stand for.
//!
//! `mean(B) mean(A)` is not `mean(B A)`. The rules here differ in what they do about it: some fix one factor, so that the two are
//! equal; some take the mean of products and factorise it, or leave what the factors miss in frozen terms. Each is a file with its
//! equation and its source; adding one is a file, a variant of [`LoraRule`] and its lines below.

mod exact;
mod factorised;
mod frozen;
mod padded;

use std::collections::BTreeMap;

use fedward_actors::{
    ports::PortResult,
    protocol::{Adapter, AdapterTensor, ClientRanks, ClientUpdate, Factor, GlobalModel, RoundId},
};
use serde::{Deserialize, Serialize};

/// How LoRA adapters are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum LoraRule {
    /// Number by number, as any other vector: `mean(B) mean(A)`.
    #[default]
    Factors,
    /// A stays as it was at the start; `mean(B) A` is the mean of products ("Improving LoRA in Privacy-preserving Federated
    /// Learning", Sun et al. 2024).
    Ffa,
    /// A and B are trained in turn, B in odd rounds ("Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA",
    /// Chen et al. 2025).
    RoLora,
    /// B is trained; after each round `mean(B) A` is factorised anew, so that A's rows are orthonormal (`FedSVD`, Lee et al. 2025).
    FedSvd,
    /// The mean of factors is trained on, and what it misses of the mean of products is frozen (`FedEx-LoRA`, Singhal et al. 2024).
    FedEx {
        /// Most ranks of frozen terms; above that they are compressed, which loses something.
        max_rank: Option<usize>,
    },
    /// The mean of products is frozen, and each round trains a new adapter (`FLoRA`, Wang et al. 2024).
    Flora {
        /// As of [`LoraRule::FedEx`].
        max_rank: Option<usize>,
    },
    /// The best approximation of the mean of products of the adapter's rank (`FlexLoRA`, Bai et al. 2024).
    FlexLora,
    /// Number by number, what a client of a smaller rank lacks being zero, each weighed by the norm of its product (`HetLoRA`, Cho
    /// et al. 2024, without the pruning of ranks).
    HetLora,
}

impl LoraRule {
    /// Its name in scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Factors => "factors",
            Self::Ffa => "ffa",
            Self::RoLora => "rolora",
            Self::FedSvd => "fedsvd",
            Self::FedEx { .. } => "fedex",
            Self::Flora { .. } => "flora",
            Self::FlexLora => "flexlora",
            Self::HetLora => "hetlora",
        }
    }

    /// Whether it combines products or adapters itself, so that no other aggregator or optimizer has a place beside it.
    pub const fn combines(self) -> bool {
        matches!(self, Self::FedEx { .. } | Self::Flora { .. } | Self::FlexLora | Self::HetLora)
    }

    /// Whether the numbers of the global adapter mean something else after each round: what was learnt of an older one (deltas,
    /// momentum) does not fit it.
    pub const fn changes_basis(self) -> bool {
        matches!(self, Self::FedSvd | Self::FedEx { .. } | Self::Flora { .. } | Self::FlexLora)
    }

    /// Whether clients may have ranks of their own.
    pub const fn takes_ranks(self) -> bool {
        !matches!(self, Self::FedSvd)
    }

    /// The factor that clients leave as it is in a round.
    pub(super) const fn fixed(self, round: RoundId) -> Option<Factor> {
        match self {
            Self::Ffa | Self::FedSvd => Some(Factor::A),
            Self::RoLora if round.0 % 2 == 1 => Some(Factor::A),
            Self::RoLora => Some(Factor::B),
            Self::Factors | Self::FedEx { .. } | Self::Flora { .. } | Self::FlexLora | Self::HetLora => None,
        }
    }

    /// What a rule that combines by itself makes of a round's updates.
    pub(super) fn combine(self, given: &Given<'_>) -> PortResult<Next> {
        match self {
            Self::FedEx { max_rank } => frozen::bounded(exact::fed_ex(given)?, max_rank),
            Self::Flora { max_rank } => frozen::bounded(exact::flora(given)?, max_rank),
            Self::FlexLora => factorised::flex_lora(given),
            Self::HetLora => padded::het_lora(given),
            Self::Factors | Self::Ffa | Self::RoLora | Self::FedSvd => {
                Ok(Next { model: given.global.clone(), report: BTreeMap::new() })
            }
        }
    }

    /// What it makes of an adapter that was combined without it.
    pub(super) fn finish(self, combined: Adapter) -> PortResult<Adapter> {
        if self == Self::FedSvd { factorised::orthonormal(&combined) } else { Ok(combined) }
    }
}

/// A round's updates and what they started from.
pub(super) struct Given<'a> {
    pub(super) round: RoundId,
    pub(super) seed: u64,
    pub(super) global: &'a GlobalModel,
    pub(super) updates: &'a [ClientUpdate],
    /// What each counts; of sum 1.
    pub(super) shares: Vec<f64>,
    pub(super) ranks: Option<&'a ClientRanks>,
}

/// The next global model, and what the rule says of itself.
pub(super) struct Next {
    pub(super) model: GlobalModel,
    pub(super) report: BTreeMap<String, f64>,
}

impl Given<'_> {
    /// What each client trained: as many ranks as it was sent.
    fn locals(&self) -> Vec<Adapter> {
        let local = |update: &ClientUpdate| match self.ranks {
            None => update.adapter.clone(),
            Some(ranks) => update.adapter.truncated(ranks.of(update.client)),
        };
        self.updates.iter().map(local).collect()
    }

    /// The same in the layout of the global adapter, zero in the ranks that a client was not sent.
    fn padded(&self) -> Vec<Adapter> {
        let padded = |update: &ClientUpdate| match self.ranks {
            None => update.adapter.clone(),
            Some(ranks) => update.adapter.leading_alone(ranks.of(update.client)),
        };
        self.updates.iter().map(padded).collect()
    }
}

/// The As and Bs of an adapter, pair by pair.
fn pairs(adapter: &Adapter) -> impl Iterator<Item = (&AdapterTensor, &AdapterTensor)> {
    let (pairs, _) = adapter.layout().tensors().as_chunks::<2>();
    pairs.iter().map(|[a, b]| (a, b))
}

#[cfg(test)]
mod tests;
