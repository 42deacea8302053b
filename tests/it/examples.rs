//! The examples, run on the real model: what a program plugs in keeps run directory, report and resume.

use std::{error::Error, fs, path::Path};

use fedward::{Experiment, Outcome, experiment::Existing};
use serde_json::{Value, json};

use crate::{run::TINY, support::home};

#[expect(dead_code, reason = "its `main` parses arguments")]
#[path = "../../examples/own_attack.rs"]
mod own_attack;
#[expect(dead_code, reason = "its `main` parses arguments")]
#[path = "../../examples/own_benchmark.rs"]
mod own_benchmark;
#[expect(dead_code, reason = "its `main` parses arguments")]
#[path = "../../examples/own_guard.rs"]
mod own_guard;
#[expect(dead_code, reason = "its `main` parses arguments")]
#[path = "../../examples/own_strategy.rs"]
mod own_strategy;
#[expect(dead_code, reason = "its `main` parses arguments")]
#[path = "../../examples/run_scenario.rs"]
mod run_scenario;

type Example = fn(&str, &str, &[String]) -> Result<Outcome, Box<dyn Error>>;

/// One round of two clients, with as little before and behind it as there can be.
const SHORT: [&str; 6] = [
    "federation.rounds=1",
    "guard.enabled=false",
    "cai.schedule=never",
    "evaluation.schedule=never",
    "evaluation.benches=[\"utility\"]",
    "evaluation.interim_benches=[]",
];

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn examples_run_and_what_they_plug_in_is_recorded_reported_and_resumed_under_its_name() {
    assert!(home().join("data/advbench").is_dir(), "`make fetch` fetches what this test needs");
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("short.toml");
    fs::write(&scenario, TINY).unwrap();
    let (scenario, sets) = (scenario.to_str().unwrap(), SHORT.map(str::to_owned));
    let examples: [(&str, Example); 5] = [
        ("plain", run_scenario::run),
        ("strategy", own_strategy::run),
        ("guard", own_guard::run),
        ("benchmark", own_benchmark::run),
        ("attack", own_attack::run),
    ];
    let out = |name: &str| folder.path().join(name);
    let [plain, strategy, guard, benchmark, attack] = examples.map(|(name, example)| {
        let outcome = example(scenario, out(name).to_str().unwrap(), &sets).unwrap();
        assert!(outcome.comparison().contains("perplexity"), "{}", outcome.comparison());
        outcome.runs.into_iter().next().unwrap()
    });
    let extensions = |name: &str| read(&out(name).join("manifest.json"))["scenario"].get("extensions").cloned();
    assert_eq!(["plain", "strategy"].map(extensions), [None, Some(json!(["median 1"]))]);
    // The median of two updates is their mean, that of clients with as many rows each.
    let distance = plain.eval["utility"].values["perplexity"] - strategy.eval["utility"].values["perplexity"];
    assert!(distance.abs() < 1e-3, "{distance}");
    assert!(guard.totals.rows.filtered > 0 && plain.totals.rows.filtered == 0, "{:?}", guard.totals.rows);
    assert_eq!(plain.adapter_sha256, benchmark.adapter_sha256, "measuring changes nothing");
    assert_ne!(plain.adapter_sha256, attack.adapter_sha256);
    let clients = fs::read_to_string(out("attack").join("clients.jsonl")).unwrap();
    for client in clients.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        assert_eq!(client["role"] == "malicious", client["client"].as_u64().unwrap() % 2 == 0, "{client}");
        assert_eq!(client["outcome"], "accepted", "{client}");
    }
    for eval in [&benchmark.start_eval, &benchmark.eval] {
        assert!(eval["sums"].n == 2 && (0.0..=1.0).contains(&eval["sums"].values["accuracy"]), "{eval:?}");
    }
    let page = fs::read_to_string(out("benchmark").join("report.html")).unwrap();
    assert!(page.contains("sums"), "the report says nothing of the benchmark");

    // Completed, it is known again; under another name it is another run.
    let resumed = |experiment: Experiment| {
        experiment.sets(&sets).out(out("strategy")).existing(Existing::Resume).run().map_err(|error| error.to_string())
    };
    let again = resumed(Experiment::from_file(scenario).ports("median 1", |_, _| panic!("it is complete")));
    assert_eq!(again.unwrap().runs[0].adapter_sha256, strategy.adapter_sha256);
    let refused = resumed(Experiment::from_file(scenario).ports("median 2", |_, _| {})).unwrap_err();
    assert!(refused.contains("extensions"), "{refused}");
}
