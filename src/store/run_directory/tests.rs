use std::{fs::OpenOptions, io::Write, sync::Arc};

use fedward_actors::{
    protocol::{AdapterLayout, ClientId},
    records::RoundOutcome,
};
use serde_json::json;

use super::*;

fn adapter(value: f32) -> Adapter {
    let layout = Arc::new(AdapterLayout::new([("a".to_owned(), [2, 3])]));
    Adapter::new(layout, vec![value; 6]).unwrap()
}

fn record(round: u32, global: &Adapter) -> RoundRecord {
    serde_json::from_value(json!({
        "round": round, "outcome": RoundOutcome::Committed, "cohort": [0], "accepted": 1, "clipped": 0, "rejected": 0,
        "dropped": 0, "rows_kept": 1, "rows_filtered": 0, "rows_kept_unsafe": 0, "rows_filtered_safe": 0,
        "train_loss": 1.0, "train_tokens": 1, "trainings_reused": 0,
        "train_tokens_per_second": 1.0, "update_norm": 1.0,
        "adapter_bytes_up": 24, "adapter_bytes_down": 24,
        "seconds": {"select": 0.0, "broadcast": 0.0, "train": 0.0, "screen": 0.0, "aggregate": 0.0, "align": 0.0,
                    "evaluate": 0.0, "commit": 0.0},
        "align": null, "eval": {}, "warnings": [], "adapter_sha256": global.sha256(),
    }))
    .unwrap()
}

fn manifest(seed: u64) -> Value {
    json!({"scenario": {"seed": seed}, "versions": {"fedward": "0"}, "checksums": {"model_sha256": "m"}})
}

fn begun(folder: &Path) -> RunDirectory {
    let directory = RunDirectory::create(folder, Unfinished::Keep).unwrap();
    directory.write_manifest(&manifest(1)).unwrap();
    let mut store = directory.share();
    for round in 1..=3 {
        let global = adapter(round as f32);
        let memories = [(ClientId(0), Arc::from([round as u8]))];
        store.checkpoint(RoundId(round), &global, &[round as u8], &memories).unwrap();
        store.append(&record(round, &global), &[]).unwrap();
    }
    directory
}

#[test]
fn c1_resume_takes_up_the_last_stored_round_and_drops_what_a_crash_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    // A crash after the checkpoint of round 4, in the middle of its row.
    let memories = [(ClientId(0), Arc::from([4]))];
    directory.share().checkpoint(RoundId(4), &adapter(4.0), &[], &memories).unwrap();
    let rows = folder.path().join("rounds.jsonl");
    let mut file = OpenOptions::new().append(true).open(&rows).unwrap();
    file.write_all(b"{\"round\": 4, \"outc").unwrap();
    drop(file);

    let (_, checkpoint) = RunDirectory::resume(folder.path(), &manifest(1)).unwrap().unwrap();
    assert_eq!(checkpoint, Checkpoint { round: RoundId(3), global: adapter(3.0), strategy_state: vec![3] });
    let remembered = directory.memories().read(ClientId(0), RoundId(9)).unwrap();
    assert_eq!(remembered.as_deref(), Some(&[3][..]));
    assert_eq!(fs::read_to_string(&rows).unwrap().lines().count(), 3);
}

#[test]
fn c1_a_changed_checkpoint_is_refused_and_the_one_before_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    let damage = |round: u32| {
        let path = Checkpoint::path(&folder.path().join("checkpoints"), RoundId(round));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    damage(3);
    let (_, checkpoint) = RunDirectory::resume(folder.path(), &manifest(1)).unwrap().unwrap();
    assert_eq!(checkpoint, Checkpoint { round: RoundId(2), global: adapter(2.0), strategy_state: vec![2] });
    assert_eq!(directory.rounds().unwrap().len(), 2);
    assert_eq!(directory.memories().read(ClientId(0), RoundId(9)).unwrap().as_deref(), Some(&[2][..]));

    damage(2);
    let error = RunDirectory::resume(folder.path(), &manifest(1)).unwrap_err().to_string();
    assert!(error.contains("round-00002") && error.contains("checksum"), "{error}");
}

#[test]
fn another_scenario_is_refused_and_the_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    let error = RunDirectory::resume(folder.path(), &manifest(2)).unwrap_err().to_string();
    assert!(error.contains("(seed was 1, is 2)"), "{error}");
    // Where it is known what was written, that is what is named.
    let with = |seed: u64, written: Value| {
        let mut manifest = manifest(seed);
        manifest["written"] = written;
        manifest
    };
    directory.write_manifest(&with(1, json!({"lora": {"alpha": 8}}))).unwrap();
    let other = json!({"evaluation": {"base": true}, "lora": {"alpha": 8.0}, "training": {"local_steps": 5}});
    let error = RunDirectory::resume(folder.path(), &with(5, other)).unwrap_err().to_string();
    assert!(error.contains("(training.local_steps was not set, is 5)"), "{error}");
    let base_too = json!({"evaluation": {"base": true}, "lora": {"alpha": 8}});
    assert!(RunDirectory::resume(folder.path(), &with(1, base_too)).is_ok());
    directory.write_manifest(&manifest(1)).unwrap();
    // The same settings in other words are the same settings.
    let mut reworded = manifest(1);
    reworded["scenario"]["assumptions"] = json!(["said otherwise"]);
    assert!(RunDirectory::resume(folder.path(), &reworded).is_ok());
}

#[test]
fn c1_another_model_guard_or_program_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    begun(folder.path());
    let mut other = manifest(1);
    other["checksums"]["model_sha256"] = json!("n");
    let mut guarded = manifest(1);
    guarded["guard"] = json!({"version": "g"});
    let mut newer = manifest(1);
    newer["versions"]["fedward"] = json!("1");
    for (manifest, expected) in [
        (other, r#"(checksums.model_sha256 was "m", is "n")"#),
        (guarded, r#"(guard.version was not set, is "g")"#),
        (newer, r#"(versions.fedward was "0", is "1")"#),
    ] {
        let error = RunDirectory::resume(folder.path(), &manifest).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let kept = ["thesis.tex", "summary.json"].map(|name| folder.path().join(name));
    for path in &kept {
        fs::write(path, "{\"status\": \"completed\"}").unwrap();
    }
    for manifest in [None, Some("{\"name\": \"an extension\"}"), Some("no JSON")] {
        if let Some(text) = manifest {
            fs::write(folder.path().join("manifest.json"), text).unwrap();
        }
        let error = RunDirectory::create(folder.path(), Unfinished::Replace).unwrap_err().to_string();
        assert!(error.contains("holds no run of fedward's; choose another --out"), "{manifest:?}: {error}");
        assert!(kept.iter().all(|path| path.exists()), "{manifest:?}");
    }
}

#[test]
fn a_run_that_has_not_completed_gives_way_only_if_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    let interrupted = json!({"status": "interrupted"});
    for summary in [None, Some(interrupted)] {
        if let Some(summary) = summary {
            directory.write_summary(&summary).unwrap();
        }
        let error = RunDirectory::create(folder.path(), Unfinished::Keep).unwrap_err().to_string();
        assert!(error.contains("--resume") && error.contains("--overwrite"), "{error}");
        assert_eq!(directory.rounds().unwrap().len(), 3);
    }
    RunDirectory::create(folder.path(), Unfinished::Replace).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    begun(folder.path()).write_summary(&json!({"status": "completed"})).unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    RunDirectory::create(folder.path(), Unfinished::Keep).unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

#[test]
fn only_the_last_checkpoints_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    begun(folder.path());
    assert_eq!(fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 2);
}
