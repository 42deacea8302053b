use std::path::PathBuf;

use fedward_actors::policy::Assessed;

use super::*;
use crate::federated::{AdaptiveSettings, FederatedAlgorithm, Flavour, MomentumSettings};
use crate::{
    data::MeasuredGoals,
    endpoint::ExtraBody,
    model::Quantization,
    safety::cai::{Examples, Revise},
    train::LrSchedule,
};

/// A scenario file in a folder of its own.
pub(super) fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// What is complained of, the folder left out.
pub(super) fn complaints(text: &str, sets: &[&str]) -> Vec<String> {
    let (folder, path) = file(text);
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let folder = format!("{}/", folder.path().display());
    load(&path, &sets).unwrap_err().problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
}

pub(super) const HEAD: &str = "name = \"t\"\nquestion = \"q\"\n";

const TWO_VARIANTS: &str = "[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\n";

/// What variants are a product of.
mod axes;
/// What variants and the cells of a grid have in common, and what may differ.
mod compared;
/// What is there to be compared with.
mod controls;
/// Variants and grids as they are written.
mod grids;
/// Benchmarks of the user's own.
mod own;

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_allowed_ones() {
    let found = complaints(&format!("{HEAD}[federation]\ncohrt = 3\n"), &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("test.toml:4: federation.cohrt: unknown field `cohrt`"), "{found:?}");
    assert!(found[0].contains("`cohort`"), "{found:?}");
}

#[test]
fn every_broken_rule_is_named_with_line_found_and_allowed() {
    let text = format!("{HEAD}[federation]\nclients = 4\ncohort = 9\n[data]\nharmful_share = 1.5\n");
    let found = complaints(&text, &[]);
    assert_eq!(
        found,
        [
            "test.toml:5: federation.cohort: found 9; allowed: 1 to 4 (federation.clients)",
            "test.toml:7: data.harmful_share: found 1.5; allowed: from 0 to 1",
        ]
    );
}

#[test]
fn devices_are_counted_where_there_can_be_several() {
    let found = |sets: &[&str]| complaints(HEAD, sets).join("\n");
    assert!(found(&["model.devices=0"]).contains("model.devices: found 0; allowed: 1 or more"));
    let found = found(&["model.devices=2", "model.device=cpu"]);
    assert!(found.contains("model.devices: found 2; allowed with model.device = \"cpu\": 1"), "{found}");
}

#[test]
fn what_is_measured_between_rounds_is_among_what_is_measured() {
    let found = complaints(&format!("{HEAD}[evaluation]\ninterim_benches = [\"hhh\"]\n"), &[]);
    let expected = "test.toml:4: evaluation.interim_benches: found \"hhh\"; allowed: those of evaluation.benches and evaluation.own: advbench, utility";
    assert_eq!(found, [expected]);
}

#[test]
fn a_complaint_points_to_the_variant_or_override_that_decides() {
    let text = format!("{HEAD}[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\nfederation.rounds = 0\n");
    assert_eq!(complaints(&text, &[]), ["test.toml:7: federation.rounds: found 0; allowed: 1 or more"]);
    let found = complaints(HEAD, &["federation.rounds=0"]);
    assert_eq!(found, ["--set federation.rounds=0: federation.rounds: found 0; allowed: 1 or more"]);
}

#[test]
fn broken_toml_names_its_line() {
    let found = complaints("name = \"t\"\nquestion = \n", &[]);
    assert!(found[0].starts_with("test.toml:2: "), "{found:?}");
}

