//! Attackers: who they are, what they do to their rows, what they send in the place of what they trained.
//!
//! An attack on updates is a file of the crate `fedward-aggregation`, one on rows a variant of [`RowAttack`] here. Roles
//! come from the seed of attacks and stay over the run; a client takes part in one attack at most.

mod roles;
mod rows;
mod updates;

use std::sync::Arc;

use fedward_actors::ports::{Adversary, ClientRows};
use fedward_aggregation::AttackSettings;
use serde::{Deserialize, Serialize};

pub use roles::{Attackers, Roles};
pub use rows::{PoisonedRows, RowAttack};
pub use updates::{KnownDefence, Opposition};

/// One attack of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttackPlan {
    /// What is done.
    pub kind: AttackKind,
    /// Who does it.
    pub clients: Attackers,
    /// The first round of an attack on updates. Rows are what they are in all rounds.
    pub from: u32,
    /// The last round of an attack on updates; `None` is the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u32>,
    /// What of a round's other updates an attacker sees.
    pub sees: Sees,
}

/// What an attack does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AttackKind {
    /// Malicious clients train as asked, and send something else.
    Updates(AttackSettings),
    /// Malicious clients hold other rows, and train on them as asked.
    Rows(RowAttack),
}

/// What of a round's other updates an attacker sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sees {
    /// Nothing but what it trained itself.
    Own,
    /// What those of the same attack trained.
    Colluders,
    /// What honest clients send: the strongest attacker, as robust aggregation is usually tested with.
    #[default]
    All,
}

impl AttackKind {
    /// Returns its name in scenarios.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Updates(settings) => settings.name(),
            Self::Rows(attack) => attack.name(),
        }
    }
}

/// The attacks of one run in force: its adversary, and its rows with what attackers do to them.
pub struct InForce {
    /// What malicious clients send; `None` if nobody is malicious.
    pub adversary: Option<Arc<dyn Adversary>>,
    /// What clients hold.
    pub rows: Arc<dyn ClientRows>,
}

/// Puts attacks in force in a federation of `clients` whose server combines updates as `defence` says. `holds_harm` says which
/// clients are malicious by the rows that they were dealt.
pub fn put_in_force(
    attacks: &[AttackPlan],
    clients: u32,
    seed: u64,
    defence: KnownDefence,
    rows: Arc<dyn ClientRows>,
    holds_harm: impl Fn(u32) -> bool,
) -> InForce {
    let roles = Arc::new(Roles::draw(attacks, clients, seed, holds_harm));
    if roles.is_peaceful() {
        return InForce { adversary: None, rows };
    }
    let attacks: Arc<[AttackPlan]> = attacks.into();
    let rows = if attacks.iter().any(|attack| matches!(attack.kind, AttackKind::Rows(_))) {
        Arc::new(PoisonedRows { rows, attacks: Arc::clone(&attacks), roles: Arc::clone(&roles), seed })
    } else {
        rows
    };
    InForce { adversary: Some(Arc::new(Opposition { attacks, roles, seed, defence })), rows }
}
