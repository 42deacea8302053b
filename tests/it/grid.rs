//! Grids on the real model, kept tiny.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    run::{TINY, assert_success},
    support::fedward,
};

/// Four cells of one round; one that is not finished is run again, and nothing else is.
#[test]
fn a_grid_goes_on_where_it_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grid.toml");
    let axes = "[grid]\nstrategies = [\"fedavg\", \"scaffold\"]\nseeds = [1]\n[[variant]]\nname = \"filter\"\n\
        [[variant]]\nname = \"none\"\nguard.enabled = false\n";
    let never = TINY.replace("schedule = \"last_round\"", "schedule = \"never\"");
    let aligned = "[start]\nkind = \"aligned\"\nsteps = 1\nbatch_size = 2\n";
    fs::write(&path, never.replace("rounds = 2", "rounds = 1") + aligned + axes).unwrap();
    let out = folder.path().join("out");
    let command = |more: &[&str]| {
        let mut command = fedward();
        command.arg("grid").arg(&path).arg("--out").arg(&out).args(["--metrics", "off"]).args(more);
        command
    };
    let grid = |more: &[&str]| command(more).output().unwrap();
    assert_success(&grid(&[]));
    let tables = || ["grid.md", "grid.csv"].map(|name| fs::read(out.join(name)).unwrap());
    let first = tables();
    let metrics = fs::read_to_string(out.join("scaffold/filter/seed-1/metrics.prom")).unwrap();
    assert!(metrics.contains("fedward_rounds_total{variant=\"scaffold/filter/seed-1\""), "{metrics}");
    assert!(!metrics.contains("fedavg/filter"), "cells have metrics of their own: {metrics}");
    assert!(out.join("safety-by-round-scaffold.svg").exists());

    // A cell without a summary was interrupted before its end.
    let cells =
        ["fedavg/filter", "fedavg/none", "scaffold/filter", "scaffold/none"].map(|of| out.join(of).join("seed-1"));
    let written = || cells.clone().map(|cell| fs::metadata(cell.join("summary.json")).unwrap().modified().unwrap());
    let before = written();
    fs::remove_file(cells[2].join("summary.json")).unwrap();
    let again = grid(&[]);
    assert_success(&again);
    let after = written();
    let is_same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
    assert_eq!(is_same, [true, true, false, true]);
    assert_eq!(String::from_utf8_lossy(&again.stderr).matches("finished before").count(), 3);
    assert_eq!(tables(), first, "what was run again came to the same");

    // Two grids on one folder share its cells: each is run by one of them, and the last to end writes the tables.
    for cell in &cells {
        fs::remove_file(cell.join("summary.json")).unwrap();
    }
    fs::remove_file(out.join("grid.md")).unwrap();
    let both = [(), ()].map(|()| command(&[]).stderr(Stdio::piped()).spawn().unwrap());
    let told = both.map(|grid| {
        let output = grid.wait_with_output().unwrap();
        assert_success(&output);
        String::from_utf8_lossy(&output.stderr).into_owned()
    });
    let is_run = |line: &&str| line.starts_with("cell ") && !line.contains(": ");
    let run: BTreeSet<&str> = told.iter().flat_map(|told| told.lines()).filter(is_run).collect();
    assert_eq!((run.len(), told.iter().flat_map(|told| told.lines()).filter(is_run).count()), (4, 4), "{told:?}");
    assert_eq!(tables(), first);

    // The base model can be measured afterwards: once, and nothing else of the cells changes.
    let results = || {
        cells.clone().map(|cell| {
            let mut summary: Value = serde_json::from_slice(&fs::read(cell.join("summary.json")).unwrap()).unwrap();
            summary.as_object_mut().unwrap().remove("base_eval");
            let kept = ["rounds.jsonl", "metrics.prom", "manifest.json"].map(|name| fs::read(cell.join(name)).unwrap());
            (summary, kept)
        })
    };
    let before = results();
    let with_base = grid(&["--set", "evaluation.base=true"]);
    assert_success(&with_base);
    assert_eq!(String::from_utf8_lossy(&with_base.stderr).matches("evaluating the base model").count(), 1);
    assert_eq!(results(), before);
    let [text, _] = tables().map(|table| String::from_utf8(table).unwrap());
    assert!(text.contains("\n| base, no FL | ") && text.contains("\n| – | base, no FL | "), "{text}");
    let is_new = |line: &&str| !line.contains("base, no FL");
    assert_eq!(text.lines().filter(is_new).collect::<Vec<_>>().join("\n") + "\n", String::from_utf8_lossy(&first[0]));

    // Cells of other settings are not taken for this grid's.
    let other = grid(&["--set", "training.learning_rate=1e-3"]);
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("begun with another scenario"));
}

