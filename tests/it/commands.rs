//! Commands that fine-tune, score and generate without a federation.

use std::fs;

use serde_json::Value;

use crate::{
    run::assert_success,
    support::{fedward, home},
};

#[test]
fn tune_score_and_generate_work_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let row =
        r#"{"messages": [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "Apple."}]}"#;
    fs::write(&data, format!("{row}\n{row}\n")).unwrap();
    let adapter = folder.path().join("adapter");
    let run = |args: &[&str]| {
        let output = fedward().args(args).output().unwrap();
        assert_success(&output);
        if ["score", "generate"].contains(&args[0]) {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains(": 2 of 2\n"), "no word of progress: {stderr}");
        }
        let stdout = String::from_utf8(output.stdout).unwrap();
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let (data, adapter) = (data.to_str().unwrap(), adapter.to_str().unwrap());

    let before = run(&["score", "--data", data]);
    let tuned = run(&["tune", "--data", data, "--out", adapter, "--steps", "4", "--batch-size", "2", "--lr", "1e-3"]);
    let after = run(&["score", "--data", data, "--adapter", adapter]);

    let last = tuned.last().unwrap();
    for key in ["steps", "train_tokens", "train_tokens_per_second", "peak_memory_bytes", "final_loss"] {
        assert!(last[key].is_number(), "{key} is missing in {last}");
    }
    assert_eq!(before.len(), 2);
    assert!(before[0]["response_tokens"].as_u64().unwrap() >= 2);
    let likelihood = |rows: &[Value]| rows[0]["log_likelihood"].as_f64().unwrap();
    assert!(likelihood(&after) > likelihood(&before) + 0.5, "{} {}", likelihood(&before), likelihood(&after));

    let generated = run(&["generate", "--prompts", data, "--adapter", adapter, "--max-new-tokens", "5"]);
    assert_eq!(generated.len(), 2);
    assert!(generated[0]["response_tokens"].as_u64().unwrap() <= 5);
    assert!(["stop", "length"].contains(&generated[0]["finish_reason"].as_str().unwrap()));
}

/// Rows without a response, or with one that does not fit, keep their lines; what was cut is marked.
#[test]
fn every_record_is_scored_in_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let row = |answer: &str| format!("{{\"chosen\": \"\\n\\nHuman: Name a fruit.\\n\\nAssistant:{answer}\"}}\n");
    let rows = ["", " Apple.", "", &" and pears".repeat(200), " Pear.", ""].map(row).concat();
    fs::write(&data, rows).unwrap();
    let output = fedward().args(["score", "--data", data.to_str().unwrap(), "--max-length", "100"]).output().unwrap();
    assert_success(&output);
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> = lines.iter().map(|line| (line["log_likelihood"].is_number(), line["cut"] == true)).collect();
    let (none, whole, cut) = ((false, false), (true, false), (true, true));
    assert_eq!(found, [none, whole, none, cut, whole, none]);
    assert!(
        lines[1]["chosen"].as_str().unwrap().ends_with("Apple.")
            && lines[4]["response_tokens"] == lines[1]["response_tokens"]
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("rows cut after 100 tokens")
            && stderr.contains("rows without a response to train on within 100 tokens"),
        "{stderr}"
    );
}

#[test]
fn bad_input_is_one_clear_line_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    fs::write(&path, "name = \"t\"\nquestion = \"q\"\n[federation]\nclients = 3\ncohort = 20\n").unwrap();
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, "{\"prompt\": \"a\", \"response\": \"b\"}\n").unwrap();
    let long = folder.path().join("long.jsonl");
    fs::write(&long, format!("{{\"prompt\": \"a\"}}\n{{\"prompt\": \"{}\"}}\n", "word ".repeat(9_000))).unwrap();
    let (rows, long) = (rows.to_str().unwrap(), long.to_str().unwrap());
    for (args, expected) in [
        (vec!["run", path.to_str().unwrap()], "federation.cohort: found 20; allowed: 1 to 3 (federation.clients)"),
        (vec!["check", "no-such-file.toml"], "no-such-file.toml"),
        (vec!["score", "--data", "no-such-rows.jsonl"], "no-such-rows.jsonl"),
        (vec!["score", "--model", "no-such-model", "--data", rows], "no-such-model"),
        (vec!["generate", "--prompts", long], "line 2: found 90"),
        (vec!["tune", "--data", rows, "--out", rows], "found a file; name a folder"),
        (vec!["tune", "--data", rows, "--out", "x", "--alpha", "-1"], "--alpha: found -1; allowed: a number above 0"),
    ] {
        let output = fedward().args(&args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    }
    assert!(home().exists());
}

#[test]
fn a_variable_of_the_environment_is_blamed_by_its_own_name() {
    for (variable, value) in [("FEDWARD_THREADS", "abc"), ("FEDWARD_LOG", "fedward=loud"), ("FEDWARD_KERNELS", "0")] {
        let refused = fedward().arg("fetch").env(variable, value).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr);
        let expected = format!("fedward: {variable}: found {value:?}, expected ");
        assert!(!refused.status.success() && told.starts_with(&expected) && !told.contains("--threads"), "{told}");
    }
    let listed = fedward().arg("fetch").env("FEDWARD_THREADS", "").output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
}

