//! Faults that are put in on purpose, to see what a federation survives.
//!
//! Which of them happen where is a function of seed, round and client (invariant D-1): a run with faults can be repeated and
//! resumed like any other. Whoever is struck fails by the same values, deaths and restarts as otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    protocol::{Adapter, AdapterLayout, ClientId, RoundId},
    streams::{Purpose, stream, unit},
};

/// What goes wrong with a client's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientFault {
    /// It cannot be reached.
    Offline,
    /// Its guard gives no verdicts.
    GuardOutage,
    /// Its actor dies at the end of its training, the first time that it is asked.
    Crash,
    /// It sends an update with a value that is not finite.
    NotFinite,
    /// It sends an adapter of another layout.
    OtherLayout,
}

impl ClientFault {
    /// All of them; where several happen to one turn, the first is the one that counts. They are drawn in this order, too: one
    /// that is added anywhere but at the end changes who is struck by those behind it.
    pub const ALL: [Self; 5] = [Self::Offline, Self::GuardOutage, Self::Crash, Self::NotFinite, Self::OtherLayout];

    /// Its name in scenarios, records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::GuardOutage => "guard_outage",
            Self::Crash => "crash",
            Self::NotFinite => "not_finite",
            Self::OtherLayout => "other_layout",
        }
    }
}

/// What goes wrong with a round's work on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerFault {
    /// The aggregator dies over the updates, the first time that it is asked.
    AggregatorCrash,
    /// Realignment fails.
    RealignmentFailure,
    /// Evaluation fails.
    EvaluationFailure,
}

impl ServerFault {
    /// All of them, in the order in which they are drawn. Several can happen in one round.
    pub const ALL: [Self; 3] = [Self::AggregatorCrash, Self::RealignmentFailure, Self::EvaluationFailure];

    /// Its name in scenarios, records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AggregatorCrash => "aggregator_crash",
            Self::RealignmentFailure => "realignment_failure",
            Self::EvaluationFailure => "evaluation_failure",
        }
    }
}

/// Which faults are put in, and how often.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FaultPlan {
    /// The rounds that have faults; all where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<BTreeSet<RoundId>>,
    /// Shares of the selected clients.
    pub clients: BTreeMap<ClientFault, f64>,
    /// Shares of the rounds.
    pub server: BTreeMap<ServerFault, f64>,
}

impl FaultPlan {
    /// What is wrong with the plan, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        let clients = self.clients.iter().map(|(fault, share)| (fault.name(), *share));
        let mut all = clients.chain(self.server.iter().map(|(fault, share)| (fault.name(), *share)));
        let (name, share) = all.find(|(_, share)| !(0.0..=1.0).contains(share))?;
        Some(format!("faults: the share of {name} must be from 0 to 1, found {share}"))
    }
}

/// A plan of one run.
#[derive(Clone)]
pub(crate) struct Faults {
    seed: u64,
    plan: Arc<FaultPlan>,
}

/// What those who report a fault that was put in say of it.
pub(crate) const ON_PURPOSE: &str = "put in on purpose";

impl Faults {
    pub(crate) fn new(seed: u64, plan: FaultPlan) -> Self {
        Self { seed, plan: Arc::new(plan) }
    }

    /// What goes wrong with a client's turn, if anything does.
    pub(crate) fn of_client(&self, round: RoundId, client: ClientId) -> Option<ClientFault> {
        self.drawn(ClientFault::ALL, &self.plan.clients, round, Some(client)).next()
    }

    /// The fault if it strikes a round's work on the server.
    pub(crate) fn of_server(&self, round: RoundId, fault: ServerFault) -> Option<ServerFault> {
        self.drawn(ServerFault::ALL, &self.plan.server, round, None).find(|&drawn| drawn == fault)
    }

    /// The faults that happen, in their order. Each has a draw of its own, so that the share of one changes no other.
    fn drawn<F: Copy + Ord, const N: usize>(
        &self,
        all: [F; N],
        shares: &BTreeMap<F, f64>,
        round: RoundId,
        client: Option<ClientId>,
    ) -> impl Iterator<Item = F> {
        let is_concerned = self.plan.rounds.as_ref().is_none_or(|rounds| rounds.contains(&round));
        let mut rng = stream(self.seed, Purpose::Faults, round, client);
        let drawn = all.map(|fault| (fault, unit(&mut rng) < shares.get(&fault).copied().unwrap_or(0.0)));
        drawn.into_iter().filter(move |&(_, happens)| happens && is_concerned).map(|(fault, _)| fault)
    }
}