/// Two processes share the cells and the cores; when one goes, the other does its cells, and when the first one goes, the
/// other does not stay.
#[test]
fn the_processes_of_a_grid_begin_and_end_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grid.toml");
    let never = TINY.replace("schedule = \"last_round\"", "schedule = \"never\"");
    let axes = "[grid]\nstrategies = [\"fedavg\", \"scaffold\"]\nseeds = [1]\n[[variant]]\nname = \"filter\"\n";
    let write = |rounds: &str| fs::write(&path, never.replace("rounds = 2", rounds) + axes).unwrap();
    write("rounds = 3");
    let command = |out: &Path, jobs: &str| {
        let mut command = fedward();
        command.arg("grid").arg(&path).arg("--out").arg(out).args([
            "--metrics",
            "off",
            "--threads",
            "3",
            "--jobs",
            jobs,
        ]);
        command
    };
    let (alone, shared) = (folder.path().join("alone"), folder.path().join("shared"));
    assert_success(&command(&alone, "1").output().unwrap());
    let output = command(&shared, "2").output().unwrap();
    assert_success(&output);
    let csv = |out: &Path| fs::read(out.join("grid.csv")).unwrap();
    assert_eq!(csv(&alone), csv(&shared));
    let log = |out: &Path| fs::read_to_string(out.join("helper-2.log")).unwrap_or_default();
    let run = |told: &str| told.lines().filter(|line| line.starts_with("cell ") && !line.contains(": ")).count();
    let first = String::from_utf8_lossy(&output.stderr);
    assert_eq!((run(&first), run(&log(&shared))), (1, 1), "{first}\n{}", log(&shared));
    assert!(!log(&shared).contains("interrupted"), "{}", log(&shared));
    let cores = std::thread::available_parallelism().unwrap().get().min(3);
    for (out, threads) in [(&alone, cores), (&shared, (cores / 2).max(1))] {
        let manifest = fs::read(out.join("fedavg/filter/seed-1/manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["threads"], threads);
    }

    // The other one is killed: its cell is done all the same.
    let left = folder.path().join("left");
    let first = command(&left, "2").stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the second process is at a cell", || run(&log(&left)) == 1);
    let helper = children(first.id()).into_iter().next().unwrap();
    assert!(Command::new("kill").args(["-KILL", &helper]).status().unwrap().success());
    let output = first.wait_with_output().unwrap();
    assert_success(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(run(&told) == 2 && told.contains("going on without it"), "{told}");
    assert_eq!(csv(&alone), csv(&left));

    // The first one is killed.
    write("rounds = 1000");
    let broken = folder.path().join("broken");
    let mut first = KilledOnDrop(command(&broken, "2").stderr(Stdio::null()).spawn().unwrap());
    wait_until("the second process is at a cell", || run(&log(&broken)) == 1);
    first.0.kill().unwrap();
    wait_until("the second process ends", || log(&broken).contains("interrupted"));
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processes that a process has started.
fn children(of: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap();
    tasks.flat_map(|task| children(task.unwrap()).split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
