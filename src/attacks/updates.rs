//! Attacks on updates, carried out: from adapters to deltas and back.

use std::sync::Arc;

use fedward_actors::{
    CancelFlag,
    ports::{Adversary, ClientUpdate, PortError, PortResult},
    protocol::{Adapter, ClientId, RoundId},
    records::ClientRole,
    streams::{Purpose, stream},
};
use fedward_aggregation::{
    AggregationError, AggregatorSettings, AttackSettings, Context, Memory, PreAggregatorSettings, Sight, Updates,
    combine,
};

use super::{AttackKind, AttackPlan, Roles, Sees};

/// The malicious clients of a run.
pub struct Opposition {
    pub(super) attacks: Arc<[AttackPlan]>,
    pub(super) roles: Arc<Roles>,
    pub(super) seed: u64,
    pub(super) defence: KnownDefence,
}

/// How the server combines updates, as attackers that know it try it out: every update the same weight, and nothing
/// remembered of earlier rounds.
#[derive(Clone, Debug)]
pub struct KnownDefence {
    /// What changes updates first.
    pub pre: Vec<PreAggregatorSettings>,
    /// What combines them.
    pub aggregator: AggregatorSettings,
}

impl KnownDefence {
    /// What it makes of updates. Attackers draw from a stream of their own: the server's draws they cannot know.
    fn try_out(&self, seed: u64, round: RoundId, updates: &[&[f32]]) -> Result<Vec<f32>, AggregationError> {
        let mut random = stream(seed, Purpose::Attack, round, None);
        let mut memory = Memory::default();
        let mut context = Context { memory: &mut memory, random: &mut random };
        Ok(combine(&self.pre, &self.aggregator, Updates::new(updates)?, &mut context)?.values)
    }
}

/// A round's updates as differences from the global adapter, in order of client.
type Deltas = Vec<(ClientId, Vec<f32>)>;

impl Adversary for Opposition {
    fn role(&self, client: ClientId) -> ClientRole {
        if self.roles.is_malicious(client) { ClientRole::Malicious } else { ClientRole::Honest }
    }

    fn forge(
        &self,
        round: RoundId,
        global: &Adapter,
        updates: &[ClientUpdate],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<(ClientId, Adapter)>> {
        let deltas: Deltas = updates.iter().map(|update| (update.client, delta(global, &update.adapter))).collect();
        let mut forged = Vec::new();
        for (client, own) in &deltas {
            let Some((index, settings)) = self.attack_in(round, *client) else { continue };
            if cancel.is_cancelled() {
                return Err(PortError::Cancelled);
            }
            let colluders = deltas.iter().filter(|(other, _)| self.roles.attack_of(*other) == Some(index)).count();
            let honest = self.seen(index, *client, &deltas);
            let try_out = |updates: &[&[f32]]| self.defence.try_out(self.seed, round, updates);
            let sight = Sight { own, honest: &honest, colluders, defence: Some(&try_out) };
            let mut random = stream(self.seed, Purpose::Attack, round, Some(*client));
            let sent = settings.rule().forge(&sight, &mut random);
            let sent = sent.map_err(|error| PortError::Failed(format!("{}: {error}", settings.name())))?;
            forged.push((*client, moved(global, &sent)?));
        }
        Ok(forged)
    }
}

impl Opposition {
    /// The attack on updates that `client` carries out in `round`.
    fn attack_in(&self, round: RoundId, client: ClientId) -> Option<(usize, &AttackSettings)> {
        let index = self.roles.attack_of(client)?;
        let AttackPlan { kind: AttackKind::Updates(settings), from, until, .. } = &self.attacks[index] else {
            return None;
        };
        let is_on = round.0 >= *from && until.is_none_or(|until| round.0 <= until);
        is_on.then_some((index, settings))
    }

    /// The updates of others that an attacker sees.
    fn seen<'a>(&self, index: usize, client: ClientId, deltas: &'a Deltas) -> Vec<&'a [f32]> {
        let is_seen = |other: ClientId| match self.attacks[index].sees {
            Sees::Own => false,
            Sees::Colluders => other != client && self.roles.attack_of(other) == Some(index),
            Sees::All => !self.roles.is_malicious(other),
        };
        deltas.iter().filter(|(other, _)| is_seen(*other)).map(|(_, delta)| delta.as_slice()).collect()
    }
}

/// Local minus global adapter.
fn delta(global: &Adapter, local: &Adapter) -> Vec<f32> {
    local.values().iter().zip(global.values()).map(|(local, global)| local - global).collect()
}

