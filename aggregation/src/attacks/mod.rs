//! What malicious clients send in the place of their updates.
//!
//! An attack depends on what its client knows ([`Sight`]): its own honest update, and those of others where it colludes with
//! them or sees all. Where an attack is a function of the honest updates' mean, a client that sees no other takes its own.

use rand_chacha::ChaCha8Rng;

use crate::{AggregationError, registry::registry, vectors::weighted_sum};

registry! {
    /// An attack with its settings.
    AttackSettings of Attack {
        "sign_flip" => sign_flip::SignFlip,
        "boost" => boost::Boost,
        "gaussian" => gaussian::Gaussian,
        "ipm" => ipm::InnerProductManipulation,
        "alie" => alie::ALittleIsEnough,
        "mimic" => mimic::Mimic,
        "free_rider" => free_rider::FreeRider,
        "norm_matched" => norm_matched::NormMatched,
        "opt_ipm" => opt_ipm::OptimalIpm,
        "opt_alie" => opt_alie::OptimalAlie,
    }
}

mod search;

pub use search::Search;

/// How the server combines updates, as an attacker that knows it tries it out.
pub type Defence<'a> = dyn Fn(&[&[f32]]) -> Result<Vec<f32>, AggregationError> + Sync + 'a;

/// What a malicious client knows when it makes its update.
pub struct Sight<'a> {
    /// The update that it would send if it were honest.
    pub own: &'a [f32],
    /// The honest updates that it sees, all of the length of its own.
    pub honest: &'a [&'a [f32]],
    /// How many malicious clients act together, itself included.
    pub colluders: usize,
    /// How the server combines updates, if it knows.
    pub defence: Option<&'a Defence<'a>>,
}

impl Sight<'_> {
    /// The honest updates that it sees, or its own where it sees none.
    fn seen(&self) -> Vec<&[f32]> {
        if self.honest.is_empty() { vec![self.own] } else { self.honest.to_vec() }
    }

    /// μ, the mean of what it sees.
    fn mean(&self) -> Vec<f32> {
        let seen = self.seen();
        weighted_sum(&seen, &vec![1.0 / seen.len() as f64; seen.len()])
    }
}

/// An attack on updates.
pub trait Attack: std::fmt::Debug + Send + Sync {
    /// Checks its settings.
    ///
    /// # Errors
    ///
    /// [`AggregationError::Setting`].
    fn check(&self) -> Result<(), AggregationError>;

    /// Computes what the client sends: a delta of the length of its own. It depends on the arguments alone.
    ///
    /// # Errors
    ///
    /// [`AggregationError::Unseen`] if it needs to see more.
    fn forge(&self, sight: &Sight<'_>, random: &mut ChaCha8Rng) -> Result<Vec<f32>, AggregationError>;
}

/// Holds a factor of an attack to its range.
const fn check_factor(attack: &'static str, key: &'static str, factor: f64) -> Result<(), AggregationError> {
    AggregationError::unless(factor.is_finite(), attack, key, factor, "a finite number")
}
