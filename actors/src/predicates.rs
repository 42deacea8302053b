//! The numbered invariants as predicates over the evidence of a run: its rows, its checkpoints, and observations made while it ran.
//!
//! A predicate recomputes what rows state, from the seed where the seed decides it, and compares. Where the [`Evidence`] does not
//! suffice, it says so: the files of a run answer most predicates; determinism needs a second run, and memory an observed one.

mod adapters;
mod evidence;
mod faults;
mod memory;
mod replay;
mod reruns;
mod rounds;
mod rows;
mod summaries;

use std::fmt;

pub use evidence::{Aggregated, Evidence, Judged, Occasion, Rerun, RunTerms, RunTrace, Witnesses};

/// A numbered invariant of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Every selected client has one outcome, and so has every round.
    R1,
    /// An update counts at most once, for the request that asked for it.
    R2,
    /// A round that is not committed changes nothing.
    R3,
    /// A run has one adapter layout.
    A1,
    /// Nothing that is not finite enters the global adapter.
    A2,
    /// Nothing enters the aggregation that the update screen has not let in.
    A3,
    /// Nothing unscreened is trained on.
    S1,
    /// A verdict is computed once.
    S2,
    /// Same seed, same bytes.
    D1,
    /// A round is stored whole or not at all, and a resumed run equals an uninterrupted one.
    C1,
    /// A fault is a function of seed, round and client, and is recorded.
    F1,
    /// Memory is bounded by slots.
    M1,
}

/// Result of a predicate that is not violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It holds.
    Holds,
    /// The evidence does not suffice; names the evidence that would.
    CannotBeTold(&'static str),
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} ({}): {difference}", invariant.number(), invariant.name())]
pub struct Violation {
    /// The invariant.
    pub invariant: Invariant,
    /// The first place where it does not hold.
    pub difference: Difference,
}

/// Difference between an expected and a found value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: expected {expected}, found {found}")]
pub struct Difference {
    /// Place of the difference: round, client, row or checkpoint.
    pub place: String,
    /// Expected value, in words.
    pub expected: String,
    /// Found value, in words.
    pub found: String,
}

impl Difference {
    fn new(place: impl fmt::Display, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self { place: place.to_string(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// Result of a predicate before its invariant is attached.
type Checked = Result<Finding, Difference>;

impl Invariant {
    /// All invariants, in the order of the crate's documentation.
    pub const ALL: [Self; 12] = [
        Self::R1,
        Self::R2,
        Self::R3,
        Self::A1,
        Self::A2,
        Self::A3,
        Self::S1,
        Self::S2,
        Self::D1,
        Self::C1,
        Self::F1,
        Self::M1,
    ];

    /// Returns its number, as in the crate's documentation.
    pub const fn number(self) -> &'static str {
        match self {
            Self::R1 => "R-1",
            Self::R2 => "R-2",
            Self::R3 => "R-3",
            Self::A1 => "A-1",
            Self::A2 => "A-2",
            Self::A3 => "A-3",
            Self::S1 => "S-1",
            Self::S2 => "S-2",
            Self::D1 => "D-1",
            Self::C1 => "C-1",
            Self::F1 => "F-1",
            Self::M1 => "M-1",
        }
    }

    /// Returns its short description.
    pub const fn name(self) -> &'static str {
        match self {
            Self::R1 => "one outcome per client and round",
            Self::R2 => "an update counts once",
            Self::R3 => "a round that is not committed changes nothing",
            Self::A1 => "one adapter layout",
            Self::A2 => "every value is finite",
            Self::A3 => "nothing enters that the update screen has not let in",
            Self::S1 => "nothing unscreened is trained on",
            Self::S2 => "a verdict is computed once",
            Self::D1 => "same seed, same bytes",
            Self::C1 => "rounds are stored whole, and resuming changes nothing",
            Self::F1 => "faults follow from the seed and are recorded",
            Self::M1 => "memory is bounded by slots",
        }
    }

    /// Returns the invariant of a number such as `R-1`; case and hyphen do not matter.
    pub fn of_number(number: &str) -> Option<Self> {
        let plain = |text: &str| text.replace('-', "").to_ascii_uppercase();
        Self::ALL.into_iter().find(|invariant| plain(invariant.number()) == plain(number))
    }

    /// Checks the invariant against the evidence.
    ///
    /// # Errors
    ///
    /// [`Violation`] with the first place where it does not.
    pub fn check(self, evidence: &Evidence) -> Result<Finding, Violation> {
        let checked = match self {
            Self::R1 => rounds::one_outcome_each(evidence),
            Self::R2 => rounds::each_update_once(evidence),
            Self::R3 => rounds::uncommitted_changes_nothing(evidence),
            Self::A1 => adapters::one_layout(evidence),
            Self::A2 => adapters::all_finite(evidence),
            Self::A3 => adapters::only_what_was_let_in(evidence),
            Self::S1 => rows::nothing_unscreened(evidence),
            Self::S2 => rows::verdicts_once(evidence),
            Self::D1 => reruns::same_bytes(evidence),
            Self::C1 => reruns::stored_whole(evidence),
            Self::F1 => faults::as_drawn(evidence),
            Self::M1 => memory::within_slots(evidence),
        };
        checked.map_err(|difference| Violation { invariant: self, difference })
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.name())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("holds"),
            Self::CannotBeTold(reason) => write!(f, "cannot be told here: {reason}"),
        }
    }
}

/// Requires two values to be equal.
fn expect<T: PartialEq + fmt::Debug>(place: impl fmt::Display, expected: &T, found: &T) -> Result<(), Difference> {
    if expected == found {
        return Ok(());
    }
    Err(Difference::new(place, format!("{expected:?}"), format!("{found:?}")))
}

/// Like [`expect`], for large values: names the first line that differs.
fn expect_alike<T: PartialEq + fmt::Debug>(
    place: impl fmt::Display,
    expected: &T,
    found: &T,
) -> Result<(), Difference> {
    if expected == found {
        return Ok(());
    }
    let [expected, found] = [expected, found].map(|value| format!("{value:#?}"));
    let mut lines = expected.lines().map(str::trim).zip(found.lines().map(str::trim));
    let (expected, found) = lines.find(|(expected, found)| expected != found).unwrap_or((&expected, &found));
    Err(Difference::new(place, expected, found))
}

/// Like [`expect`], for lists: names the first item that differs.
fn expect_each<T: PartialEq + fmt::Debug>(
    place: impl fmt::Display,
    expected: &[T],
    found: &[T],
) -> Result<(), Difference> {
    let length = expected.len().max(found.len());
    let Some(at) = (0..length).find(|&at| expected.get(at) != found.get(at)) else { return Ok(()) };
    let named = |item: Option<&T>| item.map_or_else(|| "no more".to_owned(), |item| format!("{item:?}"));
    Err(Difference::new(place, named(expected.get(at)), named(found.get(at))))
}

/// Requires a condition to be met.
fn require(
    is_met: bool,
    place: impl fmt::Display,
    expected: impl fmt::Display,
    found: impl fmt::Display,
) -> Result<(), Difference> {
    if is_met { Ok(()) } else { Err(Difference::new(place, expected, found)) }
}
