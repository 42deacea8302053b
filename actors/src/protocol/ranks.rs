//! Clients of different ranks: each is sent the leading ranks of the adapter, as many as are its own.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Adapter, AdapterLayout, ClientId, Factor, GlobalModel};

/// How many ranks each client trains: the i-th of them for client i, and again from the first behind the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientRanks(Vec<usize>);

impl ClientRanks {
    /// Ranks to deal out; `None` of none.
    pub fn new(ranks: Vec<usize>) -> Option<Self> {
        (!ranks.is_empty()).then_some(Self(ranks))
    }

    /// Returns the rank of one client.
    pub fn of(&self, client: ClientId) -> usize {
        self.0[client.0 as usize % self.0.len()]
    }

    /// Returns the ranks that are dealt out.
    pub fn all(&self) -> &[usize] {
        &self.0
    }
}

/// What clients are sent of a global model: as many of its trainable ranks as are their own. Clients of one rank share it.
#[derive(Debug)]
pub(crate) struct ModelParts<'a> {
    global: &'a GlobalModel,
    ranks: Option<&'a ClientRanks>,
    made: BTreeMap<usize, GlobalModel>,
}

impl<'a> ModelParts<'a> {
    pub(crate) const fn new(global: &'a GlobalModel, ranks: Option<&'a ClientRanks>) -> Self {
        Self { global, ranks, made: BTreeMap::new() }
    }

    /// Returns what one client is sent.
    pub(crate) fn of(&mut self, client: ClientId) -> GlobalModel {
        let Some(ranks) = self.ranks else { return self.global.clone() };
        let rank = ranks.of(client);
        let part = || self.global.with_trainable(self.global.trainable().truncated(rank));
        self.made.entry(rank).or_insert_with(part).clone()
    }
}

/// The rows of a smaller layout in a larger one: where each begins in either, and how long it is.
fn leading_rows<'a>(
    large: &'a AdapterLayout,
    small: &'a AdapterLayout,
) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
    large.tensors().iter().zip(small.tensors()).flat_map(|(large, small)| {
        let [rows, columns] = small.shape;
        (0..rows).map(move |row| (large.offset + row * large.shape[1], small.offset + row * columns, columns))
    })
}

impl AdapterLayout {
    /// Returns the layout of an adapter with the first `rank` ranks of this one's, or all where there are no more. The scaling
    /// stays: what is left of `s B A` is the sum of its first terms.
    #[must_use]
    pub fn truncated(&self, rank: usize) -> Self {
        let tensors = self.tensors().iter().map(|tensor| {
            let mut shape = tensor.shape;
            if let Some(axis) = Factor::of(tensor).map(Factor::rank_axis) {
                shape[axis] = shape[axis].min(rank);
            }
            (tensor.name.clone(), shape)
        });
        Self::new(tensors).with_scaling(self.scaling())
    }
}

impl Adapter {
    /// Returns the adapter's first `rank` ranks, or all where there are no more.
    #[must_use]
    pub fn truncated(&self, rank: usize) -> Self {
        let layout = self.layout().truncated(rank);
        if self.layout().first_difference(&layout).is_none() {
            return self.clone();
        }
        let mut values = vec![0.0; layout.len()];
        for (from, to, len) in leading_rows(self.layout(), &layout) {
            values[to..to + len].copy_from_slice(&self.values()[from..from + len]);
        }
        Self::from_parts(Arc::new(layout), values)
    }

    /// Returns this adapter with its leading ranks changed: `change` is given their values here and their places in `leading`.
    ///
    /// # Panics
    ///
    /// If `leading` is not of this adapter's layout, truncated.
    #[must_use]
    pub(crate) fn with_leading(&self, leading: &AdapterLayout, mut change: impl FnMut(f32, usize) -> f32) -> Self {
        let mut values = self.values().to_vec();
        for (to, from, len) in leading_rows(self.layout(), leading) {
            for index in 0..len {
                values[to + index] = change(values[to + index], from + index);
            }
        }
        Self::from_parts(Arc::clone(self.layout()), values)
    }

    /// Returns this adapter with the first `rank` ranks of another one of its layout; one of another layout is returned as it is,
    /// for whoever checks it to name.
    #[must_use]
    pub fn with_leading_of(&self, other: &Self, rank: usize) -> Self {
        if self.layout().first_difference(other.layout()).is_some() {
            return other.clone();
        }
        let leading = other.truncated(rank);
        self.with_leading(leading.layout(), |_, from| leading.values()[from])
    }

    /// Returns the adapter with everything behind its first `rank` ranks set to zero.
    #[must_use]
    pub fn zero_padded(&self, rank: usize) -> Self {
        Self::zeros(Arc::clone(self.layout())).with_leading_of(self, rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::layout_of_rank;

    fn counting(rank: usize) -> Adapter {
        let layout = Arc::new((*layout_of_rank(rank)).clone().with_scaling(2.0));
        let values = (0..layout.len()).map(|index| index as f32 + 1.0).collect();
        Adapter::new(layout, values).unwrap()
    }

    #[test]
    fn truncation_keeps_rows_of_a_and_columns_of_b() {
        let small = counting(3).truncated(2);
        assert_eq!(small.layout().tensors()[0].shape, [2, 4]);
        assert_eq!(small.layout().tensors()[1].shape, [4, 2]);
        assert_eq!(small.layout().scaling().to_bits(), 2.0_f64.to_bits());
        // A is 3 × 4: its first two rows; B is 4 × 3: the first two of each three.
        let expected = [1, 2, 3, 4, 5, 6, 7, 8, 13, 14, 16, 17, 19, 20, 22, 23].map(|value: u8| f32::from(value));
        assert_eq!(small.values(), expected);
        assert_eq!(counting(3).truncated(3), counting(3));
        assert_eq!(counting(3).truncated(9), counting(3));
    }

    #[test]
    fn what_is_put_back_leaves_the_other_ranks_as_they_are() {
        let (large, small) = (counting(3), counting(3).truncated(2));
        assert_eq!(large.with_leading(small.layout(), |_, from| small.values()[from]), large);
        let zeros = Adapter::zeros(Arc::clone(large.layout()));
        let alone = zeros.with_leading_of(&large, 2);
        assert_eq!(alone.truncated(2), small);
        assert_eq!(alone, large.zero_padded(2));
        assert_eq!(alone.values().iter().filter(|value| value.to_bits() == 0).count(), 8);
    }

    #[test]
    fn ranks_are_dealt_out_in_turn() {
        let ranks = ClientRanks::new(vec![4, 8, 16]).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(|client| ranks.of(ClientId(client))), [4, 8, 16, 4, 8]);
        assert_eq!(ClientRanks::new(Vec::new()), None);
    }
}
