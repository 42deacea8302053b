//! Whole runs of the program on the real model, kept tiny.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::fedward;

/// Two clients, two rounds, guard and Constitutional AI, a handful of tokens.
pub(crate) const TINY: &str = r#"
name = "tiny"
question = "does the whole path work?"
seed = 3
[lora]
rank = 4
alpha = 8
dropout = 0.1
[federation]
clients = 3
cohort = 2
rounds = 2
[data]
rows_per_client = 4
harmful_share = 0.5
[training]
local_steps = 1
batch_size = 2
[guard]
enabled = true
layers = 2
max_length = 48
train_rows = 100
[cai]
schedule = "last_round"
red_prompts = 4
max_new_tokens = 8
steps = 1
batch_size = 2
[evaluation]
schedule = "every"
prompts = 4
interim_prompts = 2
interim_benches = ["advbench"]
utility_rows = 2
max_new_tokens = 4
"#;

#[test]
fn what_constitutional_ai_lacks_is_said_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(&tiny(folder.path()), &folder.path().join("out"), &["--set", "cai.red_prompts=4000"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("cai.red_prompts: found 4000, but there are "), "{told}");
    assert!(!told.contains("aligning") && !told.contains("fitting"), "{told}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let teacher =
        format!("cai.teacher={{ base_url = \"http://127.0.0.1:{nobody}/v1\", model = \"m\", max_retries = 0 }}");
    let refused = run(&tiny(folder.path()), &folder.path().join("out"), &["--set", &teacher]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("cai.teacher: endpoint http://127.0.0.1:"), "{told}");
    assert!(!told.contains("aligning") && !told.contains("fitting"), "{told}");
}

fn tiny(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.toml");
    fs::write(&path, TINY).unwrap();
    path
}

fn run(scenario: &Path, out: &Path, more: &[&str]) -> std::process::Output {
    fedward().arg("run").arg(scenario).arg("--out").arg(out).args(["--metrics", "off"]).args(more).output().unwrap()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows without what a clock measured.
fn timeless(path: &Path) -> Vec<Value> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for key in ["seconds", "train_seconds", "train_tokens_per_second"] {
                    fields.remove(key);
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut rows = rows(path);
    rows.iter_mut().for_each(strip);
    rows
}

pub(crate) fn assert_success(output: &std::process::Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `strategy` twice and once with an interruption; gives the final adapter.
fn run_thrice(strategy: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let scenario = tiny(folder.path());
    let strategy = format!("federation.strategy={strategy}");
    let run = |scenario: &Path, out: &Path, more: &[&str]| {
        let more: Vec<_> = ["--set", &strategy].into_iter().chain(more.iter().copied()).collect();
        run(scenario, out, &more)
    };
    let [one, two, resumed] = ["one", "two", "resumed"].map(|name| folder.path().join(name));
    assert_success(&run(&scenario, &one, &[]));
    assert_success(&run(&scenario, &two, &["--set", "federation.slots=1"]));

    let bytes = |run: &Path, name: &str| fs::read(run.join(name)).unwrap();
    assert_eq!(bytes(&one, "adapter/adapter_model.safetensors"), bytes(&two, "adapter/adapter_model.safetensors"));
    assert_eq!(timeless(&one.join("rounds.jsonl")), timeless(&two.join("rounds.jsonl")));
    assert_eq!(timeless(&one.join("clients.jsonl")), timeless(&two.join("clients.jsonl")));
    // A guard that filters everything would leave nothing to compare.
    assert!(rows(&one.join("rounds.jsonl")).iter().all(|round| round["outcome"] == "committed"));

    // The same run, cut off after its first round by taking the second one's row away.
    assert_success(&run(&scenario, &resumed, &[]));
    let path = resumed.join("rounds.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.lines().next().unwrap().to_owned() + "\n").unwrap();
    assert_success(&run(&scenario, &resumed, &["--resume"]));
    assert_eq!(bytes(&one, "adapter/adapter_model.safetensors"), bytes(&resumed, "adapter/adapter_model.safetensors"));
    assert_eq!(timeless(&one.join("rounds.jsonl")), timeless(&path));
    bytes(&one, "adapter/adapter_model.safetensors")
}

#[test]
fn d1_a_scenario_run_twice_gives_identical_bytes_and_resume_equals_uninterrupted() {
    run_thrice("fedavg");
}

/// Two of three clients a round: in round 2 at least one comes back to the control variate that it keeps on disk.
#[test]
fn d1_and_c1_hold_with_what_scaffold_remembers() {
    let scaffold = run_thrice("scaffold");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("fedavg");
    assert_success(&run(&tiny(folder.path()), &out, &[]));
    assert_ne!(fs::read(out.join("adapter/adapter_model.safetensors")).unwrap(), scaffold);
}

#[test]
fn a_run_directory_holds_what_scripts_rely_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    assert_success(&run(&tiny(folder.path()), &out, &[]));

    let rounds = rows(&out.join("rounds.jsonl"));
    assert_eq!(rounds.len(), 2);
    let keys = [
        "round",
        "outcome",
        "cohort",
        "accepted",
        "rejected",
        "dropped",
        "rows_kept",
        "rows_filtered",
        "train_loss",
        "train_tokens",
        "train_tokens_per_second",
        "update_norm",
        "adapter_bytes_up",
        "adapter_bytes_down",
        "seconds",
        "eval",
        "adapter_sha256",
    ];
    for row in &rounds {
        for key in keys {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        for phase in ["select", "broadcast", "train", "screen", "aggregate", "align", "evaluate", "commit"] {
            assert!(row["seconds"][phase].is_f64(), "seconds.{phase} is missing");
        }
        assert_eq!(row["accepted"].as_u64().unwrap() + row["dropped"].as_u64().unwrap(), 2);
    }
    let measured = |round: usize| rounds[round]["eval"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((measured(0), measured(1)), (vec!["advbench".into()], vec!["advbench".into(), "utility".into()]));
    let advbench = &rounds[1]["eval"]["advbench"];
    for key in ["n", "refusal_rate", "ci_low", "ci_high"] {
        assert!(advbench[key].is_number(), "eval.advbench.{key} is missing");
    }
    assert_eq!(advbench["n"], 4);

    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap() };
    let summary = read("summary.json");
    assert_eq!(summary["status"], "completed");
    assert_eq!(summary["totals"]["rounds"], 2);
    assert!(summary["totals"]["peak_memory_bytes"].as_u64().unwrap() > 100_000_000);
    assert_eq!(summary["eval"], rounds[1]["eval"]);
    assert_eq!(summary["adapter_sha256"], rounds[1]["adapter_sha256"]);
    assert_eq!(summary["start_eval"]["advbench"]["n"], 4);
    let manifest = read("manifest.json");
    assert_eq!(manifest["scenario"]["seed"], 3);
    assert_eq!(manifest["checksums"]["model_sha256"].as_str().unwrap().len(), 64);
    let [guard, judge] = ["guard", "judge"].map(|of| {
        assert!(manifest[of]["report"]["held_out"]["auc"].is_number(), "{of} was not measured: {manifest}");
        manifest[of]["version"].as_str().unwrap_or_else(|| panic!("{of} has no version: {manifest}"))
    });
    assert_ne!(guard, judge, "the guard judges what it filtered");
    assert_eq!(rows(&out.join("clients.jsonl")).len(), 4);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("refusal_rate"));
    let metrics = fs::read_to_string(out.join("metrics.prom")).unwrap();
    assert!(metrics.contains("\nfedward_run_active{variant=\"tiny\"} 0\n"), "{metrics}");
    assert!(!metrics.contains("variant=\"\""), "{metrics}");
}

/// What the guard calls unsafe is left out, replaced or reweighted; the same rows each time, for it is the same guard.
#[test]
fn a_guard_s_policy_decides_what_becomes_of_unsafe_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policies.toml");
    let policies = [("drop", "filtered"), ("replace", "replaced"), ("reweight", "reweighted")];
    let variant = |(policy, _)| format!("[[variant]]\nname = \"{policy}\"\nguard.policy = \"{policy}\"\n");
    let text = TINY.replace("schedule = \"last_round\"", "schedule = \"never\"");
    let text = text.replace("schedule = \"every\"", "schedule = \"never\"");
    fs::write(&path, text + &policies.map(variant).concat()).unwrap();
    let out = folder.path().join("out");
    assert_success(&run(&path, &out, &[]));

    let rows_of = |(policy, _): (&str, &str), file: &str| rows(&out.join(policy).join(file));
    let (rounds, clients) = (rows_of(policies[0], "rounds.jsonl"), rows_of(policies[0], "clients.jsonl"));
    let called_unsafe = |round: &Value| round["rows_filtered"].as_u64().unwrap();
    assert!(rounds.iter().all(|round| called_unsafe(round) > 0), "the guard found nothing to do");
    for own in policies {
        for (round, dropping) in rows_of(own, "rounds.jsonl").iter().zip(&rounds) {
            assert_eq!(round["outcome"], "committed");
            for (_, fate) in policies {
                let expected = if fate == own.1 { called_unsafe(dropping) } else { 0 };
                assert_eq!(round[format!("rows_{fate}")], expected, "{own:?}");
            }
            for key in ["rows_kept", "rows_kept_unsafe", "rows_filtered_safe"] {
                assert_eq!(round[key], dropping[key], "{own:?}: {key}");
            }
            // The threshold is 0.5: less than half is left of a reweighted row.
            let weight = round["reweighted_weight"].as_f64().unwrap();
            assert!(weight <= 0.5 * called_unsafe(dropping) as f64, "{weight}");
            assert_eq!(weight > 0.0, own.0 == "reweight");
        }
        for (client, dropping) in rows_of(own, "clients.jsonl").iter().zip(&clients) {
            let called_unsafe = dropping["guard"]["rows_filtered"].as_u64().unwrap();
            assert_eq!(client["guard"][format!("rows_{}", own.1)], called_unsafe, "{own:?}");
        }
    }
    // Each of them trained on something else.
    let adapter = |(policy, _)| fs::read(out.join(policy).join("adapter/adapter_model.safetensors")).unwrap();
    let [dropped, replaced, reweighted] = policies.map(adapter);
    assert!(dropped != replaced && replaced != reweighted && dropped != reweighted);
    let summary: Value = serde_json::from_slice(&fs::read(out.join("replace/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["totals"]["rows_replaced"], rounds.iter().map(called_unsafe).sum::<u64>());
}

/// Starts a run that would take minutes, interrupts it once `reached` says so, and checks that it ends as it should.
fn interrupt(scenario: &Path, out: &Path, more: &[&str], reached: impl Fn() -> bool) {
    let log = out.with_extension("log");
    let mut child = fedward()
        .arg("run")
        .arg(scenario)
        .arg("--out")
        .arg(out)
        .args(["--metrics", "off"])
        .args(more)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(4);
    while !reached() {
        assert!(Instant::now() < deadline, "did not get there in time: {}", fs::read_to_string(&log).unwrap());
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    let interrupted = Instant::now();
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let status = child.wait().unwrap();
    let took = interrupted.elapsed();
    assert_eq!(status.code(), Some(130));
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

fn read_summary(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn ctrl_c_ends_a_run_within_two_seconds_and_leaves_it_readable() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = tiny(folder.path());
    let out = folder.path().join("out");
    let rounds = out.join("rounds.jsonl");
    let is_stored = || fs::read_to_string(&rounds).unwrap_or_default().lines().count() >= 1;
    interrupt(&scenario, &out, &["--set", "federation.rounds=200", "--set", "cai.schedule=never"], is_stored);
    let rows = rows(&rounds);
    assert!(!rows.is_empty());
    let summary = read_summary(&out);
    assert_eq!(summary["status"], "interrupted");
    assert_eq!(summary["totals"]["rounds"], rows.len());

    // Beginning afresh would throw it away.
    let refused = run(&scenario, &out, &[]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--resume goes on with it"), "{stderr}");
    assert!(!stderr.contains("loading"), "it is refused before anything is made: {stderr}");
    assert_eq!(self::rows(&rounds).len(), rows.len());
}

/// All rounds are done then; only the last evaluation is not, and --resume does it.
#[test]
fn ctrl_c_in_the_last_evaluation_leaves_all_rounds_and_resume_evaluates() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = tiny(folder.path());
    let out = folder.path().join("out");
    let short = ["--set", "federation.rounds=1", "--set", "cai.schedule=never", "--set", "evaluation.schedule=never"];
    // The start is evaluated as long as the end: what was stored of it spares the second one that.
    let stage = || fs::read_to_string(out.with_extension("log")).unwrap_or_default();
    let long: Vec<_> =
        short.into_iter().chain(["--set", "evaluation.prompts=40", "--set", "evaluation.max_new_tokens=40"]).collect();
    interrupt(&scenario, &out, &long, || stage().contains("evaluating the final adapter"));
    let summary = read_summary(&out);
    assert_eq!((&summary["status"], &summary["totals"]["rounds"]), (&"interrupted".into(), &1.into()));
    assert_eq!(summary["eval"], serde_json::json!({}));
    assert_eq!(summary["start_eval"]["advbench"]["n"], 40);

    let resumed: Vec<_> = long.iter().copied().chain(["--resume"]).collect();
    assert_success(&run(&scenario, &out, &resumed));
    let summary = read_summary(&out);
    assert_eq!((&summary["status"], &summary["eval"]["advbench"]["n"]), (&"completed".into(), &40.into()));

    // The base model is what a fresh adapter starts from: known already, and all that is added.
    assert_eq!(summary.get("base_eval"), None);
    let with_base: Vec<_> = resumed.into_iter().chain(["--set", "evaluation.base=true"]).collect();
    let added = run(&scenario, &out, &with_base);
    assert_success(&added);
    assert!(!String::from_utf8_lossy(&added.stderr).contains("evaluating"), "{:?}", added.stderr);
    let mut with_base = read_summary(&out);
    assert_eq!(with_base.as_object_mut().unwrap().remove("base_eval").as_ref(), Some(&summary["start_eval"]));
    assert_eq!(with_base, summary);
}

#[test]
fn a_page_of_other_runs_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.toml");
    fs::write(&path, TINY.to_owned() + "[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\n").unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("report.html"), "somebody's own").unwrap();
    let refused = run(&path, &out, &[]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("choose another --out"), "{stderr}");
    assert_eq!(fs::read_to_string(out.join("report.html")).unwrap(), "somebody's own");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "nothing is left in somebody's folder");
}

#[test]
fn a_second_run_is_kept_out_of_the_folder_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = tiny(folder.path());
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let lock = fs::File::create(out.join("fedward.lock")).unwrap();
    lock.lock().unwrap();
    for more in [&[][..], &["--resume"], &["--overwrite"]] {
        let refused = run(&scenario, &out, more);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("is in use by another fedward run or grid"), "{stderr}");
        assert!(!stderr.contains("loading"), "it is refused before anything is made: {stderr}");
    }
    // Free again, the folder is as good as an empty one.
    drop(lock);
    let quick = ["--set", "federation.rounds=1", "--set", "cai.schedule=never", "--set", "evaluation.schedule=never"];
    assert_success(&run(&scenario, &out, &quick));
}
