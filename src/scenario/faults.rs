//! `[faults]`: what goes wrong on purpose.

use std::collections::BTreeSet;

use fedward_actors::{
    Schedule,
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
    pub align: Schedule,
    pub evaluate: Schedule,
    pub rounds: u32,
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
        let allowed = format!("allowed: rounds from 1 to federation.rounds = {rounds}, or no such key for all of them");
        match &self.rounds {
            Some(named) if named.is_empty() => rules.complain("faults.rounds", format!("found none; {allowed}")),
            named => {
                if let Some(round) = named.iter().flatten().find(|round| !(1..=rounds).contains(&round.0)) {
                    rules.complain("faults.rounds", format!("found {}; {allowed}", round.0));
                }
            }
        }
    }

    /// The plan of a run, without what nothing in it can suffer.
    pub(super) fn resolve(&self, present: Present) -> FaultPlan {
        let clients = ClientFault::ALL.map(|fault| (fault, self.of_client(fault))).into_iter();
        let server = ServerFault::ALL.map(|fault| (fault, self.of_server(fault))).into_iter();
        let plan = FaultPlan {
            rounds: self.rounds.clone(),
            clients: clients.filter(|&(fault, share)| share > 0.0 && client_lacks(fault, present).is_none()).collect(),
            server: server
                .filter(|&(fault, share)| share > 0.0 && self.server_lacks(fault, present).is_none())
                .collect(),
        };
        // Rounds without faults are no plan.
        if plan.clients.is_empty() && plan.server.is_empty() { FaultPlan::default() } else { plan }
    }

    /// What is written and nothing in a run can suffer, in words: variants share what is written.
    pub(super) fn without_effect(&self, present: Present, variant: &str) -> Vec<String> {
        let clients = ClientFault::ALL.map(|of| (of.name(), self.of_client(of), client_lacks(of, present)));
        let server = ServerFault::ALL.map(|of| (of.name(), self.of_server(of), self.server_lacks(of, present)));
        let of_whom = if variant.is_empty() { String::new() } else { format!(" in variant {variant}") };
        clients
            .into_iter()
            .chain(server)
            .filter(|&(_, share, _)| share > 0.0)
            .filter_map(|(name, share, lacks)| {
                Some(format!("faults.{name} = {share} strikes nothing{of_whom}: there is {}", lacks?))
            })
            .collect()
    }

    fn server_lacks(&self, fault: ServerFault, present: Present) -> Option<&'static str> {
        let is_due = |schedule: Schedule| {
            let has_faults = |round: &u32| self.rounds.as_ref().is_none_or(|named| named.contains(&RoundId(*round)));
            (1..=present.rounds).filter(has_faults).any(|round| schedule.is_due(RoundId(round), present.rounds))
        };
        match fault {
            ServerFault::AggregatorCrash => None,
            ServerFault::RealignmentFailure => {
                (!is_due(present.align)).then_some("no realignment in a round with faults")
            }
            ServerFault::EvaluationFailure => {
                (!is_due(present.evaluate)).then_some("no evaluation in a round with faults")
            }
        }
    }
}

fn client_lacks(fault: ClientFault, present: Present) -> Option<&'static str> {
    (fault == ClientFault::GuardOutage && !present.guard).then_some("no guard")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{
        load,
        tests::{HEAD, complaints, file},
    };

    #[test]
    fn faults_are_shares_in_rounds_that_there_are() {
        let text = format!("{HEAD}[federation]\nrounds = 3\n[faults]\ncrash = 1.5\nrounds = [2, 4]\n");
        let found = complaints(&text, &["faults.aggregator_crash=-1"]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "test.toml:6: faults.crash: found 1.5; allowed: from 0 to 1");
        assert!(found[1].ends_with("faults.aggregator_crash: found -1; allowed: from 0 to 1"), "{found:?}");
        assert!(found[2].starts_with("test.toml:7: faults.rounds: found 4; allowed: rounds from 1 to"), "{found:?}");
        let found = complaints(&format!("{HEAD}[faults]\nrounds = []\n"), &[]);
        assert!(found[0].contains("faults.rounds: found none; allowed: rounds from 1 to"), "{found:?}");
        let found = complaints(&format!("{HEAD}[faults]\ncrashes = 0.5\n"), &[]);
        assert!(found[0].contains("faults.crashes: unknown field `crashes`"), "{found:?}");
    }

    #[test]
    fn what_nothing_can_suffer_is_no_part_of_the_plan_and_is_said() {
        let faults =
            "crash = 0.5\nguard_outage = 0.25\nevaluation_failure = 1\nrealignment_failure = 1\nrounds = [2]\n";
        let variants = "[[variant]]\nname = \"plain\"\n[[variant]]\nname = \"guarded\"\nguard.enabled = true\n\
                        cai.schedule = \"every\"\nevaluation.schedule = \"every\"\n";
        let (_folder, path) = file(&format!("{HEAD}[federation]\nrounds = 3\n[faults]\n{faults}{variants}"));
        let [plain, guarded] = <[_; 2]>::try_from(load(&path, &[]).unwrap().scenarios).unwrap();
        assert_eq!(plain.faults.clients, [(ClientFault::Crash, 0.5)].into());
        assert!(plain.faults.server.is_empty());
        let said = plain.assumptions.join("\n");
        assert!(
            said.contains("faults.guard_outage = 0.25 strikes nothing in variant plain: there is no guard"),
            "{said}"
        );
        // The evaluation is after the last round alone.
        assert!(said.contains("faults.evaluation_failure = 1 strikes nothing in variant plain: there is no"), "{said}");
        assert!(
            said.contains("faults.realignment_failure = 1 strikes nothing in variant plain: there is no"),
            "{said}"
        );
        assert_eq!(guarded.faults.clients, [(ClientFault::GuardOutage, 0.25), (ClientFault::Crash, 0.5)].into());
        let both = [ServerFault::RealignmentFailure, ServerFault::EvaluationFailure].map(|fault| (fault, 1.0));
        assert_eq!(guarded.faults.server, both.into());
        assert!(!guarded.assumptions.join("\n").contains("strikes nothing"));
    }

    #[test]
    fn a_run_without_faults_is_the_same_as_before_there_were_any() {
        let (_folder, path) = file(&format!("{HEAD}[faults]\nrounds = [1]\n"));
        let plain = serde_json::to_value(&load(&path, &[]).unwrap().scenarios[0]).unwrap();
        assert!(plain.get("faults").is_none(), "{plain}");
    }
}
