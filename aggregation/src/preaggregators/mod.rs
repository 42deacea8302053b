//! Rules that change updates before they are combined.

use crate::{AggregationError, Context, Updates, registry::registry};

registry! {
    /// A pre-aggregator with its settings.
    PreAggregatorSettings of PreAggregator {
        "nnm" => nnm::NearestNeighbourMixing,
        "bucketing" => bucketing::Bucketing,
        "clip" => clip::Clip,
        "arc" => arc::AdaptiveRobustClipping,
    }
}

/// Whether what comes out is still the client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixing {
    /// Each update is its client's, at most shorter; its weight counts.
    None,
    /// Updates are means of several clients', and weigh the same.
    Clients,
}

/// A rule that changes updates before they are combined.
pub trait PreAggregator: std::fmt::Debug + Send + Sync {
    /// Whether it mixes clients.
    fn mixing(&self) -> Mixing;

    /// Returns how many updates it makes of so many.
    fn updates_after(&self, updates: usize) -> usize {
        updates
    }

    /// Checks its settings, and that it can work on so many updates.
    ///
    /// # Errors
    ///
    /// [`AggregationError::Setting`] or [`AggregationError::TooFewUpdates`].
    fn check(&self, updates: usize) -> Result<(), AggregationError>;

    /// Changes updates, of which there are enough.
    ///
    /// # Errors
    ///
    /// [`AggregationError`] if it cannot.
    fn transform<'a>(&self, updates: Updates<'a>, context: &mut Context<'_>) -> Result<Updates<'a>, AggregationError>;
}
