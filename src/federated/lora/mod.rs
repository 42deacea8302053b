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
    ports::{PortError, PortResult},
    protocol::{Adapter, AdapterTensor, ClientRanks, ClientUpdate, Factor, GlobalModel, RoundId},
    streams::{Purpose, stream},
};
use serde::{Deserialize, Serialize};

use super::state::adapter_like;
use crate::lora::fresh_values;

/// How LoRA adapters are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", try_from = "RawRule")]
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
    /// Number by number, what a client of a smaller rank was not sent being zero, each weighed by the norm of its product (`HetLoRA`, Cho
    /// et al. 2024, without the pruning of ranks).
    HetLora,
}

/// A rule as it is written: settings that it does not read are named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    kind: Kind,
    max_rank: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Factors,
    Ffa,
    RoLora,
    FedSvd,
    FedEx,
    Flora,
    FlexLora,
    HetLora,
}

impl TryFrom<RawRule> for LoraRule {
    type Error = String;

    fn try_from(RawRule { kind, max_rank }: RawRule) -> Result<Self, String> {
        let rule = match kind {
            Kind::Factors => Self::Factors,
            Kind::Ffa => Self::Ffa,
            Kind::RoLora => Self::RoLora,
            Kind::FedSvd => Self::FedSvd,
            Kind::FedEx => return Ok(Self::FedEx { max_rank }),
            Kind::Flora => return Ok(Self::Flora { max_rank }),
            Kind::FlexLora => Self::FlexLora,
            Kind::HetLora => Self::HetLora,
        };
        match max_rank {
            None => Ok(rule),
            Some(_) => Err(format!("max_rank is set, but {} freezes nothing that it could bound", rule.name())),
        }
    }
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

    /// Whether an update that started from an older model still fits the one at hand: the rule trains the same numbers, which mean
    /// the same, in every round.
    pub const fn takes_late_updates(self) -> bool {
        !self.changes_basis() && !matches!(self, Self::RoLora)
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
                Err(PortError::Failed(format!("{} does not combine by itself; this is a bug", self.name())))
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
    /// How many ranks an update's client was sent.
    fn rank(&self, update: &ClientUpdate) -> usize {
        let all = rank(&update.adapter);
        self.ranks.map_or(all, |ranks| ranks.of(update.client).min(all))
    }

    /// A global adapter that goes on being trained: a rank of which nothing is left, neither in A nor in B, has no gradient. Its row of
    /// A is that of the adapter before, or drawn anew if that was zero, too. The product is the same.
    fn revived(&self, next: &Adapter) -> PortResult<Adapter> {
        let before = self.global.trainable();
        let mut rng = stream(self.seed, Purpose::Initialization, self.round, None);
        let fresh = fresh_values(before.layout(), &mut rng);
        let mut values = next.values().to_vec();
        for (a, b) in pairs(next) {
            let [rank, columns] = a.shape;
            for k in 0..rank {
                let row = a.offset + k * columns..a.offset + (k + 1) * columns;
                let of_b = next.tensor(b).iter().skip(k).step_by(rank);
                if is_zero(&next.values()[row.clone()]) && of_b.copied().all(|value| value.abs() <= 0.0) {
                    let source = if is_zero(&before.values()[row.clone()]) { &fresh } else { before.values() };
                    values[row.clone()].copy_from_slice(&source[row]);
                }
            }
        }
        adapter_like(before, values)
    }
}

fn is_zero(values: &[f32]) -> bool {
    values.iter().all(|value| value.abs() <= 0.0)
}

/// The ranks of an adapter: of its pair with the most.
fn rank(adapter: &Adapter) -> usize {
    pairs(adapter).map(|(a, _)| a.shape[0]).max().unwrap_or(0)
}

/// What clients left as it was: the server reads nothing else of it.
pub(super) fn with_fixed(fixed: Factor, global: &Adapter, update: &ClientUpdate) -> PortResult<ClientUpdate> {
    let mut values = update.adapter.values().to_vec();
    for tensor in global.layout().tensors().iter().filter(|tensor| Factor::of(tensor) == Some(fixed)) {
        values[tensor.range()].copy_from_slice(global.tensor(tensor));
    }
    Ok(ClientUpdate { adapter: adapter_like(global, values)?, ..update.clone() })
}

/// The As and Bs of an adapter, pair by pair.
fn pairs(adapter: &Adapter) -> impl Iterator<Item = (&AdapterTensor, &AdapterTensor)> {
    let (pairs, _) = adapter.layout().tensors().as_chunks::<2>();
    pairs.iter().map(|[a, b]| (a, b))
}

#[cfg(test)]
mod tests;
