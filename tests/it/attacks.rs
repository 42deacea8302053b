//! Attackers and simulated time, through the program: who is malicious, what enters, what a resumed run goes on with.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    run::{TINY, assert_success},
    support::fedward,
};

/// A tiny run without guard, alignment and evaluation.
fn run(out: &Path, more: &[&str], sets: &[&str]) {
    let scenario = out.with_extension("toml");
    fs::write(&scenario, TINY).unwrap();
    let mut command = fedward();
    command.arg("run").arg(&scenario).arg("--out").arg(out).args(["--metrics", "off"]).args(more);
    for set in ["cai.schedule=never", "evaluation.schedule=never", "guard.enabled=false", "federation.clients=4"]
        .iter()
        .chain(sets)
    {
        command.args(["--set", set]);
    }
    assert_success(&command.output().unwrap());
}

fn clients(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("clients.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn adapter(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn attackers_stay_malicious_and_what_they_send_is_aggregated_or_screened() {
    let folder = tempfile::tempdir().unwrap();
    let [peaceful, flipped, bounded, backdoor] =
        ["peaceful", "flipped", "bounded", "backdoor"].map(|name| folder.path().join(name));
    let everybody = "federation.cohort=4";
    let flip = r#"attack=[{ kind = "sign_flip", clients = [1], settings = { scale = 50.0 } }]"#;
    run(&peaceful, &[], &[everybody]);
    run(&flipped, &[], &[everybody, flip]);
    run(&bounded, &[], &[everybody, flip, "screen.kind=norm_bound", "screen.action=reject"]);
    run(&backdoor, &[], &[everybody, r#"attack=[{ kind = "backdoor", clients = 0.25 }]"#]);
    assert!(clients(&peaceful).iter().all(|client| client["role"] == "honest"));
    for attacked in [&flipped, &bounded] {
        for client in clients(attacked) {
            let is_attacker = client["client"] == json!(1);
            assert_eq!(client["role"] == "malicious", is_attacker, "{client}");
            let is_out = is_attacker && attacked == &bounded;
            assert_eq!(client["outcome"] == "accepted", !is_out, "{client}");
        }
    }
    // The attacker trains as it did, and sends the mean of the others' deltas fifty times over.
    let norm = |run: &Path| clients(run)[1]["update_norm"].as_f64().unwrap();
    assert!(norm(&flipped) > 10.0 * norm(&peaceful), "{} {}", norm(&flipped), norm(&peaceful));
    assert_eq!(clients(&flipped)[1]["train_loss"], clients(&peaceful)[1]["train_loss"]);
    assert_ne!(adapter(&flipped), adapter(&peaceful));
    let malicious: Vec<_> = clients(&backdoor).into_iter().filter(|client| client["role"] == "malicious").collect();
    assert_eq!(malicious.len(), 2, "one of four clients in two rounds");
    assert_ne!(adapter(&backdoor), adapter(&peaceful));
    let manifest = fs::read_to_string(backdoor.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"backdoor\""), "the manifest says nothing of the attack");
}

#[test]
fn a_buffer_goes_on_with_what_was_under_way_and_counts_it_with_its_staleness() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(name));
    let sets = [
        "federation.cohort=3",
        "federation.rounds=3",
        "federation.strategy=scaffold",
        "devices.tokens_per_second=10.0",
        "devices.spread=1.0",
        "gather.first=1",
        "gather.late=count",
    ];
    run(&whole, &[], &sets);
    let staleness: Vec<u64> = clients(&whole).iter().map(|client| client["staleness"].as_u64().unwrap_or(0)).collect();
    assert_eq!(staleness.len(), 3, "one update a round");
    assert!(staleness.iter().any(|&staleness| staleness > 0), "{staleness:?}");
    let rounds = fs::read_to_string(whole.join("rounds.jsonl")).unwrap();
    let times: Vec<f64> = rounds
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["simulated_seconds"].as_f64().unwrap())
        .collect();
    assert!(times[0] > 0.0 && times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");

    // As after a crash before the last round's row.
    run(&cut, &[], &sets);
    let path = cut.join("rounds.jsonl");
    let kept = rounds_of(&path)[..2].join("\n") + "\n";
    fs::write(&path, kept).unwrap();
    run(&cut, &["--resume"], &sets);
    assert_eq!(adapter(&cut), adapter(&whole));
    assert_eq!(clients(&cut).len(), 3);
}

fn rounds_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}
