//! Who is malicious.

use std::collections::{BTreeMap, BTreeSet};

use fedward_actors::{
    protocol::{ClientId, RoundId},
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::AttackPlan;

/// Which clients take part in an attack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Attackers {
    /// So many, drawn by the seed of attacks.
    Count(u32),
    /// This share of all clients, rounded to the nearest number, drawn likewise.
    Share(f64),
    /// These.
    Named(BTreeSet<u32>),
}

impl Attackers {
    /// Returns how many they are in a federation of `clients`.
    pub fn count(&self, clients: u32) -> u32 {
        match self {
            Self::Count(count) => *count,
            Self::Share(share) => (share * f64::from(clients)).round() as u32,
            Self::Named(named) => named.len() as u32,
        }
    }
}

/// The malicious clients of a run, and which attack each of them takes part in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    attack_of: BTreeMap<ClientId, usize>,
    /// Malicious by what they were dealt, with no part in any attack.
    holders: BTreeSet<ClientId>,
}

impl Roles {
    /// Draws who attacks in a federation of `clients`: those that are named first, then as many of the others as each attack
    /// wants, in the order of the attacks, from one shuffled row of clients. Adding an attack behind others changes none.
    pub fn draw(attacks: &[AttackPlan], clients: u32, seed: u64, holds_harm: impl Fn(u32) -> bool) -> Self {
        let mut attack_of = BTreeMap::new();
        for (index, attack) in attacks.iter().enumerate() {
            if let Attackers::Named(named) = &attack.clients {
                attack_of.extend(named.iter().map(|&client| (ClientId(client), index)));
            }
        }
        let mut drawn: Vec<u32> = (0..clients).collect();
        drawn.shuffle(&mut stream(seed, Purpose::Attack, RoundId::START, None));
        let mut drawn = drawn.into_iter().map(ClientId);
        for (index, attack) in attacks.iter().enumerate() {
            if !matches!(attack.clients, Attackers::Named(_)) {
                let free = drawn.by_ref().filter(|client| !attack_of.contains_key(client));
                let taken: Vec<_> = free.take(attack.clients.count(clients) as usize).collect();
                attack_of.extend(taken.into_iter().map(|client| (client, index)));
            }
        }
        let holders = (0..clients).filter(|&client| holds_harm(client)).map(ClientId).collect();
        Self { attack_of, holders }
    }

    /// Returns the attack that `client` takes part in.
    pub fn attack_of(&self, client: ClientId) -> Option<usize> {
        self.attack_of.get(&client).copied()
    }

    /// Returns whether `client` is malicious, by an attack or by what it was dealt.
    pub fn is_malicious(&self, client: ClientId) -> bool {
        self.attack_of.contains_key(&client) || self.holders.contains(&client)
    }

    /// Returns whether nobody is malicious.
    pub fn is_peaceful(&self) -> bool {
        self.attack_of.is_empty() && self.holders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use fedward_aggregation::{AttackSettings, attacks::SignFlip};

    use super::*;
    use crate::attacks::{AttackKind, Sees};

    fn attack(clients: Attackers) -> AttackPlan {
        let kind = AttackKind::Updates(AttackSettings::SignFlip(SignFlip::default()));
        AttackPlan { kind, clients, from: 1, until: None, sees: Sees::All }
    }

    fn members(roles: &Roles, attack: usize) -> Vec<u32> {
        (0..20).filter(|&client| roles.attack_of(ClientId(client)) == Some(attack)).collect()
    }

    #[test]
    fn everybody_takes_part_in_one_attack_at_most_and_later_attacks_change_no_earlier_one() {
        let one = [attack(Attackers::Count(4))];
        let named: BTreeSet<u32> = [0, 19].into();
        let two = [attack(Attackers::Count(4)), attack(Attackers::Share(0.25))];
        let three = [attack(Attackers::Count(4)), attack(Attackers::Named(named))];
        let nobody = |_| false;
        let alone = Roles::draw(&one, 20, 7, nobody);
        assert_eq!(members(&alone, 0).len(), 4);
        assert_eq!(alone, Roles::draw(&one, 20, 7, nobody));
        assert_ne!(alone, Roles::draw(&one, 20, 8, nobody));
        let both = Roles::draw(&two, 20, 7, nobody);
        assert_eq!((members(&both, 0), members(&both, 1).len()), (members(&alone, 0), 5));
        let with_named = Roles::draw(&three, 20, 7, nobody);
        assert_eq!((members(&with_named, 0).len(), members(&with_named, 1)), (4, vec![0, 19]));
    }

    #[test]
    fn who_holds_harmful_rows_is_malicious_without_an_attack() {
        let roles = Roles::draw(&[], 5, 1, |client| client == 3);
        assert!(roles.is_malicious(ClientId(3)) && !roles.is_malicious(ClientId(2)) && !roles.is_peaceful());
        assert_eq!(roles.attack_of(ClientId(3)), None);
        assert!(Roles::draw(&[], 5, 1, |_| false).is_peaceful());
    }
}
