//! Random streams: each a pure function of (seed, purpose, round, client), never of draw order (invariant D-1).

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use sha2::{Digest, Sha256};

use crate::protocol::{ClientId, RoundId};

/// What a random stream is for. Two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Which clients take part in a round.
    Selection,
    /// Which rows a client holds.
    Partition,
    /// Which topics and words generated rows have.
    Rows,
    /// Starting values of an adapter or a head.
    Initialization,
    /// In which order local training sees its rows.
    BatchOrder,
    /// In which order training on preferences sees its pairs, and what its dropout zeroes.
    Preferences,
    /// Which activations dropout zeroes.
    Dropout,
    /// Which red prompts and principles Constitutional AI draws.
    RedPrompts,
    /// Which tokens generation samples.
    Sampling,
    /// Which prompts an evaluation draws, and its bootstrap.
    Evaluation,
    /// Which rows a guard is trained and measured on.
    Guard,
    /// Which refusals take the place of a client's unsafe responses.
    Refusals,
    /// Which of a client's rows gets which verdict, where a control shuffles them.
    VerdictOrder,
    /// How long a client of a remote endpoint waits before it asks again.
    Retries,
    /// Which faults are put in.
    Faults,
    /// Which harmful goals are for what.
    Split,
    /// How fast clients are, and how long their tasks take.
    Devices,
    /// Who is malicious, and what malicious clients draw.
    Attack,
    /// What the server's aggregation draws: buckets, coordinates, noise.
    Aggregation,
}

impl Purpose {
    /// The name that enters the stream's key: renaming a variant must not change a run's bytes.
    const fn key(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::Partition => "partition",
            Self::Rows => "rows",
            Self::Initialization => "initialization",
            Self::BatchOrder => "batch-order",
            Self::Preferences => "preferences",
            Self::Dropout => "dropout",
            Self::RedPrompts => "red-prompts",
            Self::Sampling => "sampling",
            Self::Evaluation => "evaluation",
            Self::Guard => "guard",
            Self::Refusals => "refusals",
            Self::VerdictOrder => "verdict-order",
            Self::Retries => "retries",
            Self::Faults => "faults",
            Self::Split => "split",
            Self::Devices => "devices",
            Self::Attack => "attack",
            Self::Aggregation => "aggregation",
        }
    }
}

/// The random stream of one purpose in one round, of one client or (with `None`) of the server.
///
/// The generator's key is the SHA-256 of the four arguments, so streams are independent of one another and of the order
/// in which they are asked for.
pub fn stream(seed: u64, purpose: Purpose, round: RoundId, client: Option<ClientId>) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(b"fedward stream 1");
    hash.update(seed.to_le_bytes());
    hash.update(purpose.key().as_bytes());
    hash.update([0]);
    hash.update(round.0.to_le_bytes());
    match client {
        None => hash.update([0]),
        Some(ClientId(id)) => {
            hash.update([1]);
            hash.update(id.to_le_bytes());
        }
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A number in 0..1 with 53 random bits.
pub fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// A number of the standard normal distribution (Box and Muller's transform of two numbers of the stream).
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    // 1 − u is never 0.
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_changes_the_stream() {
        let first = |seed, purpose, round, client| stream(seed, purpose, RoundId(round), client).next_u64();
        let base = first(1, Purpose::Selection, 1, None);
        assert_eq!(base, first(1, Purpose::Selection, 1, None));
        assert_ne!(base, first(2, Purpose::Selection, 1, None));
        assert_ne!(base, first(1, Purpose::Partition, 1, None));
        assert_ne!(base, first(1, Purpose::Selection, 2, None));
        assert_ne!(base, first(1, Purpose::Selection, 1, Some(ClientId(0))));
        assert_ne!(
            first(1, Purpose::Selection, 1, Some(ClientId(0))),
            first(1, Purpose::Selection, 1, Some(ClientId(1)))
        );
    }
}
