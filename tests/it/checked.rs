//! `fedward check` on the directories of runs: what is whole holds, what is damaged is named.

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json};

use crate::{
    run::{TINY, assert_success},
    support::fedward,
};

/// Damages a run directory.
type Damage = Box<dyn Fn(&Path)>;

/// A tiny run whose clients all die once.
fn run(folder: &Path) {
    let scenario = folder.join("tiny.toml");
    fs::write(&scenario, TINY).unwrap();
    let mut command = fedward();
    command.arg("run").arg(&scenario).arg("--out").arg(folder.join("whole")).args(["--metrics", "off"]);
    for set in
        ["cai.schedule=never", "evaluation.schedule=never", "faults.crash=1", "evaluation.benches=[\"advbench\"]"]
    {
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
    run(folder.path());
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
    let damages: [(&str, Damage); 12] = [
        ("R-1", Box::new(clients(|rows| drop(rows.pop())))),
        ("R-1", Box::new(clients(|rows| rows[0]["client"] = json!(17)))),
        ("R-1", Box::new(rounds(|rows| rows[1]["accepted"] = json!(1)))),
        ("R-1", Box::new(rounds(|rows| drop(rows.remove(0))))),
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
    several_runs_are_told_apart(folder.path());
}

fn several_runs_are_told_apart(folder: &Path) {
    let checked = check(folder);
    assert_eq!(checked.status.code(), Some(1));
    let text = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(text.lines().filter(|line| line.starts_with("R-1 ")).count(), 13);
    assert!(text.contains(&folder.join("whole").display().to_string()), "{text}");
    let refused = fedward().arg("check").arg(folder).args(["--set", "seed=1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected with a scenario file"));
    let empty = check(&folder.join("whole/checkpoints"));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("holds no run"));
}
