//! Rules that combine updates into one.

use crate::{AggregationError, Context, Updates, registry::registry};

registry! {
    /// A rule of aggregation with its settings.
    AggregatorSettings of Aggregator {
        "mean" => mean::Mean,
        "median" => median::Median,
        "trimmed_mean" => trimmed_mean::TrimmedMean,
        "krum" => krum::Krum,
        "multi_krum" => multi_krum::MultiKrum,
        "bulyan" => bulyan::Bulyan,
        "geometric_median" => geometric_median::GeometricMedian,
        "centred_clipping" => centred_clipping::CentredClipping,
        "dnc" => dnc::DivideAndConquer,
        "foolsgold" => fools_gold::FoolsGold,
        "residual_reweighting" => residual_reweighting::ResidualReweighting,
        "flame" => flame::Flame,
        "lasa" => lasa::Lasa,
    }
}

pub use krum::NeighbourCount;
pub use mean::MeanWeights;

/// What aggregation weights a rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// Rows that a client trained on, times its trust.
    ByRows,
    /// Its trust alone.
    ByTrust,
    /// None: each update counts the same, as the rule's source has it. Rows that a client claims would be a way in.
    Uniform,
}

/// What updates are combined into.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// The combined update.
    pub values: Vec<f32>,
    /// How much each update counts in it; `None` where that differs from coordinate to coordinate.
    pub shares: Option<Vec<f64>>,
}

/// A rule that combines updates into one.
pub trait Aggregator: std::fmt::Debug + Send + Sync {
    /// What the updates' aggregation weights are to be.
    fn weighting(&self) -> Weighting {
        Weighting::Uniform
    }

    /// Whether it remembers anything between rounds.
    fn keeps_memory(&self) -> bool {
        false
    }

    /// Whether it must know which client sent which update.
    fn needs_clients(&self) -> bool {
        false
    }

    /// Checks its settings, and that it can work on so many updates.
    ///
    /// # Errors
    ///
    /// [`AggregationError::Setting`] or [`AggregationError::TooFewUpdates`].
    fn check(&self, updates: usize) -> Result<(), AggregationError>;

    /// Combines updates, of which there are enough.
    ///
    /// # Errors
    ///
    /// [`AggregationError`] if nothing can be made of them.
    fn aggregate(&self, updates: &Updates<'_>, context: &mut Context<'_>) -> Result<Aggregate, AggregationError>;
}

impl Aggregate {
    /// An aggregate without shares.
    const fn by_coordinate(values: Vec<f32>) -> Self {
        Self { values, shares: None }
    }

    /// `Σ share_i x_i`.
    fn of_shares(vectors: &[&[f32]], shares: Vec<f64>) -> Self {
        Self { values: crate::vectors::weighted_sum(vectors, &shares), shares: Some(shares) }
    }

    /// The mean of the updates at these places.
    fn mean_of(vectors: &[&[f32]], chosen: &[usize]) -> Self {
        let mut shares = vec![0.0; vectors.len()];
        for &index in chosen {
            shares[index] = 1.0 / chosen.len() as f64;
        }
        Self::of_shares(vectors, shares)
    }
}