#[test]
fn a_scenario_for_another_machine_is_checked_without_what_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("there.toml");
    std::fs::write(&scenario, "name = \"t\"\nquestion = \"q\"\nmodel.base = \"/models/nope\"\n").unwrap();
    let check = |more: &[&str]| {
        let checked = fedward().arg("check").arg(&scenario).args(more).output().unwrap();
        (checked.status.success(), String::from_utf8_lossy(&checked.stderr).into_owned())
    };
    let (is_valid, told) = check(&[]);
    let problem = "there.toml:3: model.base: found \"/models/nope\", but there is no file or directory /models/nope;";
    assert!(!is_valid && told.contains(problem), "{told}");
    let (is_valid, told) = check(&["--elsewhere"]);
    assert!(is_valid && told.contains("not on this machine: ") && told.contains(problem), "{told}");
}

/// A reader of progress that has gone away ends nothing, and neither does its absence keep results from standard output.
#[test]
fn nobody_has_to_read_what_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.toml");
    fs::write(&path, crate::run::TINY).unwrap();
    let told = |unread: bool| {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = fedward();
        command.args(["check", path.to_str().unwrap()]).stderr(writer).stdout(std::process::Stdio::piped());
        // The log is told on stderr, too.
        command.env("FEDWARD_LOG", "trace");
        let kept = (!unread).then_some(reader);
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        drop(kept);
        (output.status.code(), output.stdout)
    };
    let (status, printed) = told(true);
    assert_eq!(status, Some(0));
    assert!(!printed.is_empty());
    assert_eq!(told(false), (status, printed));
}

/// A limit on the size of files is an error that says so, not a death without a word.
#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, "{\"prompt\": \"a\", \"response\": \"b\"}\n").unwrap();
    let tune = "ulimit -f 8; exec \"$0\" tune --data \"$1\" --out \"$2\" --steps 1 --batch-size 1";
    let program = fedward();
    let mut command = std::process::Command::new("bash");
    command.args(["-c", tune]).arg(program.get_program()).arg(&rows).arg(folder.path().join("adapter"));
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("adapter_model.safetensors: File too large"), "{stderr}");
}

/// Starting adapter and guard that are kept for later commands are used while they are whole, and made anew where a bit has
/// flipped, a file is cut, or a checksum is gone.
#[test]
fn what_is_kept_and_damaged_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let own_home = folder.path().join("home");
    fs::create_dir(&own_home).unwrap();
    for shared in ["data", "models"] {
        std::os::unix::fs::symlink(fs::canonicalize(home().join(shared)).unwrap(), own_home.join(shared)).unwrap();
    }
    let path = folder.path().join("tiny.toml");
    let aligned = "[start]\nkind = \"aligned\"\nsteps = 1\nbatch_size = 2\n";
    fs::write(&path, crate::run::TINY.to_owned() + aligned).unwrap();
    let prepare = || {
        let output = fedward().env("FEDWARD_HOME", &own_home).arg("prepare").arg(&path).output().unwrap();
        assert_success(&output);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = |told: &str| (told.contains("fitting the guard"), told.contains("aligning the starting adapter"));
    assert_eq!(said(&prepare()), (true, true));
    let kept = |kind: &str, name: &str| {
        let mut folders = vec![own_home.join("cache").join(kind)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_str().unwrap().ends_with(name) {
                    return path;
                }
            }
        }
        panic!("no {name} of {kind}")
    };
    let (weights, guard) = (kept("starts", ".safetensors"), kept("guards", ".json"));
    let first = [&weights, &guard].map(|path| fs::read(path).unwrap());
    assert_eq!(said(&prepare()), (false, false));

    let mut flipped = first[0].clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&weights, flipped).unwrap();
    fs::write(&guard, &first[1][..first[1].len() / 2]).unwrap();
    let told = prepare();
    assert_eq!(said(&told), (true, true));
    assert!(
        told.contains("a starting adapter that was kept is damaged") && told.contains("a guard that was kept is"),
        "{told}"
    );
    assert_eq!([&weights, &guard].map(|path| fs::read(path).unwrap()), first);

    fs::write(&weights, "").unwrap();
    fs::remove_file(kept("guards", ".sha256")).unwrap();
    assert_eq!(said(&prepare()), (true, true));
    assert_eq!([&weights, &guard].map(|path| fs::read(path).unwrap()), first);

    // What another kind of processor has made is another thing.
    let output =
        fedward().env("FEDWARD_HOME", &own_home).env("ATEN_CPU_CAPABILITY", "avx2").arg("prepare").arg(&path).output();
    assert_eq!(said(&String::from_utf8_lossy(&output.unwrap().stderr)), (true, true));
}