#[test]
fn wrong_types_and_values_name_the_key() {
    let found = complaints(&format!("{HEAD}[lora]\ntargets = [\"q_proj\", \"x_proj\"]\n"), &[]);
    assert!(found[0].starts_with("test.toml:4: lora.targets"), "{found:?}");
    assert!(found[0].contains("x_proj"), "{found:?}");
    for (set, expected) in [
        ("federation.rounds=-2", "expected a whole number from 0 to 4294967295"),
        ("federation.rounds=5000000000", "expected a whole number from 0 to 4294967295"),
        ("data.rows_per_client=\"two\"", "expected a whole number from 0"),
        ("cai.lr_schedule=\"cosine\"", "expected a table with its `kind`, for example { kind = \"constant\" }"),
        ("evaluation.judge={ base_url = \"u\", model = \"m\", parallel = 0 }", "expected a whole number from 1"),
        ("lora.alpha=\"big\"", "expected a number"),
        ("guard.enabled=1", "expected true or false"),
        ("federation=3", "expected a table"),
        ("lora.targets=q_proj,v_proj", "expected a list: [\"q_proj\", \"v_proj\"]"),
        ("lora.targets=q_proj", "expected a list: [\"q_proj\"]"),
        ("lora.targets=[q_proj, v_proj]", "expected a list: [\"q_proj\", \"v_proj\"]"),
        ("evaluation.benches=advbench, utility", "expected a list: [\"advbench\", \"utility\"]"),
        ("evaluation.interim_benches=advbench", "expected a list: [\"advbench\"]"),
        ("faults.rounds=1,2", "expected a list: [1, 2]"),
        ("faults.rounds=3", "expected a list: […]"),
    ] {
        let found = complaints(HEAD, &[set]);
        let key = set.split_once('=').unwrap().0;
        let is_placed = found[0].starts_with(&format!("--set {key}=")) && found[0].contains(&format!(": {key}"));
        assert!(is_placed && found[0].ends_with(expected), "{found:?}");
    }
    let found = complaints(&format!("{HEAD}[data]\nharmful_clients = \"some\"\n"), &[]);
    assert!(found[0].contains("allowed: \"all\" or a number of clients"), "{found:?}");
}

#[test]
fn what_has_no_default_is_missing_where_it_would_stand() {
    let missing = "is missing; expected a value, since it has no default";
    assert_eq!(complaints("question = \"q\"\n", &[]), [format!("test.toml: name: {missing}")]);
    let both = ["name", "question"].map(|key| format!("test.toml: {key}: {missing}"));
    assert_eq!(complaints("seed = 1\n", &[]), both);
    assert_eq!(complaints("[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\n", &[]), both);
    let in_table = |text: &str, expected: &str| {
        assert_eq!(complaints(&format!("{HEAD}{text}"), &[]), [format!("{expected}: {missing}")]);
    };
    in_table("[data.benign]\nformat = \"alpaca\"\n", "test.toml:3: data.benign.source");
    in_table("[cai]\nteacher.base_url = \"http://127.0.0.1/v1\"\n", "test.toml:4: cai.teacher.model");
    in_table("[cai]\nlr_schedule = { warmup_ratio = 0.1 }\n", "test.toml:4: cai.lr_schedule.kind");
    let judge = "[[variant]]\nname = \"a\"\n[variant.evaluation.judge]\nmodel = \"m\"\n";
    in_table(judge, "test.toml:5: evaluation.judge.base_url");
    let found = complaints(HEAD, &["evaluation.judge.model=m"]);
    assert_eq!(found, [format!("--set evaluation.judge.model=\"m\": evaluation.judge.base_url: {missing}")]);
    // What has a default and is nowhere written is said to be one.
    let found = complaints(&format!("{HEAD}[federation]\nclients = 3\n"), &[]);
    assert_eq!(found, ["test.toml (default value): federation.cohort: found 5; allowed: 1 to 3 (federation.clients)"]);
}

