//! A scenario file as it is written: every key optional, unknown keys refused.

use fedward_actors::{DeviceProfile, Schedule};
use serde::Deserialize;

use super::{
    CaiSection, FederationMode, GuardSection, Problem, Scenario, Seeds,
    attack::{self, RawAttack},
    cai::RawCai,
    data::RawData,
    document::Document,
    document::Variant,
    evaluation::RawEvaluation,
    faults::{Present, RawFaults},
    federation::RawFederation,
    guard::RawGuard,
    lora::RawLora,
    model::RawModel,
    rules::Rules,
    screen::RawScreen,
    server::{self, RawServer},
    start::RawStart,
    time::{RawGather, check_devices},
    training::RawTraining,
};

/// The whole file, one variant merged into it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    pub name: String,
    pub question: String,
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub seeds: Seeds,
    #[serde(default)]
    pub model: RawModel,
    #[serde(default)]
    pub lora: RawLora,
    #[serde(default)]
    pub start: RawStart,
    #[serde(default)]
    pub federation: RawFederation,
    #[serde(default)]
    pub data: RawData,
    #[serde(default)]
    pub training: RawTraining,
    #[serde(default)]
    pub guard: RawGuard,
    #[serde(default)]
    pub screen: RawScreen,
    #[serde(default, rename = "attack")]
    pub attacks: Vec<RawAttack>,
    #[serde(default)]
    pub server: RawServer,
    #[serde(default)]
    pub faults: RawFaults,
    pub devices: Option<DeviceProfile>,
    #[serde(default)]
    pub gather: RawGather,
    #[serde(default)]
    pub cai: RawCai,
    #[serde(default)]
    pub evaluation: RawEvaluation,
}

/// What a run's part of a file comes to.
pub(super) struct Resolved {
    /// `None` if any rule is broken.
    pub scenario: Option<Scenario>,
    pub broken: Vec<Problem>,
    /// Paths that lead to nothing on this machine.
    pub missing: Vec<Problem>,
}

impl RawScenario {
    /// Checks every rule, then fills in what a run needs.
    pub(super) fn resolve(&self, document: &Document, variant: &Variant) -> Resolved {
        let mut rules = Rules::default();
        let scenario = self.scenario(document, variant, &mut rules);
        let problems = |told: Vec<(String, String)>| {
            told.into_iter().map(|(key, message)| document.problem(variant, &key, message)).collect()
        };
        let (broken, missing): (Vec<_>, Vec<_>) = (problems(rules.broken), problems(rules.missing));
        Resolved { scenario: scenario.filter(|_| broken.is_empty()), broken, missing }
    }

    fn scenario(&self, document: &Document, variant: &Variant, rules: &mut Rules) -> Option<Scenario> {
        self.check(rules);
        self.model.check_base(document.folder(), rules);
        self.evaluation.check_data(document.folder(), rules);
        let start = self.start.resolve(&self.training, document.folder(), rules);
        let federation = self.federation.resolve(rules);
        let data = self.data.resolve(document.folder(), rules);
        let training_seed = self.seeds.training.unwrap_or(self.seed);
        let cai = self.cai.resolve(&self.training, document.folder(), (training_seed, self.guard.enabled), rules);
        let guard = self.guard.resolve((&self.model, training_seed), document.folder(), rules);
        let (start, federation, data) = (start?, federation?, data?);
        let screen = self.screen.resolve();
        let server = self.server.resolve(&federation, screen.as_ref(), rules);
        let (client_ranks, gather) = (self.lora.client_ranks(), self.gather.resolve());
        let clients_work = (federation.strategy, client_ranks.as_ref());
        server::check_clients(server.as_ref(), clients_work, gather.late, rules);
        let evaluation = self.evaluation.resolve(document.folder(), self.seeds.evaluation.unwrap_or(self.seed));
        let present = Present {
            guard: guard.is_some(),
            align: cai.as_ref().map_or(Schedule::Never, |cai| cai.schedule),
            evaluate: evaluation.schedule,
            rounds: self.federation.rounds,
        };
        let RawFederation { clients, rounds, .. } = self.federation;
        rules.check(self.attacks.is_empty() || federation.mode == FederationMode::Federated, "attack", || {
            "without a federation nobody works against it; leave it out, or set attack = [] for this variant".into()
        });
        rules.check(
            self.lora.client_ranks.is_empty() || federation.mode == FederationMode::Federated,
            "lora.client_ranks",
            || "without a federation there is one rank; leave it out, or set client_ranks = [] for this variant".into(),
        );
        let combines = server.as_ref().is_some_and(|server| server.lora.combines());
        rules.check(!combines || !attack::tries_out_the_server(&self.attacks), "attack", || {
            "opt_ipm and opt_alie try out pre-aggregators and aggregators, not what server.lora combines; use ipm or alie".into()
        });
        let mut scenario = Scenario {
            name: self.name.clone(),
            question: self.question.clone(),
            variant: variant.name.clone(),
            point: document.point(variant),
            seed: self.seed,
            seeds: self.seeds,
            model: self.model.resolve(document.folder()),
            lora: self.lora.resolve(),
            client_ranks,
            start,
            federation,
            data,
            training: self.training.resolve(self.federation.steps_factor()),
            guard,
            screen,
            attacks: attack::resolve(&self.attacks, clients, rounds, rules),
            server,
            faults: self.faults.resolve(present),
            devices: self.devices,
            gather,
            cai,
            evaluation,
            assumptions: Vec::new(),
            written: serde_json::to_value(document.merged(variant)).unwrap_or_default(),
        };
        scenario.assumptions = assumptions(&scenario);
        scenario.assumptions.extend(self.faults.without_effect(present, &variant.name));
        Some(scenario)
    }

    fn check(&self, rules: &mut Rules) {
        let rounds = self.federation.rounds;
        self.model.check(rules);
        self.lora.check(rules);
        self.start.check(rules);
        self.federation.check(rules);
        self.data.check(self.federation.clients, self.evaluation.split, rules);
        self.training.check(rounds, rules);
        self.guard.check(rules);
        self.screen.check(self.federation.cohort, rules);
        self.faults.check(rounds, rules);
        if let Some(devices) = &self.devices {
            check_devices(devices, rules);
        }
        let RawFederation { cohort, quorum, .. } = self.federation;
        self.gather.check(cohort, quorum, self.devices.is_some(), rules);
        self.cai.check(rounds, self.guard.enabled, rules);
        self.evaluation.check(rounds, self.cai.trains_on_goals(), rules);
    }
}

/// What the paper leaves open and this run had to decide.
fn assumptions(scenario: &Scenario) -> Vec<String> {
    let lora = &scenario.lora;
    let targets: Vec<_> = lora.targets.iter().map(ToString::to_string).collect();
    let mut assumptions = vec![format!(
        "LoRA rank {}, alpha {}, dropout {}, targets {} (the paper does not give them)",
        lora.rank,
        lora.alpha,
        lora.dropout,
        targets.join(",")
    )];
    assumptions.extend(scenario.model.assumptions());
    assumptions.extend(scenario.federation.assumptions(scenario.training.sft.steps));
    let server = scenario.server.as_ref();
    assumptions.extend(server.map(|pipeline| server::assumption(pipeline, scenario.federation.strategy)));
    assumptions.extend(scenario.evaluation.assumptions());
    assumptions.extend(scenario.guard.iter().flat_map(GuardSection::assumptions));
    assumptions.extend(scenario.cai.iter().flat_map(CaiSection::assumptions));
    assumptions
}
