//! `[server]`: parts of the server's pipeline that are others than the strategy's own.

use fedward_actors::{Late, protocol::ClientRanks};
use fedward_aggregation::{AggregatorSettings, Mixing, PreAggregatorSettings, Weighting, aggregators::MeanWeights};
use serde::Deserialize;

use super::{FederationSection, ScreenSection, rules::Rules};
use crate::federated::{
    AdaptiveSettings, FederatedAlgorithm, Flavour, LoraRule, MomentumSettings, OptimizerSettings, PipelineSettings,
};

const OPTIMIZER: &str = "server.optimizer";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServer {
    pub pre: Vec<PreAggregatorSettings>,
    pub aggregator: Option<AggregatorSettings>,
    pub optimizer: Option<RawOptimizer>,
    pub lora: Option<LoraRule>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OptimizerKind {
    Momentum,
    Adagrad,
    Yogi,
    Adam,
}

/// Constants of all server optimizers; each reads its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOptimizer {
    kind: OptimizerKind,
    flavour: Option<String>,
    learning_rate: Option<f64>,
    beta1: Option<f64>,
    beta2: Option<f64>,
    tau: Option<f64>,
}

impl RawOptimizer {
    fn resolve(&self, rules: &mut Rules) -> OptimizerSettings {
        let flavour = self.flavour.as_ref().map_or(Ok(Flavour::default()), |text| text.parse());
        let flavour = flavour.unwrap_or_else(|problem| {
            rules.complain(&format!("{OPTIMIZER}.flavour"), problem);
            Flavour::default()
        });
        self.check(flavour, rules);
        let flower_rate = |rate| if flavour == Flavour::Flower { rate } else { 1e-3 };
        let adaptive = |rate| AdaptiveSettings {
            flavour,
            server_learning_rate: self.learning_rate.unwrap_or(flower_rate(rate)),
            beta1: self.beta1.unwrap_or(0.9),
            beta2: self.beta2.unwrap_or(0.99),
            tau: self.tau.unwrap_or(1e-3),
        };
        match self.kind {
            OptimizerKind::Momentum => OptimizerSettings::Momentum(MomentumSettings {
                flavour,
                server_learning_rate: self.learning_rate.unwrap_or(1.0),
                beta1: self.beta1.unwrap_or(0.9),
            }),
            OptimizerKind::Adagrad => OptimizerSettings::Adagrad(adaptive(1e-1)),
            OptimizerKind::Yogi => OptimizerSettings::Yogi(adaptive(1e-2)),
            OptimizerKind::Adam => OptimizerSettings::Adam(adaptive(1e-1)),
        }
    }

    fn check(&self, flavour: Flavour, rules: &mut Rules) {
        let kind = self.kind;
        let is_momentum = matches!(kind, OptimizerKind::Momentum);
        let is_adagrad = matches!(kind, OptimizerKind::Adagrad);
        for (name, value, is_read) in [
            ("learning_rate", self.learning_rate, !(is_momentum && flavour == Flavour::OpenFedLlm)),
            ("beta1", self.beta1, !is_adagrad),
            ("beta2", self.beta2, !is_momentum && !is_adagrad),
            ("tau", self.tau, !is_momentum),
        ] {
            let Some(value) = value else { continue };
            let key = format!("{OPTIMIZER}.{name}");
            rules.check(is_read, &key, || {
                format!("is set, but {} of flavour {flavour} does not read it", format!("{kind:?}").to_lowercase())
            });
            match name {
                "beta1" | "beta2" => rules.below_one(&key, value),
                _ => rules.positive(&key, value),
            }
        }
    }
}

impl RawServer {
    fn is_empty(&self) -> bool {
        self.pre.is_empty()
            && self.aggregator.is_none()
            && self.optimizer.is_none()
            && self.lora.unwrap_or_default() == LoraRule::Factors
    }

    /// The pipeline, where it is not the strategy's own.
    pub(super) fn resolve(
        &self,
        federation: &FederationSection,
        screen: Option<&ScreenSection>,
        rules: &mut Rules,
    ) -> Option<PipelineSettings> {
        if self.is_empty() {
            return None;
        }
        let preset = federation.strategy.preset();
        let settings = PipelineSettings {
            pre: self.pre.clone(),
            aggregator: self.aggregator.clone().unwrap_or(preset.aggregator),
            optimizer: self.optimizer.as_ref().map_or(preset.optimizer, |optimizer| optimizer.resolve(rules)),
            lora: self.lora.unwrap_or_default(),
        };
        if self.optimizer.is_some() && preset.optimizer != OptimizerSettings::Plain {
            let name = federation.strategy.name();
            let message =
                format!("is set, but federation.strategy = {name:?} has an optimizer of its own; use \"fedavg\"");
            rules.complain(OPTIMIZER, message);
        }
        check_counts(&settings, federation, rules);
        check_weighing(&settings, screen, rules);
        check_lora(&settings, federation.strategy, rules);
        Some(settings)
    }
}

