//! The updates of a round.

use std::{borrow::Cow, ops::Range};

use crate::AggregationError;

/// The updates of a round as deltas, in the order of clients.
#[derive(Clone, Debug)]
pub struct Updates<'a> {
    /// One vector per update, all of one length.
    vectors: Vec<Cow<'a, [f32]>>,
    /// One aggregation weight per update, not negative: read by rules whose [`Weighting`](crate::Weighting) says so.
    weights: Vec<f64>,
    /// Who sent each, unless clients were mixed.
    clients: Option<Vec<u64>>,
    /// Where the layers lie in each vector.
    layers: Vec<Range<usize>>,
}

impl<'a> Updates<'a> {
    /// Updates that weigh the same, of clients numbered from 0 and of one layer.
    ///
    /// # Errors
    ///
    /// [`AggregationError::NoWeight`] of none, [`AggregationError::Length`] if they differ in length.
    pub fn new(vectors: &[&'a [f32]]) -> Result<Self, AggregationError> {
        Self::from_vectors(vectors.iter().map(|&vector| Cow::Borrowed(vector)).collect())
    }

    /// As [`Updates::new`], of vectors that it may own.
    ///
    /// # Errors
    ///
    /// As [`Updates::new`].
    pub fn from_vectors(vectors: Vec<Cow<'a, [f32]>>) -> Result<Self, AggregationError> {
        let expected = vectors.first().ok_or(AggregationError::NoWeight { updates: 0 })?.len();
        if let Some(index) = vectors.iter().position(|vector| vector.len() != expected) {
            return Err(AggregationError::Length { index, expected, found: vectors[index].len() });
        }
        let weights = vec![1.0; vectors.len()];
        let clients = Some((0..vectors.len() as u64).collect());
        Ok(Self { vectors, weights, clients, layers: std::iter::once(0..expected).collect() })
    }

    /// The same with these aggregation weights.
    ///
    /// # Errors
    ///
    /// [`AggregationError::Count`] if there is not one per update, [`AggregationError::NoWeight`] if all are 0.
    pub fn weighted(mut self, weights: &[f64]) -> Result<Self, AggregationError> {
        self.check_count("weights", weights.len())?;
        // Not above 0 either if one of them is no number.
        if weights.iter().sum::<f64>() > 0.0 {
            self.weights = weights.to_vec();
            Ok(self)
        } else {
            Err(AggregationError::NoWeight { updates: self.len() })
        }
    }

    /// The same of these clients.
    ///
    /// # Errors
    ///
    /// [`AggregationError::Count`] if there is not one per update.
    pub fn of_clients(mut self, clients: Vec<u64>) -> Result<Self, AggregationError> {
        self.check_count("clients", clients.len())?;
        self.clients = Some(clients);
        Ok(self)
    }

    /// The same with these layers, which lie one after another and cover each vector.
    ///
    /// # Errors
    ///
    /// [`AggregationError::Count`] if they do not end where the vectors do.
    pub fn in_layers(mut self, layers: Vec<Range<usize>>) -> Result<Self, AggregationError> {
        let mut end = 0;
        let follow = layers.iter().all(|layer| std::mem::replace(&mut end, layer.end) == layer.start);
        if !follow || end != self.dimension() {
            return Err(AggregationError::Count {
                what: "numbers in layers",
                expected: self.dimension(),
                found: if follow { end } else { 0 },
            });
        }
        self.layers = layers;
        Ok(self)
    }

    const fn check_count(&self, what: &'static str, found: usize) -> Result<(), AggregationError> {
        if found == self.vectors.len() {
            Ok(())
        } else {
            Err(AggregationError::Count { what, expected: self.vectors.len(), found })
        }
    }

    /// Returns n; there is at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub const fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Returns how many numbers each update holds.
    pub fn dimension(&self) -> usize {
        self.vectors[0].len()
    }

    /// Returns the vectors as slices.
    pub fn slices(&self) -> Vec<&[f32]> {
        self.vectors.iter().map(|vector| &**vector).collect()
    }

    /// Returns the aggregation weights.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Returns who sent each update; `None` once clients were mixed.
    pub fn clients(&self) -> Option<&[u64]> {
        self.clients.as_deref()
    }

    /// Returns where the layers lie.
    pub fn layers(&self) -> &[Range<usize>] {
        &self.layers
    }

    /// The same with each vector scaled by its factor; those of factor 1 are not copied.
    pub(crate) fn scaled(mut self, factors: &[f64]) -> Self {
        for (vector, &factor) in self.vectors.iter_mut().zip(factors) {
            if factor.to_bits() != 1.0_f64.to_bits() {
                *vector = Cow::Owned(crate::vectors::scaled(vector, factor));
            }
        }
        self
    }

    /// Mixtures of clients in their place, which weigh the same.
    pub(crate) fn mixed<'b>(&self, vectors: Vec<Vec<f32>>) -> Updates<'b> {
        let weights = vec![1.0; vectors.len()];
        let vectors = vectors.into_iter().map(Cow::Owned).collect();
        Updates { vectors, weights, clients: None, layers: self.layers.clone() }
    }
}
