//! What happens in a round, as it happens.

use super::{ClientRecord, RoundRecord};
use crate::{
    ports::RealignmentReport,
    protocol::{ClientId, RoundId},
};

/// A step of the round, for progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Clients filter and train.
    Train,
    /// Updates are combined.
    Aggregate,
    /// Constitutional AI.
    Align,
    /// Benchmarks.
    Evaluate,
    /// Storage.
    Commit,
}

impl Phase {
    /// All of them, in the order of the round.
    pub const ALL: [Self; 5] = [Self::Train, Self::Aggregate, Self::Align, Self::Evaluate, Self::Commit];

    /// Its name in metrics, as in [`PhaseSeconds::by_name`](super::PhaseSeconds::by_name).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Aggregate => "aggregate",
            Self::Align => "align",
            Self::Evaluate => "evaluate",
            Self::Commit => "commit",
        }
    }
}

/// Something that happened in a round; observers turn it into metrics and progress.
#[derive(Clone, Debug)]
pub enum RoundEvent {
    /// A round has begun.
    RoundStarted {
        /// Which.
        round: RoundId,
        /// The cohort's size.
        cohort: u32,
    },
    /// A phase has begun.
    PhaseStarted {
        /// In which round.
        round: RoundId,
        /// Which.
        phase: Phase,
    },
    /// A selected client has reported or dropped out; its outcome is known once the updates are screened.
    ClientReported {
        /// In which round.
        round: RoundId,
        /// Which.
        client: ClientId,
    },
    /// A client's outcome is known.
    ClientFinished(Box<ClientRecord>),
    /// The global adapter was realigned.
    Realigned(Box<RealignmentReport>),
    /// An actor died and was started again.
    ActorRestarted {
        /// Its kind: client, guard, ….
        kind: &'static str,
    },
    /// A round has ended and is stored.
    RoundFinished(Box<RoundRecord>),
}