/// Holds the rules' preconditions to a full cohort, and to the smallest that a round is aggregated with.
fn check_counts(settings: &PipelineSettings, federation: &FederationSection, rules: &mut Rules) {
    let FederationSection { cohort, quorum, .. } = *federation;
    for (key, updates, advice) in [
        ("federation.cohort", cohort, "raise it, or choose another rule"),
        ("federation.quorum", quorum, "raise it, so that a round of fewer is skipped"),
    ] {
        let updates = updates as usize;
        let check = |pre: &[PreAggregatorSettings], aggregator: &AggregatorSettings| {
            fedward_aggregation::check(pre, aggregator, updates)
        };
        let any = AggregatorSettings::Mean(fedward_aggregation::aggregators::Mean::default());
        let broken = (0..=settings.pre.len()).find_map(|count| check(&settings.pre[..count], &any).err());
        let (part, error) = match (broken, check(&settings.pre, &settings.aggregator)) {
            (Some(error), _) => ("server.pre", error),
            (None, Err(error)) => ("server.aggregator", error),
            (None, Ok(())) => continue,
        };
        let by_count = matches!(error, fedward_aggregation::AggregationError::TooFewUpdates { .. });
        let message = if by_count { format!("{error} ({key} = {updates}; {advice})") } else { error.to_string() };
        rules.complain(part, message);
        // What is wrong with a full cohort is wrong with a smaller one.
        return;
    }
}

/// Complains of a screen that weighs updates whose weights nobody reads.
fn check_weighing(settings: &PipelineSettings, screen: Option<&ScreenSection>, rules: &mut Rules) {
    let mixes = settings.pre.iter().any(|pre| pre.rule().mixing() == Mixing::Clients);
    let is_uniform = settings.aggregator.rule().weighting() == Weighting::Uniform;
    if screen.is_some_and(ScreenSection::weighs) && (mixes || is_uniform) {
        let message = "screen.action = \"weigh\" gives updates weights that this pipeline does not read; \
                       use { kind = \"mean\" } without nnm or bucketing, or another action";
        rules.complain("server.aggregator", message);
    }
}

/// Complains of a rule for adapters beside parts that it leaves no place, or no meaning.
fn check_lora(settings: &PipelineSettings, strategy: FederatedAlgorithm, rules: &mut Rules) {
    const KEY: &str = "server.lora";
    let PipelineSettings { pre, aggregator, optimizer, lora } = settings;
    let name = lora.name();
    if *lora != LoraRule::Factors && matches!(strategy, FederatedAlgorithm::Scaffold { .. }) {
        let message =
            "is set, but control variates of \"scaffold\" are of factors that keep their meaning; use \"fedavg\"";
        rules.complain(KEY, message.to_owned());
    }
    let is_plain = *optimizer == OptimizerSettings::Plain;
    let weighs_otherwise = matches!(aggregator, AggregatorSettings::Mean(mean) if mean.weights != MeanWeights::Rows);
    if lora.combines() && !(pre.is_empty() && matches!(aggregator, AggregatorSettings::Mean(_)) && is_plain) {
        let message = format!(
            "{name} combines clients' adapters itself; leave server.pre, server.aggregator and server.optimizer out, and use \
             federation.strategy = \"fedavg\" or \"fedprox\""
        );
        rules.complain(KEY, message);
    } else if lora.changes_basis() && !is_plain {
        let message = format!(
            "{name} factorises the adapter anew after each round, so a server optimizer's memory does not fit it"
        );
        rules.complain(KEY, message);
    } else if lora.changes_basis() && aggregator.rule().keeps_memory() {
        let message = format!(
            "{name} factorises the adapter anew after each round, so what {} remembers of rounds before does not fit it",
            aggregator.name()
        );
        rules.complain(KEY, message);
    } else if *lora == LoraRule::HetLora && weighs_otherwise {
        let message = "hetlora weighs adapters by the norms of their products; leave server.aggregator out";
        rules.complain(KEY, message.to_owned());
    }
    if let LoraRule::FedEx { max_rank: Some(0) } | LoraRule::Flora { max_rank: Some(0) } = lora {
        rules.complain("server.lora.max_rank", "found 0; allowed: 1 or more".to_owned());
    }
}

