//! The model that travels: what is trained, on top of what is not trained any more.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Adapter, AdapterError, hex};

/// The base model's change so far: `W + Σ frozen + trainable`, each term `s B A` with the scaling s of its own layout.
///
/// Rules that combine products instead of factors leave terms behind that no client trains again: their ranks are their own,
/// their targets those of the trainable adapter. Cloning is cheap: terms and values are shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GlobalModel {
    frozen: Vec<Arc<Adapter>>,
    trainable: Adapter,
}

impl From<Adapter> for GlobalModel {
    /// A model of which all is trained.
    fn from(trainable: Adapter) -> Self {
        Self { frozen: Vec::new(), trainable }
    }
}

impl GlobalModel {
    /// A model of frozen terms and an adapter on top of them.
    pub const fn new(frozen: Vec<Arc<Adapter>>, trainable: Adapter) -> Self {
        Self { frozen, trainable }
    }

    /// Returns what is not trained, first to last; empty unless a rule left something behind.
    pub fn frozen(&self) -> &[Arc<Adapter>] {
        &self.frozen
    }

    /// Returns what clients start from and send back.
    pub const fn trainable(&self) -> &Adapter {
        &self.trainable
    }

    /// Returns the model with another adapter on the same frozen terms.
    #[must_use]
    pub fn with_trainable(&self, trainable: Adapter) -> Self {
        Self { frozen: self.frozen.clone(), trainable }
    }

    /// Returns the model with one more frozen term.
    #[must_use]
    pub fn with_frozen(mut self, term: Adapter) -> Self {
        self.frozen.push(Arc::new(term));
        self
    }

    /// Returns its size on the wire, in bytes: frozen terms are sent along.
    pub fn size_bytes(&self) -> u64 {
        self.frozen.iter().map(|term| term.size_bytes()).sum::<u64>() + self.trainable.size_bytes()
    }

    /// Checks that a model may follow this one: an adapter of the same layout, all values finite (invariants ). Terms that
    /// both share are not looked at again.
    ///
    /// # Errors
    ///
    /// [`AdapterError`] names the first difference or the first tensor with a value that is not finite.
    pub fn check_successor(&self, next: &Self) -> Result<(), AdapterError> {
        self.trainable.check_same_layout(&next.trainable)?;
        next.trainable.check_finite()?;
        let is_known = |term: &Arc<Adapter>| self.frozen.iter().any(|known| Arc::ptr_eq(known, term));
        next.frozen.iter().filter(|term| !is_known(term)).try_for_each(|term| term.check_finite())
    }

    /// Checks that every value is finite (invariant A-2).
    ///
    /// # Errors
    ///
    /// [`AdapterError::NotFinite`] names the first tensor with another value.
    pub fn check_finite(&self) -> Result<(), AdapterError> {
        self.trainable.check_finite()?;
        self.frozen.iter().try_for_each(|term| term.check_finite())
    }

    /// SHA-256 in hexadecimal: the adapter's own where nothing is frozen, else of all terms with their scalings.
    pub fn sha256(&self) -> String {
        if self.frozen.is_empty() {
            return self.trainable.sha256();
        }
        let mut hash = Sha256::new();
        for term in self.frozen.iter().map(AsRef::as_ref).chain([&self.trainable]) {
            hash.update(term.layout().scaling().to_le_bytes());
            hash.update(term.sha256());
        }
        hex(&hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{layout_of_rank, tiny_layout};

    fn adapter(value: f32) -> Adapter {
        Adapter::new(tiny_layout(), vec![value; 8]).unwrap()
    }

    #[test]
    fn without_frozen_terms_it_is_its_adapter() {
        let model = GlobalModel::from(adapter(2.0));
        assert_eq!((model.sha256(), model.size_bytes()), (adapter(2.0).sha256(), 32));
    }

    #[test]
    fn frozen_terms_count_in_size_and_checksum_with_their_scalings() {
        let of_scaling = |scaling: f64| {
            let layout = Arc::new((*layout_of_rank(3)).clone().with_scaling(scaling));
            GlobalModel::from(adapter(2.0)).with_frozen(Adapter::zeros(layout))
        };
        assert_eq!(of_scaling(1.0).size_bytes(), 32 + 3 * 32);
        assert_ne!(of_scaling(1.0).sha256(), of_scaling(2.0).sha256());
        assert_eq!(of_scaling(1.0).with_trainable(adapter(2.0)), of_scaling(1.0));
    }

    #[test]
    fn a_2_a_successor_is_of_the_same_layout_and_finite_throughout() {
        let model = GlobalModel::from(adapter(1.0));
        assert_eq!(model.check_successor(&model.clone().with_frozen(Adapter::zeros(layout_of_rank(5)))), Ok(()));
        let grown = GlobalModel::from(Adapter::zeros(layout_of_rank(2)));
        assert!(matches!(model.check_successor(&grown), Err(AdapterError::LayoutMismatch(_))));
        let infinite = model.clone().with_frozen(adapter(f32::INFINITY));
        assert!(matches!(model.check_successor(&infinite), Err(AdapterError::NotFinite { .. })));
        assert!(infinite.check_finite().is_err());
        // What was there before has been looked at.
        assert_eq!(infinite.check_successor(&infinite.with_trainable(adapter(3.0))), Ok(()));
    }
}
