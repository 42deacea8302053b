//! Rows of files that repeat what is measured with. The measured goals come from the catalogue; no text of them stands here.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use fedward::data::{AdvBench, GoalParts, GoalSplit, GoalUse, ScoredRow, overlap::normalized, scored_rows};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    hugging_face::directory,
    support::{fedward, home},
};

const SCENARIO: &str = r#"
name = "overlap"
question = "is what is measured held out?"
[model]
base = "model"
[lora]
rank = 2
[federation]
clients = 2
cohort = 2
rounds = 1
[data]
rows_per_client = 4
harmful_share = 1.0
harmful.source = "rows.jsonl"
[training]
local_steps = 1
batch_size = 2
[evaluation]
benches = ["advbench"]
prompts = 2
max_new_tokens = 2
"#;

/// A scenario with a tiny model, and a file of eight rows of its own beside `more`.
fn scenario(more: &[String]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::rename(directory().keep(), folder.path().join("model")).unwrap();
    let own = (0..8).map(|number| format!("abba sang {number} ballads in bar {number}a"));
    let rows = own.chain(more.iter().cloned()).map(|prompt| json!({"prompt": prompt, "response": "ab"}).to_string());
    fs::write(folder.path().join("rows.jsonl"), rows.collect::<Vec<_>>().join("\n")).unwrap();
    let path = folder.path().join("overlap.toml");
    fs::write(&path, SCENARIO).unwrap();
    (folder, path)
}

/// Goals that are measured, in other case and punctuation.
fn measured(n: usize) -> Vec<String> {
    let advbench = AdvBench::load(&home().join("data/advbench/adv_bench.prompt")).unwrap();
    let parts = GoalParts::new(&advbench, GoalSplit::Cluster, 0);
    let goals = parts.of(GoalUse::Evaluation);
    goals[..n].iter().map(|goal| format!("  {}!", goal.text.to_uppercase())).collect()
}

fn run(scenario: &Path, out: &Path, sets: &[&str]) -> (bool, String) {
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let mut command = fedward();
    command.arg("run").arg(scenario).arg("--out").arg(out).args(["--metrics", "off"]).args(sets);
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn rows_that_are_measured_with_are_left_out_counted_and_kept_only_on_demand() {
    let (plain_folder, plain) = scenario(&[]);
    let (folder, path) = scenario(&measured(3));
    let [plain_out, out, kept] =
        [plain_folder.path().join("out"), folder.path().join("out"), folder.path().join("kept")];
    let (is_ok, told) = run(&plain, &plain_out, &[]);
    assert!(is_ok && !told.contains("overlap:"), "{told}");
    let (is_ok, told) = run(&path, &out, &[]);
    assert!(told.contains("harmful: 100.0% of clients' rows, 100.0% of their tokens"), "{told}");
    let shares = &json(&plain_out.join("manifest.json"))["harmful_share"];
    assert_eq!(shares, &json!({"clients": 2, "rows": 1.0, "tokens": 1.0, "response_tokens": 1.0}));
    let finding = "data.harmful.source: 3 of the 11 rows of ";
    assert!(is_ok && told.contains(&format!("assumed: overlap: {finding}")) && told.contains("3 the same"), "{told}");
    // The run is that of a file without them.
    let checksum = |out: &Path| json(&out.join("manifest.json"))["checksums"]["client_rows_sha256"].clone();
    assert_eq!(checksum(&out), checksum(&plain_out));
    let overlaps = &json(&out.join("manifest.json"))["overlaps"];
    assert_eq!(overlaps[0]["repeats"], json!({"AdvBench goals": {"same": 3, "near": 0}}));
    assert_eq!(json(&plain_out.join("manifest.json")).get("overlaps"), None);
    let assumptions = json(&out.join("summary.json"))["assumptions"].to_string();
    assert!(assumptions.contains(finding) && assumptions.contains("left out"), "{assumptions}");

    let (is_ok, told) = run(&path, &kept, &["data.overlap=keep"]);
    assert!(is_ok && told.contains(finding) && told.contains("is not held out"), "{told}");
    assert_ne!(checksum(&kept), checksum(&plain_out));
    // What is not measured with is not held against anything.
    let (is_ok, told) = run(&path, &folder.path().join("unmeasured"), &["evaluation.benches=[]"]);
    assert!(is_ok && !told.contains("overlap:"), "{told}");
}

#[test]
fn a_file_that_holds_nothing_but_what_is_measured_with_is_refused_whatever_it_is_for() {
    let (folder, path) = scenario(&[]);
    let goals = measured(4);
    let write = |name: &str, record: &dyn Fn(&String) -> Value| {
        let lines: Vec<_> = goals.iter().map(|goal| record(goal).to_string()).collect();
        fs::write(folder.path().join(name), lines.join("\n")).unwrap();
    };
    write("goals.jsonl", &|goal| json!({"prompt": goal, "response": "ab"}));
    write("pairs.jsonl", &|goal| json!({"prompt": goal, "chosen": "ab", "rejected": "b"}));
    let rows = "evaluation.utility_rows=0";
    let at = |key: &str, name: &str| format!("{key}={}", folder.path().join(name).display());
    for sets in [
        [at("data.harmful.source", "goals.jsonl"), rows.into()],
        [at("data.benign.source", "goals.jsonl"), rows.into()],
        [at("cai.prompts", "goals.jsonl"), "cai.schedule=every".into()],
        [at("cai.data", "pairs.jsonl"), "cai.schedule=every".into()],
    ] {
        let (is_ok, told) = run(&path, &folder.path().join("out"), &[&sets[0], &sets[1]]);
        let key = sets[0].split('=').next().unwrap();
        let told = told.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(!is_ok && told.contains(&format!("{key}: 4 of the 4 rows of")), "{told}");
        assert!(told.contains("so nothing is left") && !told.contains(goals[0].trim()), "{told}");
    }
}

#[test]
fn commands_that_train_say_what_an_evaluation_would_not_hold_out() {
    let (folder, _) = scenario(&measured(3));
    let (model, rows) = (folder.path().join("model"), folder.path().join("rows.jsonl"));
    let (out, guard) = (folder.path().join("adapter"), folder.path().join("guard"));
    let tune = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("overlap: 3 of the 11 rows repeat what fedward eval measures with"), "{told}");
        let line: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"));
        assert_eq!(line["overlaps"], json!({"held-out AdvBench goals": {"same": 3, "near": 0}}));
    };
    tune(
        fedward()
            .args(["tune", "--steps", "1", "--rank", "2"])
            .arg("--model")
            .arg(&model)
            .arg("--data")
            .arg(&rows)
            .arg("--out")
            .arg(&out),
    );
    let safe = folder.path().join("safe.jsonl");
    let own = (0..12).map(|number| json!({"prompt": format!("ab {number}"), "response": "b", "label": if number % 2 == 0 { "safe" } else { "unsafe" }}));
    let goals = measured(3).into_iter().map(|goal| json!({"prompt": goal, "response": "ab", "label": "safe"}));
    let lines: Vec<_> = own.take(8).chain(goals).map(|row| row.to_string()).collect();
    fs::write(&safe, lines.join("\n")).unwrap();
    tune(
        fedward()
            .args(["guard", "train", "--kind", "head"])
            .arg("--model")
            .arg(&model)
            .arg("--data")
            .arg(&safe)
            .arg("--out")
            .arg(&guard),
    );
}

