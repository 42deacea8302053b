//! Why updates cannot be combined.

/// Why updates cannot be combined. The texts are for people.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AggregationError {
    /// A rule's precondition on the number of updates does not hold.
    #[error("{rule} needs {condition}, which is {needed} or more updates; found {found}")]
    TooFewUpdates {
        /// The rule's name in scenarios.
        rule: &'static str,
        /// The condition, as its source states it.
        condition: &'static str,
        /// What that comes to with the rule's settings.
        needed: usize,
        /// How many updates there are.
        found: usize,
    },
    /// A rule's setting is out of its range.
    #[error("{rule}.{key}: found {found}; expected {expected}")]
    Setting {
        /// The rule's name in scenarios.
        rule: &'static str,
        /// The setting.
        key: &'static str,
        /// Its value.
        found: f64,
        /// Its range, in words.
        expected: &'static str,
    },
    /// Updates differ in length.
    #[error("update {index} holds {found} numbers, the first {expected}")]
    Length {
        /// Which update.
        index: usize,
        /// The length of the first.
        expected: usize,
        /// Its own.
        found: usize,
    },
    /// There is one weight, client or range too few or too many.
    #[error("found {found} {what} for {expected}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// There are no updates, or none that counts.
    #[error("{updates} updates weigh 0 together; expected at least one that weighs more")]
    NoWeight {
        /// How many updates there are.
        updates: usize,
    },
    /// A rule refused every update.
    #[error("{rule} trusts none of {updates} updates")]
    NothingLeft {
        /// The rule's name in scenarios.
        rule: &'static str,
        /// How many updates there were.
        updates: usize,
    },
    /// A rule remembers clients, but what it is given is no longer theirs.
    #[error("{rule} remembers each client's updates, but {mixed_by} mixes clients; use it without")]
    NoClients {
        /// The rule's name in scenarios.
        rule: &'static str,
        /// What mixed them.
        mixed_by: &'static str,
    },
    /// A rule that remembers is given what it did not leave.
    #[error("{rule} remembers vectors of {found} numbers, the updates hold {expected}")]
    Memory {
        /// The rule's name in scenarios.
        rule: &'static str,
        /// Numbers in an update.
        expected: usize,
        /// Numbers in the memory.
        found: usize,
    },
    /// An attack needs to see what it is not shown.
    #[error("{attack} needs to see {what}")]
    Unseen {
        /// The attack's name in scenarios.
        attack: &'static str,
        /// What.
        what: &'static str,
    },
}

impl AggregationError {
    /// Holds `found` updates to a rule's precondition.
    pub(crate) const fn unless_enough(
        rule: &'static str,
        condition: &'static str,
        needed: usize,
        found: usize,
    ) -> Result<(), Self> {
        if found >= needed { Ok(()) } else { Err(Self::TooFewUpdates { rule, condition, needed, found }) }
    }

    /// Holds a setting to its range.
    pub(crate) const fn unless(
        holds: bool,
        rule: &'static str,
        key: &'static str,
        found: f64,
        expected: &'static str,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Setting { rule, key, found, expected }) }
    }
}