/// The adapter with a value that is not finite.
pub(crate) fn not_finite(adapter: &Adapter) -> Adapter {
    let mut values = adapter.values().to_vec();
    values.iter_mut().take(1).for_each(|value| *value = f32::NAN);
    Adapter::new(Arc::clone(adapter.layout()), values).expect("there are as many values as before")
}

/// The adapter under other names.
pub(crate) fn of_another_layout(adapter: &Adapter) -> Adapter {
    let tensors = adapter.layout().tensors().iter();
    let renamed = AdapterLayout::new(tensors.map(|tensor| (format!("other.{}", tensor.name), tensor.shape)));
    Adapter::new(Arc::new(renamed), adapter.values().to_vec()).expect("the shapes are as before")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(shares: &[(ClientFault, f64)], rounds: Option<&[u32]>) -> Faults {
        let rounds = rounds.map(|rounds| rounds.iter().copied().map(RoundId).collect());
        Faults::new(3, FaultPlan { rounds, clients: shares.iter().copied().collect(), server: BTreeMap::new() })
    }

    fn of_all(faults: &Faults, round: u32) -> Vec<Option<ClientFault>> {
        (0..1_000).map(|client| faults.of_client(RoundId(round), ClientId(client))).collect()
    }

    #[test]
    fn shares_are_kept_and_one_changes_no_other() {
        let crashes = of_all(&faults(&[(ClientFault::Crash, 0.3)], None), 1);
        let count = crashes.iter().flatten().count();
        assert!((250..350).contains(&count), "{count}");
        let both = of_all(&faults(&[(ClientFault::Crash, 0.3), (ClientFault::NotFinite, 0.5)], None), 1);
        for (crash, both) in crashes.iter().zip(&both) {
            assert_eq!(crash.is_some(), *both == Some(ClientFault::Crash));
        }
        assert!(both.contains(&Some(ClientFault::NotFinite)));
    }

    #[test]
    fn rounds_differ_and_only_those_named_have_faults() {
        let all = faults(&[(ClientFault::Offline, 0.5)], None);
        assert_ne!(of_all(&all, 1), of_all(&all, 2));
        assert_eq!(of_all(&all, 2), of_all(&all.clone(), 2));
        let second = faults(&[(ClientFault::Offline, 0.5)], Some(&[2]));
        assert!(of_all(&second, 1).iter().all(Option::is_none));
        assert_eq!(of_all(&second, 2), of_all(&all, 2));
    }

    #[test]
    fn certain_faults_happen_and_impossible_ones_do_not() {
        let always = FaultPlan {
            server: [(ServerFault::AggregatorCrash, 1.0), (ServerFault::EvaluationFailure, 0.0)].into(),
            ..FaultPlan::default()
        };
        let always = Faults::new(0, always);
        for round in (1..50).map(RoundId) {
            let happens = ServerFault::ALL.map(|fault| always.of_server(round, fault).is_some());
            assert_eq!(happens, [true, false, false]);
        }
    }

    /// Whoever goes on with a run that was begun by an earlier version finds the same faults.
    #[test]
    fn draws_are_those_of_earlier_versions() {
        let clients = ClientFault::ALL.map(|fault| (fault, 0.25)).into();
        let server = ServerFault::ALL.map(|fault| (fault, 0.5)).into();
        let faults = Faults::new(7, FaultPlan { rounds: None, clients, server });
        let struck = (0..12).map(|client| faults.of_client(RoundId(2), ClientId(client)).map_or("", ClientFault::name));
        let expected = ",offline,not_finite,guard_outage,,,,other_layout,offline,,not_finite,guard_outage";
        assert_eq!(struck.collect::<Vec<_>>().join(","), expected);
        let drawn =
            |round: u32| ServerFault::ALL.map(|fault| u8::from(faults.of_server(RoundId(round), fault).is_some()));
        assert_eq!([1, 2, 3, 4, 5].map(drawn), [[0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 0]]);
    }

    #[test]
    fn a_share_that_is_none_is_complained_of() {
        assert_eq!(FaultPlan::default().complaint(), None);
        for share in [-0.1, 1.5, f64::NAN] {
            let plan = FaultPlan { clients: [(ClientFault::Crash, share)].into(), ..FaultPlan::default() };
            assert!(plan.complaint().unwrap().contains("crash must be from 0 to 1, found"), "{share}");
        }
    }
}