#[test]
fn a_path_that_leads_nowhere_is_told_before_anything_runs() {
    let sets = [
        "model.base=/models/nope",
        "data.benign.source=benign.jsonl",
        "start={ kind = \"adapter\", path = \"adapter\" }",
        "guard={ enabled = true, kind = \"trained\", path = \"guard\" }",
        "cai={ schedule = \"every\", constitution = \"constitution.toml\", prompts = \"prompts.txt\" }",
        "evaluation.data.hhh=hhh",
    ];
    let found = complaints(HEAD, &sets);
    let keys = [
        "model.base",
        "evaluation.data.hhh",
        "start.path",
        "data.benign.source",
        "cai.prompts",
        "cai.constitution",
        "guard.path",
    ];
    for (found, key) in found.iter().zip(keys) {
        assert!(found.contains(&format!(": {key}: ")), "{key}: {found}");
    }
    assert_eq!(found.len(), keys.len(), "{found:?}");
    let base = "found \"/models/nope\", but there is no file or directory /models/nope; allowed: smollm2-135m-instruct, a .gguf";
    assert!(found[0].contains(base), "{found:?}");

    // On another machine they may be there; what is wrong there, too, is still an error.
    let (_folder, path) = file(HEAD);
    let mut sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let (file, missing) = load_for(&path, &sets, Paths::Elsewhere).unwrap();
    assert_eq!((file.scenarios.len(), missing.len()), (1, keys.len()));
    let scenario = &file.scenarios[0];
    assert!(scenario.guard.is_some() && scenario.cai.as_ref().is_some_and(|cai| cai.constitution.is_some()));
    assert_eq!(scenario.model.base, "/models/nope");
    sets.push("lora.rank=0".into());
    assert_eq!(load_for(&path, &sets, Paths::Elsewhere).unwrap_err().problems.len(), 1);
}

#[test]
fn a_base_model_is_a_model() {
    let found = |base: &str| complaints(HEAD, &[&format!("model.base={base}")]).join("\n");
    assert!(found("smollm2").contains("model.base: found \"smollm2\", but there is no file or directory "));
    assert!(found("advbench").contains("model.base: found \"advbench\", which is a data set; allowed: smollm2-135m"));
    let folder = tempfile::tempdir().unwrap();
    assert!(found(&folder.path().display().to_string()).contains("model.base: found no config.json in "));
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let (_folder, path) = file(HEAD);
    load(&path, &[format!("model.base={}", folder.path().display())]).unwrap();
}

#[test]
fn overrides_win_over_variants_and_variants_over_the_file() {
    let text = format!("{HEAD}seed = 1\n[federation]\nrounds = 2\n[[variant]]\nname = \"a\"\nfederation.rounds = 3\n");
    let (_folder, path) = file(&text);
    let load = |sets: &[String]| load(&path, sets).unwrap().scenarios.remove(0);
    assert_eq!(load(&[]).federation.rounds, 3);
    assert_eq!(load(&["federation.rounds=5".into(), "seed=9".into()]).federation.rounds, 5);
    assert_eq!(load(&["seed=9".into()]).seed, 9);
}

#[test]
fn an_update_screen_needs_a_cohort_with_a_median_and_room_above_it() {
    let text = format!("{HEAD}[federation]\ncohort = 2\n[screen]\nkind = \"norm_bound\"\nmax_norm_ratio = 0.5\n");
    let found = complaints(&text, &[]);
    assert!(found[0].starts_with("test.toml:7: screen.max_norm_ratio: found 0.5; allowed: 1 or above"), "{found:?}");
    assert!(
        found[1].starts_with("test.toml:6: screen.kind: found \"norm_bound\" with federation.cohort = 2"),
        "{found:?}"
    );
    let found = complaints(&format!("{HEAD}[screen]\naction = \"crop\"\n"), &[]);
    assert!(found[0].starts_with("test.toml:4: screen.action: unknown variant `crop`"), "{found:?}");
    assert!(found[0].ends_with("expected one of `clip`, `reject`, `weigh`"), "{found:?}");
    let weighed = complaints(&format!("{HEAD}[screen]\nkind = \"norm_bound\"\naction = \"weigh\"\n"), &[]);
    let expected =
        "test.toml:5: screen.action: found \"weigh\" with screen.kind = \"norm_bound\"; allowed: \"clip\", \"reject\"";
    assert_eq!(weighed, [expected]);
}

