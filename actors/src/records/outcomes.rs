//! What became of clients and rounds, and why.

use serde::{Deserialize, Serialize};

/// Why a selected client's update was refused by the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The adapter's layout is not the run's (invariant A-1); the text names the first difference.
    #[error("another layout: {0}")]
    LayoutMismatch(String),
    /// A value is NaN or infinite (invariant A-2); the text names the tensor.
    #[error("a value of {0} is not finite")]
    NotFinite(String),
    /// The answer is for another round or attempt, or came twice (invariant R-2).
    #[error("for another round or attempt, or sent twice")]
    Stale,
    /// The update screen refused it; the text says why.
    #[error("{0}")]
    Screened(String),
    /// It could not be screened, and nothing unscreened enters the aggregation (invariant A-3); the text says why.
    #[error("{0}")]
    ScreenUnavailable(String),
}

impl RejectReason {
    /// The names of all reasons.
    pub const NAMES: [&str; 5] = ["layout_mismatch", "not_finite", "stale", "screened", "screen_unavailable"];

    /// Its name in rows and metrics, without the text.
    pub const fn name(&self) -> &'static str {
        let place = match self {
            Self::LayoutMismatch(_) => 0,
            Self::NotFinite(_) => 1,
            Self::Stale => 2,
            Self::Screened(_) => 3,
            Self::ScreenUnavailable(_) => 4,
        };
        Self::NAMES[place]
    }
}

/// Why a selected client sent no update.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// It could not be reached.
    #[error("could not be reached")]
    Offline,
    /// Its actor died and its attempts are used up.
    #[error("its actor died")]
    Crashed,
    /// It did not answer in time.
    #[error("did not answer in time")]
    TimedOut,
    /// The guard could not give verdicts, and nothing unscreened is trained on (invariant S-1).
    #[error("no verdicts: {0}")]
    GuardUnavailable(String),
    /// It has no rows, or the guard left nothing of them to train on.
    #[error("no rows to train on")]
    NoRows,
    /// Its training failed; the text says why.
    #[error("training failed: {0}")]
    TrainingFailed(String),
    /// It is malicious, and its attack could not be carried out; the text says why.
    #[error("its attack failed: {0}")]
    AttackFailed(String),
    /// It was not done when the server went on.
    #[error("arrived after the server went on")]
    Late,
    /// The strategy had no instructions for the round's clients; the text says why.
    #[error("no instructions: {0}")]
    NoInstructions(String),
}

/// What a client is up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientRole {
    /// It does what it is asked for.
    #[default]
    Honest,
    /// It works against the federation.
    Malicious,
}

impl ClientRole {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Honest, Self::Malicious];

    /// Returns its name in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Malicious => "malicious",
        }
    }
}

impl DropReason {
    /// The names of all reasons.
    pub const NAMES: [&str; 9] = [
        "offline",
        "crashed",
        "timed_out",
        "guard_unavailable",
        "no_rows",
        "training_failed",
        "attack_failed",
        "late",
        "no_instructions",
    ];

    /// Its name in rows and metrics, without the text.
    pub const fn name(&self) -> &'static str {
        let place = match self {
            Self::Offline => 0,
            Self::Crashed => 1,
            Self::TimedOut => 2,
            Self::GuardUnavailable(_) => 3,
            Self::NoRows => 4,
            Self::TrainingFailed(_) => 5,
            Self::AttackFailed(_) => 6,
            Self::Late => 7,
            Self::NoInstructions(_) => 8,
        };
        Self::NAMES[place]
    }
}

/// What became of a selected client: exactly one a round (invariant R-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientOutcome {
    /// Its update entered the aggregation.
    Accepted,
    /// Its update was refused.
    Rejected(RejectReason),
    /// It sent none.
    Dropped(DropReason),
}

impl ClientOutcome {
    /// The names of all outcomes with those of their reasons; one without reasons has `none`.
    pub fn names() -> impl Iterator<Item = [&'static str; 2]> {
        let rejected = RejectReason::NAMES.map(|reason| ["rejected", reason]);
        let dropped = DropReason::NAMES.map(|reason| ["dropped", reason]);
        std::iter::once(["accepted", "none"]).chain(rejected).chain(dropped)
    }

    /// Its name with that of its reason, as in [`ClientOutcome::names`]. The reason's text is none of them: it is another each time.
    pub const fn name(&self) -> [&'static str; 2] {
        match self {
            Self::Accepted => ["accepted", "none"],
            Self::Rejected(reason) => ["rejected", reason.name()],
            Self::Dropped(reason) => ["dropped", reason.name()],
        }
    }
}

impl std::fmt::Display for ClientOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepted => f.write_str("accepted"),
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
        }
    }
}

/// What became of a round: exactly one outcome (invariant R-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundOutcome {
    /// The global adapter moved on.
    Committed,
    /// Too few updates: the global adapter is as it was (invariant R-3).
    Skipped(String),
    /// Aggregation could not be done: the global adapter is as it was.
    Failed(String),
}

impl RoundOutcome {
    /// The names of all outcomes.
    pub const NAMES: [&str; 3] = ["committed", "skipped", "failed"];

    /// Its name in rows and metrics, without the text.
    pub const fn name(&self) -> &'static str {
        let place = match self {
            Self::Committed => 0,
            Self::Skipped(_) => 1,
            Self::Failed(_) => 2,
        };
        Self::NAMES[place]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::records::{Phase, PhaseSeconds};

    /// The tag of an enum as rows say it.
    fn tag<T: Serialize>(value: &T) -> String {
        match serde_json::to_value(value).unwrap() {
            Value::String(tag) => tag,
            Value::Object(tagged) => tagged.keys().next().unwrap().clone(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn names_are_those_of_rows() {
        let text = String::new;
        let rejected = [
            RejectReason::LayoutMismatch(text()),
            RejectReason::NotFinite(text()),
            RejectReason::Stale,
            RejectReason::Screened(text()),
            RejectReason::ScreenUnavailable(text()),
        ];
        let dropped = [
            DropReason::Offline,
            DropReason::Crashed,
            DropReason::TimedOut,
            DropReason::GuardUnavailable(text()),
            DropReason::NoRows,
            DropReason::TrainingFailed(text()),
            DropReason::AttackFailed(text()),
            DropReason::Late,
            DropReason::NoInstructions(text()),
        ];
        assert_eq!(rejected.each_ref().map(tag), RejectReason::NAMES);
        assert_eq!(dropped.each_ref().map(tag), DropReason::NAMES);
        assert!(rejected.iter().all(|reason| reason.name() == tag(reason)));
        assert!(dropped.iter().all(|reason| reason.name() == tag(reason)));
        let rounds = [RoundOutcome::Committed, RoundOutcome::Skipped(text()), RoundOutcome::Failed(text())];
        assert_eq!(rounds.each_ref().map(tag), RoundOutcome::NAMES);
        assert!(rounds.iter().all(|outcome| outcome.name() == tag(outcome)));
        let clients = std::iter::once(ClientOutcome::Accepted)
            .chain(rejected.map(ClientOutcome::Rejected))
            .chain(dropped.map(ClientOutcome::Dropped));
        let clients: Vec<_> = clients.collect();
        assert!(clients.iter().all(|outcome| outcome.name()[0] == tag(outcome)));
        assert!(clients.iter().map(ClientOutcome::name).eq(ClientOutcome::names()));
        let phases = PhaseSeconds::default().by_name().map(|(name, _)| name);
        assert!(Phase::ALL.iter().all(|phase| phases.contains(&phase.name())));
    }
}
