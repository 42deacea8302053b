//! Names of things: clients, rounds, attempts, requests, versions of the global model, moments.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A participant of the federation, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(pub u32);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client-{}", self.0)
    }
}

/// One server iteration, numbered from 1; round 0 is the state before any training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoundId(pub u32);

impl RoundId {
    /// The state before training.
    pub const START: Self = Self(0);

    /// The round after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The round before this one; the start is before itself.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}", self.0)
    }
}

/// How often a round has been asked for: a client that was restarted is asked again under the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first time that a round is asked for.
    pub const FIRST: Self = Self(1);

    /// The attempt after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which request a message belongs to: a late answer is recognised as late (invariant R-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The round that asked.
    pub round: RoundId,
    /// Which of its attempts asked.
    pub attempt: Attempt,
}

impl RequestId {
    /// Returns the id of the first attempt in `round`.
    pub const fn first(round: RoundId) -> Self {
        Self { round, attempt: Attempt::FIRST }
    }
}

/// A version of the global model, named by the round that left it: version 0 is the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelVersion(pub u32);

impl ModelVersion {
    /// Returns the version that the clients of `round` start from if they are asked now.
    pub const fn at_begin_of(round: RoundId) -> Self {
        Self(round.before().0)
    }

    /// Returns how many server steps lie between this version and the one that `round` begins with.
    pub const fn staleness_in(self, round: RoundId) -> u32 {
        round.before().0.saturating_sub(self.0)
    }
}

/// A moment of simulated time since the start of the run, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SimTime(pub u64);

impl SimTime {
    /// The start of the run.
    pub const START: Self = Self(0);

    /// After everything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// Returns the moment `seconds` after this one; what is negative or no number counts as none.
    #[must_use]
    pub fn after(self, seconds: f64) -> Self {
        // Casts from floats saturate.
        Self(self.0.saturating_add((seconds * 1e6).round() as u64))
    }

    /// Returns the seconds since the start.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.seconds())
    }
}
