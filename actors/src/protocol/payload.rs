//! What travels beside an adapter: vectors and numbers under names, open for algorithms that nobody has thought of yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Adapter, AdapterError};

/// Named vectors, each of an adapter's layout, and named numbers.
///
/// The server sends one to its clients and each of them sends one back. Which names mean what is between the two sides of a
/// federated algorithm; [`names`] has those that more than one of them speaks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    vectors: BTreeMap<String, Adapter>,
    numbers: BTreeMap<String, f64>,
}

/// Names that payloads use.
pub mod names {
    /// Number: strength μ of the pull to the global adapter while a client trains.
    pub const PROXIMAL_MU: &str = "proximal_mu";
    /// Number: which [`Factor`](crate::protocol::Factor) clients leave as it is, where they train only the other.
    pub const FIXED_FACTOR: &str = "fixed_factor";
    /// Vector: the server's control variate.
    pub const CONTROL: &str = "control";
    /// Vector: by how much a client's control variate has moved.
    pub const CONTROL_DELTA: &str = "control_delta";
}

impl Payload {
    /// Returns the payload with a vector added.
    #[must_use]
    pub fn with_vector(mut self, name: &str, vector: Adapter) -> Self {
        self.vectors.insert(name.to_owned(), vector);
        self
    }

    /// Returns the payload with a number added.
    #[must_use]
    pub fn with_number(mut self, name: &str, number: f64) -> Self {
        self.numbers.insert(name.to_owned(), number);
        self
    }

    /// Returns the vector of this name.
    pub fn vector(&self, name: &str) -> Option<&Adapter> {
        self.vectors.get(name)
    }

    /// Returns the number of this name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.numbers.get(name).copied()
    }

    /// Returns the size of the vectors on the wire, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.vectors.values().map(Adapter::size_bytes).sum()
    }

    /// Checks every vector and number as strictly as adapters (invariants ).
    ///
    /// # Errors
    ///
    /// [`AdapterError`] names the first vector of another layout than `like`, or the first value that is not finite.
    pub fn check(&self, like: &Adapter) -> Result<(), AdapterError> {
        for vector in self.vectors.values() {
            like.check_same_layout(vector)?;
            vector.check_finite()?;
        }
        match self.numbers.iter().find(|(_, number)| !number.is_finite()) {
            None => Ok(()),
            Some((name, _)) => Err(AdapterError::NotFinite { tensor: name.clone() }),
        }
    }

    /// Returns the payload with each of its vectors changed.
    pub(crate) fn map_vectors(&self, change: impl Fn(&Adapter) -> Adapter) -> Self {
        let vectors = self.vectors.iter().map(|(name, vector)| (name.clone(), change(vector))).collect();
        Self { vectors, numbers: self.numbers.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{layout_of_rank, tiny_layout};

    #[test]
    fn a_payload_is_checked_against_a_layout_and_for_values_that_are_not_finite() {
        let like = Adapter::zeros(tiny_layout());
        let payload = Payload::default().with_vector("v", like.clone()).with_number("n", 1.5);
        assert_eq!(payload.check(&like), Ok(()));
        assert_eq!((payload.size_bytes(), payload.number("n"), payload.number("v")), (32, Some(1.5), None));
        let infinite = payload.clone().with_number("x", f64::INFINITY);
        assert_eq!(infinite.check(&like), Err(AdapterError::NotFinite { tensor: "x".to_owned() }));
        let other = payload.with_vector("w", Adapter::zeros(layout_of_rank(3)));
        assert!(matches!(other.check(&like), Err(AdapterError::LayoutMismatch(_))));
    }
}
