//! `[[attack]]`: who works against the federation, and how.

use fedward_actors::protocol::ClientId;
use fedward_aggregation::AttackSettings;
use serde::{Deserialize, de::DeserializeOwned};
use toml::Value;

use super::rules::Rules;
use crate::attacks::{AttackKind, AttackPlan, Attackers, Roles, RowAttack, Sees};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAttack {
    pub kind: String,
    #[serde(default)]
    pub settings: toml::Table,
    #[serde(default = "one")]
    pub clients: Value,
    #[serde(default = "first_round")]
    pub from: u32,
    pub until: Option<u32>,
    #[serde(default)]
    pub sees: Sees,
}

const fn one() -> Value {
    Value::Integer(1)
}

const fn first_round() -> u32 {
    1
}

/// Whether an attack tries out the server's rules to find what moves them most.
pub(super) fn tries_out_the_server(raw: &[RawAttack]) -> bool {
    raw.iter().any(|attack| matches!(attack.kind.as_str(), "opt_ipm" | "opt_alie"))
}

/// Checks attacks and resolves them.
pub(super) fn resolve(raw: &[RawAttack], clients: u32, rounds: u32, rules: &mut Rules) -> Vec<AttackPlan> {
    let mut attacks = Vec::new();
    for (index, attack) in raw.iter().enumerate() {
        let key = |name: &str| format!("attack[{index}].{name}");
        attack.check_rounds(rounds, &key, rules);
        let kind = attack.kind().unwrap_or_else(|(name, message)| {
            rules.complain(&key(name), message);
            None
        });
        let who = attackers(&attack.clients, clients).unwrap_or_else(|message| {
            rules.complain(&key("clients"), message);
            None
        });
        if let Some((kind, who)) = kind.zip(who) {
            let &RawAttack { from, until, sees, .. } = attack;
            attacks.push(AttackPlan { kind, clients: who, from, until, sees });
        }
    }
    check_together(&attacks, clients, rules);
    attacks
}

impl RawAttack {
    fn check_rounds(&self, rounds: u32, key: &impl Fn(&str) -> String, rules: &mut Rules) {
        rules.check((1..=rounds).contains(&self.from), &key("from"), || {
            format!("found {}; allowed: 1 to federation.rounds = {rounds}", self.from)
        });
        if let Some(until) = self.until {
            rules.check((self.from..=rounds).contains(&until), &key("until"), || {
                format!("found {until}; allowed: {} (from) to federation.rounds = {rounds}", self.from)
            });
        }
    }

    /// What it does, or the key that is wrong and why.
    fn kind(&self) -> Result<Option<AttackKind>, (&'static str, String)> {
        let name = self.kind.as_str();
        if RowAttack::NAMES.contains(&name) {
            let attack: RowAttack = self.read().map_err(|message| ("settings", message))?;
            return match attack.complaint() {
                None => Ok(Some(AttackKind::Rows(attack))),
                Some(complaint) => Err(("settings", complaint)),
            };
        }
        if !AttackSettings::NAMES.contains(&name) {
            let names: Vec<_> = RowAttack::NAMES.iter().chain(AttackSettings::NAMES).copied().collect();
            return Err(("kind", format!("found \"{name}\"; allowed: {}", names.join(", "))));
        }
        let settings: AttackSettings = self.read().map_err(|message| ("settings", message))?;
        settings.rule().check().map_err(|error| ("settings", error.to_string()))?;
        Ok(Some(AttackKind::Updates(settings)))
    }

    /// Settings under the name of their kind.
    fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        let mut settings = self.settings.clone();
        settings.insert("kind".to_owned(), Value::String(self.kind.clone()));
        Value::Table(settings).try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }
}

fn attackers(written: &Value, clients: u32) -> Result<Option<Attackers>, String> {
    let wrong = || {
        format!(
            "found {written}; allowed: a number from 1 to {clients} (federation.clients), a share below 1 with a decimal point, or a \
             list of clients from 0 to {}",
            clients.saturating_sub(1)
        )
    };
    let who = match written {
        Value::Integer(count) => u32::try_from(*count).ok().map(Attackers::Count),
        Value::Float(share) => (*share > 0.0 && *share < 1.0).then_some(Attackers::Share(*share)),
        Value::Array(_) => written.clone().try_into().ok().map(Attackers::Named),
        _ => None,
    };
    let who = who.ok_or_else(wrong)?;
    let is_there = match &who {
        Attackers::Named(named) => !named.is_empty() && named.iter().all(|&client| client < clients),
        Attackers::Count(_) | Attackers::Share(_) => (1..=clients).contains(&who.count(clients)),
    };
    if is_there { Ok(Some(who)) } else { Err(wrong()) }
}

/// A client takes part in one attack, and there must be clients enough.
fn check_together(attacks: &[AttackPlan], clients: u32, rules: &mut Rules) {
    let wanted: u32 = attacks.iter().map(|attack| attack.clients.count(clients)).sum();
    let roles = Roles::draw(attacks, clients, 0, |_| false);
    let taken = (0..clients).filter(|&client| roles.attack_of(ClientId(client)).is_some()).count();
    rules.check(taken == wanted as usize, "attack", || {
        format!("found {wanted} places of attackers for {taken} clients; a client takes part in one attack, and there are {clients} (federation.clients)")
    });
}