/// Complains of clients of different ranks, or of late work, where the rule for adapters cannot take them.
pub(super) fn check_clients(
    settings: Option<&PipelineSettings>,
    (strategy, ranks): (FederatedAlgorithm, Option<&ClientRanks>),
    late: Late,
    rules: &mut Rules,
) {
    let lora = settings.map(|settings| settings.lora).unwrap_or_default();
    if ranks.is_some() && matches!(strategy, FederatedAlgorithm::Scaffold { .. }) {
        let message = "is set, but control variates of \"scaffold\" are of one rank for all; use \"fedavg\"";
        rules.complain("lora.client_ranks", message.to_owned());
    } else if ranks.is_some() && !lora.takes_ranks() {
        let message = format!("is set, but {} factorises one A for all clients; use another rule", lora.name());
        rules.complain("lora.client_ranks", message);
    }
    if !lora.takes_late_updates() && matches!(late, Late::Count { .. }) {
        let message = format!(
            "counts updates of older versions, but {} trains other numbers in each round, or the same with another meaning; use \
             \"discard\"",
            lora.name()
        );
        rules.complain("gather.late", message);
    }
}

/// What a pipeline takes for granted, in words.
pub(super) fn assumption(settings: &PipelineSettings, algorithm: FederatedAlgorithm) -> String {
    let PipelineSettings { pre, aggregator, optimizer, lora } = settings;
    let steps: Vec<_> = pre.iter().map(PreAggregatorSettings::name).chain([aggregator.name()]).collect();
    let weights = match aggregator.rule().weighting() {
        _ if *lora == LoraRule::HetLora => "updates count by the norms of their products",
        _ if pre.iter().any(|pre| pre.rule().mixing() == Mixing::Clients) => "each mixture counts the same",
        Weighting::ByRows => "updates count by their rows",
        Weighting::ByTrust | Weighting::Uniform => "each update counts the same",
    };
    let said =
        format!("the server of {}: {} ({weights}), then {}", algorithm.name(), steps.join(", "), optimizer.name());
    if *lora == LoraRule::Factors { said } else { format!("{said}; adapters by {}", lora.name()) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HEAD, complaints, file};
    use crate::scenario::load;

    const FEDERATION: &str = "[federation]\ncohort = 7\nquorum = 5\n";

    fn found(server: &str) -> Vec<String> {
        complaints(&format!("{HEAD}{FEDERATION}[server]\n{server}"), &[])
    }

    #[test]
    fn parts_replace_those_of_the_strategy() {
        let text = format!(
            "{HEAD}{FEDERATION}[server]\npre = [{{ kind = \"clip\", max_norm_ratio = 1 }}, {{ kind = \"nnm\", byzantine = 1 }}]\n\
             aggregator = {{ kind = \"krum\", byzantine = 1 }}\noptimizer = {{ kind = \"adam\", learning_rate = 0.1 }}\n"
        );
        let (_folder, path) = file(&text);
        let scenario = load(&path, &[]).unwrap().scenarios.remove(0);
        let server = serde_json::to_value(scenario.server.as_ref().unwrap()).unwrap();
        assert_eq!(server["pre"][1], serde_json::json!({"kind": "nnm", "byzantine": 1}));
        assert_eq!(server["aggregator"]["kind"], "krum");
        assert_eq!(server["optimizer"]["server_learning_rate"], 0.1);
        let said = "the server of fedavg: clip, nnm, krum (each mixture counts the same), then adam";
        assert!(scenario.assumptions.contains(&said.to_owned()), "{:?}", scenario.assumptions);
        let (_folder, path) = file(HEAD);
        let plain = load(&path, &[]).unwrap().scenarios.remove(0);
        assert_eq!(serde_json::to_value(&plain).unwrap().get("server"), None);
    }

    #[test]
    fn preconditions_are_held_to_cohort_and_quorum() {
        let bulyan = "aggregator = { kind = \"bulyan\", byzantine = 2 }\n";
        let expected = "test.toml:7: server.aggregator: bulyan needs n ≥ 4f + 3, which is 11 or more updates; found 7 \
                        (federation.cohort = 7; raise it, or choose another rule)";
        assert_eq!(found(bulyan), [expected]);
        let krum = "aggregator = { kind = \"krum\", byzantine = 2 }\n";
        let expected = "test.toml:7: server.aggregator: krum needs n ≥ 2f + 3, which is 7 or more updates; found 5 \
                        (federation.quorum = 5; raise it, so that a round of fewer is skipped)";
        assert_eq!(found(krum), [expected]);
        let nnm = "pre = [{ kind = \"nnm\", byzantine = 4 }]\n";
        assert!(found(nnm)[0].starts_with("test.toml:7: server.pre: nnm needs n ≥ 2f + 1"), "{:?}", found(nnm));
        let gold = "pre = [{ kind = \"bucketing\", size = 2 }]\naggregator = { kind = \"foolsgold\" }\n";
        assert!(found(gold)[0].ends_with("but bucketing mixes clients; use it without"), "{:?}", found(gold));
    }

    fn accepts(tables: &str) {
        let (_folder, path) = file(&format!("{HEAD}{FEDERATION}{tables}"));
        load(&path, &[]).unwrap();
    }

    #[test]
    fn rules_for_adapters_want_a_place_of_their_own() {
        accepts("[server]\nlora = { kind = \"fedex\", max_rank = 64 }\n");
        accepts("[server]\nlora = { kind = \"ffa\" }\naggregator = { kind = \"median\" }\n");
        let beside = found("lora = { kind = \"flora\" }\naggregator = { kind = \"median\" }\n");
        assert!(
            beside[0].contains("server.lora: flora combines clients' adapters itself; leave server.pre"),
            "{beside:?}"
        );
        let stepped = found("lora = { kind = \"fedsvd\" }\noptimizer = { kind = \"adam\" }\n");
        assert!(stepped[0].contains("fedsvd factorises the adapter anew"), "{stepped:?}");
        let remembers = found("lora = { kind = \"fedsvd\" }\naggregator = { kind = \"centred_clipping\" }\n");
        assert!(remembers[0].contains("what centred_clipping remembers of rounds before"), "{remembers:?}");
        let unread = found("lora = { kind = \"flexlora\", max_rank = 64 }\n");
        assert!(unread[0].contains("max_rank is set, but flexlora freezes nothing"), "{unread:?}");
        let unknown = found("lora = { kind = \"fedex\", rank = 64 }\n");
        assert!(unknown[0].contains("unknown field `rank`"), "{unknown:?}");
        let unknown = found("lora = { kind = \"fedx\" }\n");
        assert!(unknown[0].contains("unknown variant `fedx`, expected one of `factors`, `ffa`"), "{unknown:?}");
        let zero = found("lora = { kind = \"fedex\", max_rank = 0 }\n");
        assert!(zero[0].ends_with("server.lora.max_rank: found 0; allowed: 1 or more"), "{zero:?}");
        let late = "lora = { kind = \"flexlora\" }\n[devices]\n[gather]\nfirst = 5\nlate = \"count\"\n";
        assert!(found(late)[0].contains("but flexlora trains other numbers in each round"), "{:?}", found(late));
    }

    #[test]
    fn clients_of_different_ranks_want_a_rule_that_takes_them() {
        let lora = "[lora]\nrank = 8\nclient_ranks = [4, 8]\n";
        accepts(lora);
        accepts(&format!("[server]\nlora = {{ kind = \"hetlora\" }}\n{lora}"));
        let ranks = |server: &str| complaints(&format!("{HEAD}{FEDERATION}{server}{lora}"), &[]);
        let one = ranks("[server]\nlora = { kind = \"fedsvd\" }\n");
        assert!(one[0].ends_with("fedsvd factorises one A for all clients; use another rule"), "{one:?}");
        let scaffold = ranks("strategy = \"scaffold\"\n");
        assert!(scaffold[0].contains("lora.client_ranks: is set, but control variates"), "{scaffold:?}");
        let alone = complaints(&format!("{HEAD}[federation]\nmode = \"centralised\"\n{lora}"), &[]);
        assert!(alone[0].contains("lora.client_ranks: without a federation there is one rank"), "{alone:?}");
        let large = complaints(&format!("{HEAD}[lora]\nrank = 8\nclient_ranks = [4, 9]\n"), &[]);
        assert!(large[0].ends_with("lora.client_ranks: found 9; allowed: 1 to lora.rank = 8"), "{large:?}");
    }

    #[test]
    fn what_is_unknown_or_unread_is_said() {
        let unknown = found("aggregator = { kind = \"krumm\", byzantine = 1 }\n");
        assert!(unknown[0].contains("unknown variant `krumm`, expected one of `mean`, `median`"), "{unknown:?}");
        let lacks = found("aggregator = { kind = \"krum\" }\n");
        assert!(lacks[0].contains("byzantine"), "{lacks:?}");
        let unread = found("optimizer = { kind = \"momentum\", beta2 = 0.9 }\n");
        let expected = "server.optimizer.beta2: is set, but momentum of flavour paper does not read it";
        assert!(unread[0].ends_with(expected), "{unread:?}");
        let twice = complaints(
            &format!("{HEAD}{FEDERATION}strategy = \"fedadam\"\n[server]\noptimizer = {{ kind = \"yogi\" }}\n"),
            &[],
        );
        assert!(twice[0].ends_with("federation.strategy = \"fedadam\" has an optimizer of its own; use \"fedavg\""));
        let weighed = complaints(
            &format!(
                "{HEAD}{FEDERATION}[screen]\nkind = \"norm_outlier\"\naction = \"weigh\"\n[server]\naggregator = {{ kind = \"median\" }}\n"
            ),
            &[],
        );
        assert!(weighed[0].contains("gives updates weights that this pipeline does not read"), "{weighed:?}");
    }
}