#[test]
fn a_guard_drops_what_it_calls_unsafe_unless_it_is_told_otherwise() {
    let resolved = |text: &str| {
        let (_folder, path) = file(&format!("{HEAD}[guard]\nenabled = true\n{text}"));
        load(&path, &[]).unwrap().scenarios.remove(0)
    };
    let plain = resolved("").guard.unwrap();
    assert_eq!((plain.policy, plain.assess), (PolicyName::Drop, Assessed::Both));
    let told = resolved("policy = \"reweight\"\nassess = \"response\"\n");
    let guard = told.guard.unwrap();
    assert_eq!((guard.policy, guard.assess), (PolicyName::Reweight, Assessed::Response));
    assert_eq!(guard.classifier(), plain);
    assert!(told.assumptions.iter().any(|assumption| assumption.contains("1 - P(unsafe) times")));
    let found = complaints(&format!("{HEAD}[guard]\npolicy = \"delete\"\nassess = \"both\"\n"), &[]);
    assert!(found[0].starts_with("test.toml:4: guard.policy: unknown variant `delete`"), "{found:?}");
    assert!(found[0].contains("`drop`, `replace`, `reweight`"), "{found:?}");
}

#[test]
fn a_start_path_goes_with_its_kind_alone() {
    let found = complaints(&format!("{HEAD}[start]\nkind = \"aligned\"\npath = \"x\"\n"), &[]);
    assert_eq!(found, ["test.toml:5: start.path: is set, but only start.kind = \"adapter\" reads it"]);
    let found = complaints(&format!("{HEAD}[start]\nkind = \"adapter\"\n"), &[]);
    assert_eq!(found, ["test.toml:4: start.kind: found \"adapter\", which needs start.path: a PEFT directory"]);
    let found = complaints(&format!("{HEAD}[start]\nkind = \"adapter\"\npath = \"nowhere\"\n"), &[]);
    assert!(found[0].starts_with("test.toml:5: start.path: found no adapter_config.json in "), "{found:?}");
}

#[test]
fn a_strategy_reads_its_own_settings_alone() {
    let with = |text: &str| complaints(&format!("{HEAD}[federation]\n{text}"), &[]);
    let found = with("strategy = \"fedavgm2\"\n");
    let known = "fedavg, fedprox, fedavgm, fedadagrad, fedyogi, fedadam, scaffold";
    assert_eq!(found, [format!("test.toml:4: federation.strategy: found \"fedavgm2\"; allowed: {known}")]);
    let found = with("strategy = \"scaffold\"\nstrategy_settings.beta1 = 0.5\n");
    let unread = "is set, but scaffold does not read it; read by fedavgm, fedyogi, fedadam";
    assert_eq!(found, [format!("test.toml:5: federation.strategy_settings.beta1: {unread}")]);
    let found = with("strategy = \"scaffold\"\nstrategy_settings.flavour = \"flower\"\n");
    let flavour = "found \"flower\"; allowed with scaffold: \"paper\", \"openfedllm\"";
    assert_eq!(found, [format!("test.toml:5: federation.strategy_settings.flavour: {flavour}")]);
    let found =
        with("strategy = \"fedavgm\"\nstrategy_settings = { flavour = \"openfedllm\", server_learning_rate = 0.5 }\n");
    assert!(found[0].contains("server_learning_rate: is set, but fedavgm does not read it"), "{found:?}");
    let found = with("strategy = \"fedadam\"\nstrategy_settings.tau = 0.0\n");
    assert_eq!(found, ["test.toml:5: federation.strategy_settings.tau: found 0; allowed: above 0"]);
}