/// The guard's own rows are the catalogue's, which answer some measured goals word by word: they stay, and are counted.
#[test]
fn judged_responses_to_what_is_measured_are_counted() {
    let advbench = AdvBench::load(&home().join("data/advbench/adv_bench.prompt")).unwrap();
    let parts = GoalParts::new(&advbench, GoalSplit::Fixed, 0);
    let goals: HashSet<_> = parts.of(GoalUse::Evaluation).iter().map(|goal| normalized(&goal.text)).collect();
    let judged = scored_rows(&home().join("data/scored-responses")).unwrap();
    let answers_a_goal = |row: &&ScoredRow| goals.contains(&normalized(&row.row.messages[0].content));
    let count = judged.iter().filter(answers_a_goal).count();
    assert!(count > 0);

    let (folder, path) = scenario(&[]);
    let guard = ["guard.enabled=true", "guard.train_rows=100", "guard.layers=1"];
    let (is_ok, told) = run(&path, &folder.path().join("clustered"), &guard);
    assert!(is_ok && !told.contains("judged responses, of which"), "a split by cluster leaves them out: {told}");
    let fixed = [guard[0], guard[1], guard[2], "evaluation.split=fixed"];
    let (is_ok, told) = run(&path, &folder.path().join("out"), &fixed);
    let expected = format!("of {} judged responses, of which these answer what is measured with", judged.len());
    assert!(is_ok && told.contains(&expected), "{told}");
    assert!(told.contains(&format!("(AdvBench goals: {count} the same)")), "{told}");
}

#[test]
fn prompts_of_other_benchmarks_are_held_out_where_they_are_measured() {
    let (folder, path) = scenario(&[]);
    let prompts = folder.path().join("xstest.csv");
    fs::write(&prompts, "prompt,type,label\n\"Abba sang 3 BALLADS, in bar 3a?\",homonyms,safe\nba,homonyms,safe\n")
        .unwrap();
    let data = format!("evaluation.data.xstest={}", prompts.display());
    let (is_ok, told) = run(&path, &folder.path().join("out"), &["evaluation.benches=[\"xstest\"]", &data]);
    assert!(is_ok && told.contains("1 of the 8 rows of ") && told.contains("(XSTest prompts: 1 the same)"), "{told}");
}
