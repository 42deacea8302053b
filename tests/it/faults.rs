//! Faults that a scenario puts in, through the program: what they do to a run, and where they are told.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    run::{TINY, assert_success},
    support::fedward,
};

/// A tiny run with its faults; what is on its standard error.
fn run(out: &Path, faults: &[&str]) -> String {
    let scenario = out.with_extension("toml");
    fs::write(&scenario, TINY).unwrap();
    let mut command = fedward();
    command.arg("run").arg(&scenario).arg("--out").arg(out).args(["--metrics", "off"]);
    for set in ["cai.schedule=never", "evaluation.schedule=never"].iter().chain(faults) {
        command.args(["--set", set]);
    }
    let done = command.output().unwrap();
    assert_success(&done);
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn f_1_the_dead_who_are_asked_again_change_no_byte_and_the_silent_train_on_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, dying, silent] = ["plain", "dying", "silent"].map(|name| folder.path().join(name));
    run(&plain, &[]);

    let told = run(&dying, &["faults.crash=1", "faults.aggregator_crash=1", "faults.rounds=[2]"]);
    assert!(told.contains("put in on purpose: aggregator_crash 1, crash 2"), "{told}");
    let adapter = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&dying), adapter(&plain));
    let clients = rows(&dying.join("clients.jsonl"));
    let seen: Vec<_> = clients.iter().map(|client| (client["attempt"].clone(), client.get("fault").cloned())).collect();
    assert_eq!(seen[..2], [(json!(1), None), (json!(1), None)]);
    assert_eq!(seen[2..], [(json!(2), Some(json!("crash"))), (json!(2), Some(json!("crash")))]);
    assert_eq!(read(&dying.join("summary.json"))["totals"]["faults"], json!({"aggregator_crash": 1, "crash": 2}));
    let metrics = fs::read_to_string(dying.join("metrics.prom")).unwrap();
    assert!(metrics.contains("fedward_faults_total{variant=\"tiny\",fault=\"crash\"} 2"), "{metrics}");
    for (kind, deaths) in [("client", 2), ("aggregator", 1)] {
        let series = format!("fedward_actor_restarts_total{{variant=\"tiny\",kind=\"{kind}\"}} {deaths}");
        assert!(metrics.contains(&series), "{metrics}");
    }

    run(&silent, &["faults.guard_outage=1"]);
    assert_ne!(adapter(&silent), adapter(&plain));
    let totals = &read(&silent.join("summary.json"))["totals"];
    assert_eq!((&totals["train_tokens"], &totals["dropped"], &totals["committed"]), (&json!(0), &json!(4), &json!(0)));
    let page = fs::read_to_string(silent.join("report.html")).unwrap();
    assert!(page.contains("put in on purpose: guard_outage 2"), "the report says nothing of faults");
}