#[test]
fn a_strategy_without_settings_has_its_form_s_own() {
    let strategy = |text: &str| {
        let (_folder, path) = file(&format!("{HEAD}[federation]\n{text}"));
        load(&path, &[]).unwrap().scenarios.remove(0).federation.strategy
    };
    let settings =
        AdaptiveSettings { flavour: Flavour::Paper, server_learning_rate: 1e-3, beta1: 0.5, beta2: 0.99, tau: 1e-3 };
    let yogi = "strategy = \"fedyogi\"\nstrategy_settings.beta1 = 0.5\n";
    assert_eq!(strategy(yogi), FederatedAlgorithm::FedYogi(settings));
    let flower = AdaptiveSettings { flavour: Flavour::Flower, server_learning_rate: 1e-2, ..settings };
    let found = strategy(&format!("{yogi}strategy_settings.flavour = \"flower\"\n"));
    assert_eq!(found, FederatedAlgorithm::FedYogi(flower));
    let momentum = MomentumSettings { flavour: Flavour::OpenFedLlm, server_learning_rate: 1.0, beta1: 0.9 };
    let found = strategy("strategy = \"fedavgm\"\nstrategy_settings.flavour = \"openfedllm\"\n");
    assert_eq!(found, FederatedAlgorithm::FedAvgM(momentum));
}

#[test]
fn the_scenarios_that_come_along_are_valid() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    let files = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_scenario = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    for path in files(folder.join("paper")).chain(files(folder)).filter(is_scenario) {
        let is_grid = path.parent().is_some_and(|parent| parent.ends_with("paper"));
        let found = if is_grid {
            load_grid(&path, &[]).map(|grid| grid.cells)
        } else {
            load(&path, &[]).map(|file| file.scenarios)
        };
        match found {
            Ok(scenarios) => assert!(!scenarios.is_empty()),
            // One that names files of the user's own can lack nothing else.
            Err(error) => {
                assert!(["llama-3.1-8b.toml", "real-rows.toml"].iter().any(|name| path.ends_with(name)), "{error}");
                let is_missing = |message: &str| message.contains("no file") || message.contains("no guard.json");
                assert!(error.problems.iter().all(|problem| is_missing(&problem.message)), "{error}");
            }
        }
        count += 1;
    }
    assert!(count >= 4, "found {count} scenarios");
}

#[test]
fn answers_are_told_apart_by_a_guard_alone() {
    let found = complaints(&format!("{HEAD}[cai]\nschedule = \"last_round\"\nrevise = \"unsafe\"\n"), &[]);
    assert!(found[0].starts_with("test.toml:5: cai.revise: found \"unsafe\", but there is no guard"), "{found:?}");
    let guarded = format!("{HEAD}[cai]\nschedule = \"last_round\"\nrevise = \"unsafe\"\n[guard]\nenabled = true\n");
    let (_folder, path) = file(&guarded);
    let resolved = |set: &str| load(&path, &[set.to_owned()]).unwrap().scenarios.remove(0);
    let plain = resolved("seed=1");
    assert_eq!(plain.cai.unwrap().revise, Revise::Unsafe { surely_safe: 0.1 });
    assert!(plain.assumptions.iter().any(|assumption| assumption.contains("(P(unsafe) below 0.1) are kept")));
    assert_eq!(resolved("cai.surely_safe=0.25").cai.unwrap().revise, Revise::Unsafe { surely_safe: 0.25 });
}

#[test]
fn how_sure_the_guard_is_to_be_is_a_probability_that_only_revise_unsafe_reads() {
    let guarded = format!("{HEAD}[guard]\nenabled = true\n[cai]\nschedule = \"every\"\n");
    let found = complaints(&format!("{guarded}surely_safe = 1.5\n"), &[]);
    assert_eq!(found, ["test.toml:7: cai.surely_safe: found 1.5; allowed: from 0 to 1"]);
    let unread = "test.toml:7: cai.surely_safe: is set, but only revise = \"unsafe\" reads it";
    assert_eq!(complaints(&format!("{guarded}surely_safe = 0.5\nrevise = \"all\"\n"), &[]), [unread]);
    let unguarded = guarded.replace("true", "false");
    assert_eq!(complaints(&format!("{unguarded}surely_safe = 0.5\n"), &[]), [unread]);
}

#[test]
fn one_step_is_not_several() {
    let (_folder, path) = file(&format!("{HEAD}[cai]\nschedule = \"every\"\ndpo.steps = 1\nsteps = 2\n"));
    let scenario = load(&path, &[]).unwrap().scenarios.remove(0);
    let assumption = scenario.assumptions.iter().find(|assumption| assumption.contains("DPO")).unwrap();
    assert!(
        assumption.contains("; 1 step of DPO on") && assumption.contains("; 2 steps of fine-tuning"),
        "{assumption}"
    );
}

