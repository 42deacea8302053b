//! `[faults]`: what goes wrong on purpose.

use std::collections::BTreeSet;

use fedward_actors::{
    faults::{ClientFault, FaultPlan, ServerFault},
    protocol::RoundId,
};
use serde::Deserialize;

use super::rules::Rules;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFaults {
    pub rounds: Option<BTreeSet<RoundId>>,
    pub offline: f64,
    pub guard_outage: f64,
    pub crash: f64,
    pub not_finite: f64,
    pub other_layout: f64,
    pub aggregator_crash: f64,
    pub realignment_failure: f64,
    pub evaluation_failure: f64,
}

/// What a run has that can fail, beside clients and aggregator.
#[derive(Clone, Copy)]
pub(super) struct Present {
    pub guard: bool,
    pub realignment: bool,
    pub evaluation: bool,
}

impl RawFaults {
    const fn of_client(&self, fault: ClientFault) -> f64 {
        match fault {
            ClientFault::Offline => self.offline,
            ClientFault::GuardOutage => self.guard_outage,
            ClientFault::Crash => self.crash,
            ClientFault::NotFinite => self.not_finite,
            ClientFault::OtherLayout => self.other_layout,
        }
    }

    const fn of_server(&self, fault: ServerFault) -> f64 {
        match fault {
            ServerFault::AggregatorCrash => self.aggregator_crash,
            ServerFault::RealignmentFailure => self.realignment_failure,
            ServerFault::EvaluationFailure => self.evaluation_failure,
        }
    }

    pub(super) fn check(&self, rounds: u32, rules: &mut Rules) {
        for fault in ClientFault::ALL {
            rules.share(&format!("faults.{}", fault.name()), self.of_client(fault));
        }
        for fault in ServerFault::ALL {
            rules.share(&format!("faults.{}", fault.name()), self.of_server(fault));
        }
        if let Some(round) = self.rounds.iter().flatten().find(|round| !(1..=rounds).contains(&round.0)) {
            let problem = format!("found {}; allowed: from 1 to federation.rounds = {rounds}", round.0);
            rules.complain("faults.rounds", problem);
        }
    }

    pub(super) fn resolve(&self, present: Present) -> FaultPlan {
        let clients = ClientFault::ALL.map(|fault| (fault, self.of_client(fault))).into_iter();
        let server = ServerFault::ALL.map(|fault| (fault, self.of_server(fault))).into_iter();
        let plan = FaultPlan {
            rounds: self.rounds.clone(),
            clients: clients
                .filter(|&(fault, share)| share > 0.0 && (present.guard || fault != ClientFault::GuardOutage))
                .collect(),
            server: server.filter(|&(fault, share)| share > 0.0 && present.can_suffer(fault)).collect(),
        };
        // Rounds without faults are no plan.
        if plan.clients.is_empty() && plan.server.is_empty() { FaultPlan::default() } else { plan }
    }

    /// Faults that nothing can suffer here: variants share what is written.
    pub(super) fn without_effect(&self, present: Present) -> Vec<String> {
        [
            (self.guard_outage, "guard_outage", present.guard, "no guard"),
            (self.realignment_failure, "realignment_failure", present.realignment, "no realignment"),
            (self.evaluation_failure, "evaluation_failure", present.evaluation, "no evaluation in a round"),
        ]
        .into_iter()
        .filter(|&(share, _, is_there, _)| share > 0.0 && !is_there)
        .map(|(share, name, _, missing)| format!("faults.{name} = {share} changes nothing: there is {missing}"))
        .collect()
    }
}

impl Present {
    const fn can_suffer(self, fault: ServerFault) -> bool {
        match fault {
            ServerFault::AggregatorCrash => true,
            ServerFault::RealignmentFailure => self.realignment,
            ServerFault::EvaluationFailure => self.evaluation,
        }
    }
}
