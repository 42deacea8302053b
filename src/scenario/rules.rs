//! The rules that a resolved scenario obeys, each with the key that it complains about.

use super::raw::{HarmfulClients, RawScenario, ScheduleName};
use crate::federated;

/// A broken rule: the key and what is wrong with it.
pub(super) type Broken = (&'static str, String);

/// Every rule that `raw` breaks.
pub(super) fn broken(raw: &RawScenario) -> Vec<Broken> {
    let mut rules = Rules(Vec::new());
    counts(raw, &mut rules);
    shares(raw, &mut rules);
    rates(raw, &mut rules);
    federation(raw, &mut rules);
    rules.0
}

struct Rules(Vec<Broken>);

impl Rules {
    fn check(&mut self, holds: bool, key: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.0.push((key, message()));
        }
    }

    fn at_least_one(&mut self, key: &'static str, value: usize) {
        self.check(value > 0, key, || "found 0; allowed: 1 or more".into());
    }

    fn share(&mut self, key: &'static str, value: f64) {
        self.check((0.0..=1.0).contains(&value), key, || format!("found {value}; allowed: from 0 to 1"));
    }

    fn positive(&mut self, key: &'static str, value: f64) {
        self.check(value > 0.0 && value.is_finite(), key, || format!("found {value}; allowed: above 0"));
    }

    fn not_negative(&mut self, key: &'static str, value: f64) {
        self.check(value >= 0.0 && value.is_finite(), key, || format!("found {value}; allowed: 0 or above"));
    }
}

fn counts(raw: &RawScenario, rules: &mut Rules) {
    rules.at_least_one("lora.rank", raw.lora.rank);
    rules.check(!raw.lora.targets.is_empty(), "lora.targets", || "found none; allowed: one or more layers".into());
    rules.at_least_one("start.steps", raw.start.steps);
    rules.at_least_one("start.batch_size", raw.start.batch_size);
    rules.at_least_one("data.rows_per_client", raw.data.rows_per_client);
    rules.at_least_one("training.local_steps", raw.training.local_steps);
    rules.at_least_one("training.batch_size", raw.training.batch_size);
    rules.check(raw.training.max_length >= 16, "training.max_length", || {
        format!("found {}; allowed: 16 tokens or more", raw.training.max_length)
    });
    rules.check(raw.guard.max_length >= 16, "guard.max_length", || {
        format!("found {}; allowed: 16 tokens or more", raw.guard.max_length)
    });
    rules.check(raw.guard.train_rows >= 100, "guard.train_rows", || {
        format!("found {}; allowed: 100 or more (fewer make no guard worth measuring)", raw.guard.train_rows)
    });
    rules.at_least_one("cai.red_prompts", raw.cai.red_prompts);
    rules.at_least_one("cai.max_new_tokens", raw.cai.max_new_tokens);
    rules.at_least_one("cai.steps", raw.cai.steps);
    rules.at_least_one("cai.batch_size", raw.cai.batch_size);
    rules.at_least_one("evaluation.prompts", raw.evaluation.prompts);
    rules.at_least_one("evaluation.interim_prompts", raw.evaluation.interim_prompts);
    rules.at_least_one("evaluation.max_new_tokens", raw.evaluation.max_new_tokens);
}

fn shares(raw: &RawScenario, rules: &mut Rules) {
    rules.share("start.refusal_share", raw.start.refusal_share);
    rules.share("data.harmful_share", raw.data.harmful_share);
    rules.share("guard.threshold", raw.guard.threshold);
    rules.check((0.0..1.0).contains(&raw.lora.dropout), "lora.dropout", || {
        format!("found {}; allowed: from 0 to below 1", raw.lora.dropout)
    });
    rules.check((0.0..1.0).contains(&raw.cai.benign_share), "cai.benign_share", || {
        format!("found {}; allowed: from 0 to below 1", raw.cai.benign_share)
    });
}

fn rates(raw: &RawScenario, rules: &mut Rules) {
    rules.positive("lora.alpha", raw.lora.alpha);
    rules.positive("start.learning_rate", raw.start.learning_rate);
    rules.positive("training.learning_rate", raw.training.learning_rate);
    rules.positive("training.max_grad_norm", raw.training.max_grad_norm);
    rules.not_negative("training.weight_decay", raw.training.weight_decay);
    rules.positive("cai.learning_rate", raw.cai.learning_rate);
    rules.not_negative("cai.temperature", raw.cai.temperature);
    rules.not_negative("evaluation.temperature", raw.evaluation.temperature);
    rules.positive("data.topic_alpha", raw.data.topic_alpha);
}

fn federation(raw: &RawScenario, rules: &mut Rules) {
    let federation = &raw.federation;
    rules.at_least_one("federation.clients", federation.clients as usize);
    rules.at_least_one("federation.rounds", federation.rounds as usize);
    rules.at_least_one("federation.max_attempts", federation.max_attempts as usize);
    rules.at_least_one("federation.client_timeout_seconds", federation.client_timeout_seconds as usize);
    rules.check((1..=federation.clients).contains(&federation.cohort), "federation.cohort", || {
        let (cohort, clients) = (federation.cohort, federation.clients);
        format!("found {cohort}; allowed: 1 to {clients} (federation.clients)")
    });
    rules.check((1..=federation.cohort).contains(&federation.quorum), "federation.quorum", || {
        let (quorum, cohort) = (federation.quorum, federation.cohort);
        format!("found {quorum}; allowed: 1 to {cohort} (federation.cohort)")
    });
    rules.check(federation.slots != Some(0), "federation.slots", || "found 0; allowed: 1 or more".into());
    let known: Vec<_> = federated::strategy_names().collect();
    rules.check(known.contains(&federation.strategy.as_str()), "federation.strategy", || {
        format!("found {:?}; allowed: {}", federation.strategy, known.join(", "))
    });
    if let HarmfulClients::Count(count) = raw.data.harmful_clients {
        rules.check(count <= federation.clients, "data.harmful_clients", || {
            format!("found {count}; allowed: 0 to {} (federation.clients), or \"all\"", federation.clients)
        });
    }
    for (key, schedule, every) in [
        ("cai.every", raw.cai.schedule, raw.cai.every),
        ("evaluation.every", raw.evaluation.schedule, raw.evaluation.every),
    ] {
        let holds = schedule != ScheduleName::Every || (1..=federation.rounds).contains(&every);
        rules.check(holds, key, || format!("found {every}; allowed: 1 to {} (federation.rounds)", federation.rounds));
    }
}