fn moved(global: &Adapter, delta: &[f32]) -> PortResult<Adapter> {
    let values = global.values().iter().zip(delta).map(|(global, delta)| global + delta).collect();
    Adapter::new(Arc::clone(global.layout()), values).map_err(|error| PortError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use fedward_actors::protocol::{AdapterLayout, Payload};
    use fedward_aggregation::{
        aggregators::Mean,
        attacks::{InnerProductManipulation, NormMatched, SignFlip},
    };

    use super::*;
    use crate::attacks::Attackers;

    fn adapter(values: [f32; 2]) -> Adapter {
        Adapter::new(Arc::new(AdapterLayout::new([("a".to_owned(), [1, 2])])), values.to_vec()).unwrap()
    }

    fn update(client: u32, values: [f32; 2]) -> ClientUpdate {
        let extras = Payload::default();
        ClientUpdate { client: ClientId(client), adapter: adapter(values), n_examples: 1.0, trust: 1.0, extras }
    }

    /// Clients 2 and 3 attack from round 2 to round 3.
    fn forge(settings: AttackSettings, sees: Sees, round: u32) -> PortResult<Vec<(u32, Vec<f32>)>> {
        let clients = Attackers::Named([2, 3].into());
        let attacks = [AttackPlan { kind: AttackKind::Updates(settings), clients, from: 2, until: Some(3), sees }];
        let roles = Arc::new(Roles::draw(&attacks, 4, 1, |_| false));
        let defence = KnownDefence { pre: Vec::new(), aggregator: AggregatorSettings::Mean(Mean::default()) };
        let opposition = Opposition { attacks: Arc::new(attacks), roles, seed: 1, defence };
        let updates = [update(0, [2.0, 1.0]), update(1, [4.0, 1.0]), update(2, [1.0, 4.0]), update(3, [1.0, 9.0])];
        let forged = opposition.forge(RoundId(round), &adapter([1.0, 1.0]), &updates, &CancelFlag::new())?;
        Ok(forged.into_iter().map(|(client, adapter)| (client.0, adapter.values().to_vec())).collect())
    }

    /// The honest deltas are (1, 0) and (3, 0), the malicious ones (0, 3) and (0, 8).
    #[test]
    fn what_is_sent_follows_from_what_is_seen() {
        let flip = || AttackSettings::SignFlip(SignFlip::default());
        assert_eq!(forge(flip(), Sees::All, 2).unwrap(), [(2, vec![-1.0, 1.0]), (3, vec![-1.0, 1.0])]);
        assert_eq!(forge(flip(), Sees::Own, 3).unwrap(), [(2, vec![1.0, -2.0]), (3, vec![1.0, -7.0])]);
        assert_eq!(forge(flip(), Sees::Colluders, 3).unwrap(), [(2, vec![1.0, -7.0]), (3, vec![1.0, -2.0])]);
        let ipm = AttackSettings::InnerProductManipulation(InnerProductManipulation { tau: 2.0 });
        assert_eq!(forge(ipm, Sees::All, 2).unwrap()[0], (2, vec![-3.0, 1.0]));
        // The median norm of what is seen is 2.
        let matched = || AttackSettings::NormMatched(NormMatched::default());
        assert_eq!(forge(matched(), Sees::All, 2).unwrap(), [(2, vec![1.0, 3.0]), (3, vec![1.0, 3.0])]);
        let unseen = forge(matched(), Sees::Own, 2).unwrap_err().to_string();
        assert!(unseen.starts_with("norm_matched: "), "{unseen}");
    }

    /// Against the mean, more of the same moves it farther: the search ends at the largest τ that it tries.
    #[test]
    fn an_attacker_that_knows_the_defence_pushes_as_far_as_it_pays() {
        let moved = |settings| {
            let sent = forge(settings, Sees::All, 2).unwrap()[0].1.clone();
            (f64::from(sent[0]) - 1.0).abs()
        };
        let plain = moved(AttackSettings::InnerProductManipulation(InnerProductManipulation { tau: 2.0 }));
        let optimal = moved(AttackSettings::OptimalIpm(fedward_aggregation::attacks::OptimalIpm::default()));
        assert!(optimal > 100.0 * plain, "{optimal} {plain}");
    }

    #[test]
    fn nothing_is_forged_outside_of_the_attacks_rounds() {
        for round in [1, 4] {
            assert_eq!(forge(AttackSettings::SignFlip(SignFlip::default()), Sees::All, round).unwrap(), []);
        }
    }
}
