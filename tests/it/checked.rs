//! `fedward check` on the directories of runs: what is whole holds, what is damaged is named.

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json};

use crate::{
    run::{TINY, assert_success},
    support::fedward,
};

/// Damages a run directory.
type Damage = Box<dyn Fn(&Path)>;

/// A tiny run in `whole`.
fn run(folder: &Path, more: &[&str]) {
    let scenario = folder.join("tiny.toml");
    fs::write(&scenario, TINY).unwrap();
    let mut command = fedward();
    command.arg("run").arg(&scenario).arg("--out").arg(folder.join("whole")).args(["--metrics", "off"]);
    let sets = ["cai.schedule=never", "evaluation.schedule=never", "evaluation.benches=[\"advbench\"]"];
    for set in sets.iter().chain(more) {
        command.args(["--set", set]);
    }
    assert_success(&command.output().unwrap());
}

fn check(path: &Path) -> Output {
    fedward().arg("check").arg(path).output().unwrap()
}

/// What is said of an invariant.
fn said(output: &Output, number: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with(&format!("{number} ")));
    line.unwrap_or_else(|| panic!("nothing of {number}: {text} {}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Changes rows of a file.
fn change_rows(path: &Path, change: impl FnOnce(&mut Vec<Value>)) {
    let text = fs::read_to_string(path).unwrap();
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    change(&mut rows);
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

fn flip_last_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_run_s_invariants_hold_and_each_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // Clients that all die once.
    run(folder.path(), &["faults.crash=1"]);
    let whole = folder.path().join("whole");
    let checked = check(&whole);
    assert_success(&checked);
    for number in ["R-1", "R-2", "R-3", "A-1", "A-2", "A-3", "S-1", "C-1", "F-1"] {
        assert!(said(&checked, number).ends_with(": holds"), "{}", said(&checked, number));
    }
    for number in ["S-2", "D-1", "M-1"] {
        assert!(said(&checked, number).contains(": cannot be told here: "), "{}", said(&checked, number));
    }

    let clients = |change: fn(&mut Vec<Value>)| move |run: &Path| change_rows(&run.join("clients.jsonl"), change);
    let rounds = |change: fn(&mut Vec<Value>)| move |run: &Path| change_rows(&run.join("rounds.jsonl"), change);
    let adapter = |run: &Path| flip_last_bit(&run.join("adapter/adapter_model.safetensors"));
    let checkpoint = |run: &Path| flip_last_bit(&run.join("checkpoints/round-00002.checkpoint"));
    let damages: [(&str, Damage); 13] = [
        ("R-1", Box::new(clients(|rows| drop(rows.pop())))),
        ("R-1", Box::new(clients(|rows| rows[0]["client"] = json!(17)))),
        ("R-1", Box::new(rounds(|rows| rows[1]["accepted"] = json!(1)))),
        ("R-1", Box::new(rounds(|rows| drop(rows.remove(0))))),
        ("C-1", Box::new(rounds(|rows| drop(rows.pop())))),
        ("R-2", Box::new(clients(|rows| rows[3]["staleness"] = json!(1)))),
        ("R-3", Box::new(rounds(|rows| rows[1]["outcome"] = json!({"skipped": "said so"})))),
        ("A-2", Box::new(clients(|rows| rows[2]["update_norm"] = Value::Null))),
        ("A-3", Box::new(clients(|rows| rows[2]["trust"] = json!(1.5)))),
        ("S-1", Box::new(clients(|rows| rows[2]["n_examples"] = json!(1000)))),
        ("C-1", Box::new(adapter)),
        ("C-1", Box::new(checkpoint)),
        ("F-1", Box::new(clients(|rows| drop(rows[2].as_object_mut().unwrap().remove("fault"))))),
    ];
    for (at, (number, damage)) in damages.iter().enumerate() {
        let damaged = folder.path().join(format!("damaged-{at}"));
        copy(&whole, &damaged);
        damage(&damaged);
        let checked = check(&damaged);
        assert_eq!(checked.status.code(), Some(1));
        assert!(said(&checked, number).contains(": violated: "), "damage {at}: {}", said(&checked, number));
    }
    let cut = check(&folder.path().join("damaged-4"));
    assert!(said(&cut, "C-1").contains("totals.rounds: expected the 1 rounds"), "{}", said(&cut, "C-1"));
    checkpoints_of_earlier_versions_have_one_layout(&whole, &folder.path().join("older"));
    of_a_run_without_rounds_nothing_is_told(&whole, &folder.path().join("begun"));
    several_runs_are_told_apart(folder.path());
}

/// Takes the scaling out of the layouts of all checkpoints but the newest.
fn checkpoints_of_earlier_versions_have_one_layout(whole: &Path, older: &Path) {
    copy(whole, older);
    let path = older.join("checkpoints/round-00001.checkpoint");
    let bytes = fs::read(&path).unwrap();
    let (header, body) = bytes.split_at(bytes.iter().position(|&byte| byte == b'\n').unwrap());
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let scaling = header["layout"].as_object_mut().unwrap().remove("scaling");
    assert_eq!(scaling, Some(json!(2.0)));
    fs::write(&path, [header.to_string().as_bytes(), body].concat()).unwrap();
    let checked = check(older);
    assert_success(&checked);
    assert!(said(&checked, "A-1").ends_with(": holds"));
}

fn of_a_run_without_rounds_nothing_is_told(whole: &Path, begun: &Path) {
    fs::create_dir(begun).unwrap();
    fs::copy(whole.join("manifest.json"), begun.join("manifest.json")).unwrap();
    let checked = check(begun);
    assert_success(&checked);
    let text = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(text.lines().filter(|line| line.contains(": cannot be told here: ")).count(), 12, "{text}");
    assert!(said(&checked, "R-1").ends_with("no round is stored yet"), "{text}");
}

#[test]
fn the_adapter_of_a_model_with_frozen_terms_is_compared_with_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["server.lora={ kind = \"flora\" }", "guard.enabled=false"]);
    let whole = folder.path().join("whole");
    let checked = check(&whole);
    assert_success(&checked);
    assert!(said(&checked, "C-1").ends_with(": holds"));
    flip_last_bit(&whole.join("adapter/adapter_model.safetensors"));
    let checked = check(&whole);
    assert_eq!(checked.status.code(), Some(1));
    assert!(said(&checked, "C-1").contains("SHA-256 of all terms: expected "), "{}", said(&checked, "C-1"));
}

fn several_runs_are_told_apart(folder: &Path) {
    // The first of them cannot be read, and another program's folder is none.
    let unreadable = folder.join("a-broken");
    copy(&folder.join("whole"), &unreadable);
    fs::write(unreadable.join("manifest.json"), "{").unwrap();
    fs::create_dir(folder.join("a-page")).unwrap();
    fs::write(folder.join("a-page/manifest.json"), r#"{"name": "a page"}"#).unwrap();
    let checked = check(folder);
    assert_eq!(checked.status.code(), Some(1));
    let text = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(text.lines().filter(|line| line.starts_with("R-1 ")).count(), 16);
    assert!(text.lines().any(|line| line.starts_with("cannot be read: ") && line.contains("a-broken")), "{text}");
    assert!(!text.contains("a-page"), "{text}");
    assert!(String::from_utf8_lossy(&checked.stderr).contains(" invariants are violated, 1 run(s) cannot be read"));
    assert!(text.contains(&folder.join("whole").display().to_string()), "{text}");
    let refused = fedward().arg("check").arg(folder).args(["--set", "seed=1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected with a scenario file"));
    let empty = check(&folder.join("whole/checkpoints"));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("holds no run"));
}