#[test]
fn settings_of_benchmarks_and_trainings_arrive() {
    let text = format!(
        "{HEAD}[evaluation]\nadvbench_suffix = \".\"\nadvbench_goals = \"all\"\nbase = true\nxstest_prompts = 7\n\
         mt_bench_questions = 3\n[cai]\nschedule = \"every\"\nexamples = \"all_turns\"\n\
         lr_schedule = {{ kind = \"cosine\", warmup_ratio = 0.1 }}\n\
         dpo.lr_schedule = {{ kind = \"linear\", warmup_ratio = 0.2 }}\n"
    );
    let (_folder, path) = file(&text);
    let scenario = load(&path, &[]).unwrap().scenarios.remove(0);
    let evaluation = &scenario.evaluation;
    assert_eq!((evaluation.advbench_suffix.as_str(), evaluation.advbench_goals), (".", MeasuredGoals::All));
    assert_eq!((evaluation.xstest_prompts, evaluation.mt_bench_questions, evaluation.base), (Some(7), Some(3), true));
    let cai = scenario.cai.unwrap();
    assert_eq!(cai.training.schedule, LrSchedule::Cosine { warmup_ratio: 0.1 });
    assert_eq!(cai.dpo.schedule, LrSchedule::Linear { warmup_ratio: 0.2 });
    assert_eq!(cai.examples, Examples::AllTurns);
    let said = scenario.assumptions.join("\n");
    assert!(said.contains("all goals") && said.contains("in front of all three turns"), "{said}");
    let judge = "evaluation.judge={ base_url = \"http://127.0.0.1:1/v1\", model = \"m\", extra_body = { seed = 1 } }";
    let sets = ["evaluation.benches=[\"mt_bench\"]", judge].map(str::to_owned);
    let judged = load(&path, &sets).unwrap().scenarios.remove(0);
    assert_eq!(judged.evaluation.judge.unwrap().extra_body, ExtraBody::parse("{\"seed\": 1}").unwrap());
    let refused = judge.replace("seed = 1", "stream = true");
    let found = load(&path, &[sets[0].clone(), refused]).unwrap_err().to_string();
    assert!(found.contains("evaluation.judge.extra_body: found stream, which cannot be set here"), "{found}");
    // What is as it always was does not tell a run apart from earlier ones.
    let (_folder, path) = file(&format!("{HEAD}[cai]\nschedule = \"every\"\n"));
    let plain = serde_json::to_value(&load(&path, &[]).unwrap().scenarios[0]).unwrap();
    assert!(plain["evaluation"].get("advbench_goals").is_none() && plain["cai"].get("examples").is_none(), "{plain}");
}

#[test]
fn what_saves_memory_arrives_wherever_an_adapter_is_trained() {
    let text =
        format!("{HEAD}[training]\npass_tokens = 64\ncheckpoint_activations = true\n[cai]\nschedule = \"every\"\n");
    let (_folder, path) = file(&text);
    let quantize = ["model.quantize=nf4".to_owned()];
    let scenario = load(&path, &quantize).unwrap().scenarios.remove(0);
    let cai = scenario.cai.unwrap();
    for sft in [&scenario.training.sft, &cai.training] {
        assert_eq!((sft.pass_tokens, sft.checkpoint_activations), (Some(64), true));
    }
    assert_eq!((cai.dpo.pass_tokens, cai.dpo.checkpoint_activations), (Some(64), true));
    assert_eq!(scenario.model.quantize, Some(Quantization::Nf4));
}

#[test]
fn a_rank_that_is_mistyped_does_not_fill_the_memory() {
    let found = complaints(HEAD, &["lora.rank=10000000"]);
    assert_eq!(found, ["--set lora.rank=10000000: lora.rank: found 10000000; allowed: 1 to 4096"]);
}
