//! Rows that belong to clients: a file for each, or the values of a column.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{hugging_face::directory, support::fedward};

const SCENARIO: &str = r#"
name = "own"
question = "who holds what?"
[model]
base = "model"
[lora]
rank = 2
[federation]
clients = 3
cohort = 3
rounds = 1
[data]
benign.source = "clients"
[training]
local_steps = 2
batch_size = 2
[evaluation]
benches = ["utility"]
utility_rows = 2
"#;

/// A folder with a tiny model, three files of 4, 6 and 8 rows, and one of all of them.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::rename(directory().keep(), folder.path().join("model")).unwrap();
    fs::create_dir(folder.path().join("clients")).unwrap();
    let mut all = Vec::new();
    for (client, rows) in [("a", 4), ("b", 6), ("c", 8)] {
        let row = |number| json!({"prompt": format!("abba {client} {number}"), "response": "ab", "town": client, "year": rows});
        let lines: Vec<_> = (0..rows).map(|number| row(number).to_string()).collect();
        fs::write(folder.path().join(format!("clients/{client}.jsonl")), lines.join("\n")).unwrap();
        all.extend(lines);
    }
    fs::write(folder.path().join("clients/notes.txt"), "not rows").unwrap();
    fs::write(folder.path().join("all.jsonl"), all.join("\n")).unwrap();
    fs::write(folder.path().join("own.toml"), SCENARIO).unwrap();
    folder
}

/// Whether a run succeeds, and what it prints.
fn run(folder: &Path, out: &str, sets: &[&str]) -> (bool, String) {
    let mut command = fedward();
    command.arg("run").arg(folder.join("own.toml")).arg("--out").arg(folder.join(out)).args(["--metrics", "off"]);
    let output = command.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

/// What a run says of its clients' rows: all, trained on; and the checksum of who holds what.
fn rows(folder: &Path, out: &str) -> (u64, Value) {
    let json = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join(out).join(name)).unwrap()).unwrap()
    };
    let totals = &json("summary.json")["totals"];
    let count = totals["rows_kept"].as_u64().unwrap() + totals["rows_filtered"].as_u64().unwrap();
    (count, json("manifest.json")["checksums"]["client_rows_sha256"].clone())
}

#[test]
fn clients_hold_their_files_or_the_values_of_a_column() {
    let folder = folder();
    let folder = folder.path();
    let (is_ok, told) = run(folder, "files", &[]);
    assert!(is_ok, "{told}");
    let (count, held) = rows(folder, "files");
    // Of 18 rows two are held out.
    assert_eq!(count, 16);
    let by_town = ["data.benign.source=all.jsonl", "data.partition=value", "data.partition_column=town"];
    let (is_ok, told) = run(folder, "town", &by_town);
    assert!(is_ok, "{told}");
    assert_eq!(rows(folder, "town"), (16, held.clone()), "the same rows, dealt in the same way");
    // Numbers are values, too, and two clients divide what three would have.
    let by_year = ["data.benign.source=all.jsonl", "data.partition=value", "data.partition_column=year"];
    let (is_ok, told) = run(folder, "year", &[&by_year[..], &["federation.clients=2", "federation.cohort=2"]].concat());
    assert!(is_ok, "{told}");
    assert_eq!(rows(folder, "year").0, 16);
    let dirichlet = [
        "data.benign.source=all.jsonl",
        "data.partition=dirichlet",
        "data.partition_column=town",
        "data.partition_alpha=0.1",
        "data.rows_per_client=5",
    ];
    let (is_ok, told) = run(folder, "dirichlet", &dirichlet);
    assert!(is_ok, "{told}");
    assert_eq!(rows(folder, "dirichlet").0, 15);
    // Two of three files: the third is not read, and that is said.
    fs::write(folder.join("clients/c.jsonl"), "").unwrap();
    let (is_ok, told) = run(folder, "two", &["federation.clients=2", "federation.cohort=2"]);
    assert!(is_ok && told.contains("assumed: clients hold the first 2 of 3 files of "), "{told}");
    assert_eq!(rows(folder, "two").0, 8);
    let (is_ok, told) = run(folder, "empty", &[]);
    assert!(!is_ok && told.contains("c.jsonl: found no rows"), "{told}");
}

#[test]
fn what_does_not_fit_is_told_before_anything_runs() {
    let folder = folder();
    let folder = folder.path();
    let all = "data.benign.source=all.jsonl";
    for (sets, problem) in [
        (&["federation.clients=4"][..], "found 3 files of rows"),
        (&["data.partition=value"], "data.partition: is set, but data.benign.source is a folder"),
        (&[all, "data.partition_column=town"], "data.partition_column: is set, but data.partition is not"),
        (&[all, "data.partition=value"], "line 1: found no topic"),
        (&[all, "data.partition=dirichlet"], "topic: found none in all rows"),
        (&[all, "data.partition=value", "data.partition_column=country"], "line 1: missing key country"),
        (
            &[all, "data.partition=value", "data.partition_column=response"],
            "response: found the same value in all rows",
        ),
        (&["data.harmful.source=clients"], "data.harmful.source: found the folder"),
        (&["data.benign.source=everyday", "data.partition=value", "data.partition_column=town"], "\"topic\""),
        (
            &[all, "data.partition=value", "data.partition_column=town", "federation.clients=60"],
            "clients would hold no row",
        ),
        (&["evaluation.utility_rows=18"], "have rows left to train on"),
    ] {
        let (is_ok, told) = run(folder, "out", sets);
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!is_ok && told.contains(problem), "{sets:?}: {told}");
    }
}
