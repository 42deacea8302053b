use std::{collections::BTreeMap, fs::OpenOptions, io::Write, sync::Arc};

use fedward_actors::{
    ports::StateAfter,
    protocol::{Adapter, AdapterLayout, ClientId, GlobalModel},
    records::RoundOutcome,
};
use serde_json::json;

use super::*;

/// An adapter on a frozen term of another rank.
fn model(value: f32) -> GlobalModel {
    let of_rank = |rank: usize, value| {
        let layout = AdapterLayout::new([("a".to_owned(), [rank, 3])]).with_scaling(0.1);
        Adapter::new(Arc::new(layout), vec![value; 3 * rank]).unwrap()
    };
    GlobalModel::from(of_rank(2, value)).with_frozen(of_rank(5, value + 0.5))
}

fn after<'a>(round: RoundId, global: &'a GlobalModel, strategy: &'a [u8], memories: &'a NewMemories) -> StateAfter<'a> {
    StateAfter { round, global, strategy, in_flight: &[], memories }
}

fn record(round: u32, global: &GlobalModel) -> RoundRecord {
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

fn client_row(round: u32) -> ClientRecord {
    serde_json::from_value(json!({
        "round": round, "client": 0, "outcome": "accepted", "attempt": 1,
        "guard": {"kept": 1, "filtered": 0, "kept_unsafe": 0, "filtered_safe": 0},
        "steps": 1, "train_tokens": 1, "train_loss": 1.0, "train_seconds": 0.5, "reused": false, "update_norm": 1.0,
        "clipped_to": null,
    }))
    .unwrap()
}

fn manifest(seed: u64) -> Value {
    json!({"scenario": {"seed": seed}, "versions": {"fedward": "0"}, "checksums": {"model_sha256": "m"}})
}

fn resume(folder: &Path, manifest: &Value) -> Result<Option<(RunDirectory, Checkpoint)>, StoreError> {
    RunDirectory::resume(folder, manifest, CodeChange::Refuse)
}

/// All files below a folder with their bytes.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(content(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

fn begun(folder: &Path) -> RunDirectory {
    let directory = RunDirectory::create(folder, Unfinished::Keep).unwrap();
    directory.write_manifest(&manifest(1)).unwrap();
    let mut store = directory.share();
    for round in 1..=3 {
        let global = model(round as f32);
        let memories = [(ClientId(0), Arc::from([round as u8]))];
        store.checkpoint(after(RoundId(round), &global, &[round as u8], &memories)).unwrap();
        store.append(&record(round, &global), &[client_row(round)]).unwrap();
    }
    directory
}

#[test]
fn c1_resume_takes_up_the_last_stored_round_and_drops_what_a_crash_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    // A crash after the checkpoint of round 4, in the middle of its row.
    let memories = [(ClientId(0), Arc::from([4]))];
    directory.share().checkpoint(after(RoundId(4), &model(4.0), &[], &memories)).unwrap();
    let rows = folder.path().join("rounds.jsonl");
    let mut file = OpenOptions::new().append(true).open(&rows).unwrap();
    file.write_all(b"{\"round\": 4, \"outc").unwrap();
    drop(file);

    let (_, checkpoint) = resume(folder.path(), &manifest(1)).unwrap().unwrap();
    assert_eq!(
        checkpoint,
        Checkpoint { round: RoundId(3), global: model(3.0), strategy_state: vec![3], in_flight: vec![] }
    );
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
    let (_, checkpoint) = resume(folder.path(), &manifest(1)).unwrap().unwrap();
    assert_eq!(
        checkpoint,
        Checkpoint { round: RoundId(2), global: model(2.0), strategy_state: vec![2], in_flight: vec![] }
    );
    assert_eq!(directory.rounds().unwrap().len(), 2);
    assert_eq!(directory.memories().read(ClientId(0), RoundId(9)).unwrap().as_deref(), Some(&[2][..]));

    damage(2);
    let error = resume(folder.path(), &manifest(1)).unwrap_err().to_string();
    assert!(error.contains("round-00002") && error.contains("checksum"), "{error}");
}

#[test]
fn another_scenario_is_refused_and_the_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    let error = resume(folder.path(), &manifest(2)).unwrap_err().to_string();
    assert!(error.contains("(seed was 1, is 2)"), "{error}");
    // Where it is known what was written, that is what is named.
    let with = |seed: u64, written: Value| {
        let mut manifest = manifest(seed);
        manifest["written"] = written;
        manifest
    };
    directory.write_manifest(&with(1, json!({"lora": {"alpha": 8}}))).unwrap();
    let other = json!({"evaluation": {"base": true}, "lora": {"alpha": 8.0}, "training": {"local_steps": 5}});
    let error = resume(folder.path(), &with(5, other)).unwrap_err().to_string();
    assert!(error.contains("(training.local_steps was not set, is 5)"), "{error}");
    let base_too = json!({"evaluation": {"base": true}, "lora": {"alpha": 8}});
    assert!(resume(folder.path(), &with(1, base_too)).is_ok());
    directory.write_manifest(&manifest(1)).unwrap();
    // The same settings in other words are the same settings.
    let mut reworded = manifest(1);
    reworded["scenario"]["assumptions"] = json!(["said otherwise"]);
    assert!(resume(folder.path(), &reworded).is_ok());
}

#[test]
fn c1_another_model_guard_judge_or_program_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    let mut other = manifest(1);
    other["checksums"]["model_sha256"] = json!("n");
    let mut guarded = manifest(1);
    guarded["guard"] = json!({"version": "g"});
    let mut judged = manifest(1);
    judged["judge"] = json!({"version": "j"});
    let mut measured = manifest(1);
    measured["checksums"]["measured_sha256"] = json!("p");
    let mut newer = manifest(1);
    newer["versions"]["fedward"] = json!("1");
    for (manifest, expected) in [
        (other, r#"(checksums.model_sha256 was "m", is "n")"#),
        (guarded, r#"(guard.version was not set, is "g")"#),
        (newer, r#"(versions.fedward was "0", is "1")"#),
        (judged.clone(), r#"(judge.version was not set, is "j"; it was begun by an earlier version of fedward"#),
        (measured.clone(), r#"(checksums.measured_sha256 was not set, is "p"; it was begun by an earlier version"#),
    ] {
        let error = resume(folder.path(), &manifest).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (begun, key, value) in [(judged, "judge", "version"), (measured, "checksums", "measured_sha256")] {
        directory.write_manifest(&begun).unwrap();
        assert!(resume(folder.path(), &begun).is_ok());
        let mut other = begun.clone();
        other[key][value] = json!("o");
        let error = resume(folder.path(), &other).unwrap_err().to_string();
        let was = &begun[key][value];
        assert!(error.contains(&format!("({key}.{value} was {was}, is \"o\")")), "{error}");
    }
    // One without a judge said so.
    let mut unjudged = manifest(1);
    unjudged["judge"] = Value::Null;
    directory.write_manifest(&unjudged).unwrap();
    let mut judged = unjudged;
    judged["judge"] = json!({"version": "j"});
    let error = resume(folder.path(), &judged).unwrap_err().to_string();
    assert!(error.contains(r#"(judge.version was not set, is "j")"#), "{error}");
}

#[test]
fn many_differences_are_counted_and_nothing_is_to_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    let mut other = manifest(1);
    for key in 0..20 {
        other["scenario"][format!("key_{key:02}")] = json!(key);
    }
    let error = directory.check_scenario(&other).unwrap_err().to_string();
    assert!(error.contains("key_07 was not set, is 7 and 12 more); resume with what it was begun with"), "{error}");
    directory.write_manifest(&json!({})).unwrap();
    let error = directory.check_scenario(&other).unwrap_err().to_string();
    assert!(error.contains("holds no scenario") && !error.contains("key_"), "{error}");
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

/// A run of three rounds, changed by `damage`: the error of resuming it, which changes nothing.
fn refused(damage: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let directory = RunDirectory::create(folder.path(), Unfinished::Keep).unwrap();
    directory.write_manifest(&manifest(1)).unwrap();
    let mut store = directory.share();
    for round in 1..=3 {
        let global = model(round as f32);
        let memories = [(ClientId(0), Arc::from([round as u8])), (ClientId(7), Arc::from([10 + round as u8]))];
        store.checkpoint(after(RoundId(round), &global, &[], &memories)).unwrap();
        store.append(&record(round, &global), &[client_row(round)]).unwrap();
    }
    damage(folder.path());
    let before = content(folder.path());
    let error = resume(folder.path(), &manifest(1)).map(|taken| taken.map(|(_, it)| it.round)).expect_err("is taken");
    assert_eq!(content(folder.path()), before, "something was changed: {error}");
    error.to_string()
}

#[test]
fn c1_rows_that_are_missing_doubled_swapped_or_changed_are_refused_and_nothing_is_deleted() {
    let edit = |name: &'static str, change: fn(Vec<&str>) -> Vec<String>| {
        refused(move |folder| {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            let lines = change(text.lines().collect());
            fs::write(folder.join(name), lines.join("\n") + "\n").unwrap();
        })
    };
    let error = edit(ROUNDS, |lines| vec![lines[1].into(), lines[2].into()]);
    assert!(error.contains("rounds.jsonl: row 1: expected round 1, found round 2"), "{error}");
    assert!(error.contains("the checkpoints of rounds 2 and 3 are left, nothing was changed"), "{error}");
    let error = edit(ROUNDS, |lines| vec![lines[0].into(), lines[1].into(), lines[1].into(), lines[2].into()]);
    assert!(error.contains("row 3: expected round 3, found round 2"), "{error}");
    let error = edit(ROUNDS, |lines| vec![lines[1].into(), lines[0].into(), lines[2].into()]);
    assert!(error.contains("row 1: expected round 1, found round 2"), "{error}");
    let error = edit(ROUNDS, |lines| {
        vec![lines[0].replace("\"train_tokens\":1", "\"train_tokens\":2"), lines[1].into(), lines[2].into()]
    });
    assert!(error.contains("its first 2 rows are not those that belong to"), "{error}");
    let error = edit(ROUNDS, |lines| vec![lines[0].into()]);
    assert!(
        error.contains("rows are missing: its last one is of round 1, but there is") && error.contains("round-00003"),
        "{error}"
    );
    let error = edit(CLIENTS, |lines| vec![lines[0].into(), lines[1].into()]);
    assert!(error.contains("clients.jsonl: the row of client-0 in round 3 is missing"), "{error}");
    let error = edit(CLIENTS, |lines| vec![lines[0].into(), lines[0].into(), lines[1].into(), lines[2].into()]);
    assert!(error.contains("clients.jsonl: client-0 of round 1 has a row too many"), "{error}");
    let error =
        edit(CLIENTS, |lines| vec![lines[0].replace("\"steps\":1", "\"steps\":2"), lines[1].into(), lines[2].into()]);
    assert!(error.contains("clients.jsonl: its first 2 rows are not those"), "{error}");
    let error = refused(|folder| fs::remove_file(folder.join(CLIENTS)).unwrap());
    assert!(error.contains("clients.jsonl: the row of client-0 in round 1 is missing"), "{error}");
    for text in [None, Some(""), Some("{\"round\": 1, \"outc")] {
        let error = refused(|folder| match text {
            None => fs::remove_file(folder.join(ROUNDS)).unwrap(),
            Some(text) => fs::write(folder.join(ROUNDS), text).unwrap(),
        });
        assert!(error.contains("rows are missing: its last one is of round 0"), "{error}");
        assert!(error.contains("the checkpoints of rounds 2 and 3 are left"), "{error}");
    }
}

#[test]
fn c1_client_states_that_are_missing_older_or_anothers_are_refused() {
    let state = |folder: &Path, client: u32, round: u32| folder.join(format!("clients/{client:05}/{round:05}.memory"));
    let error = refused(|folder| fs::remove_file(state(folder, 7, 3)).unwrap());
    assert!(error.contains("00007/00003.memory: is missing: the state of a client"), "{error}");
    assert!(
        error.contains("the state after round 2 is whole: without ") && error.contains("round-00003.checkpoint"),
        "{error}"
    );
    let error = refused(|folder| {
        fs::copy(state(folder, 7, 2), state(folder, 7, 3)).unwrap();
    });
    assert!(error.contains("00007/00003.memory: is not the state of that client"), "{error}");
    let error = refused(|folder| {
        fs::rename(state(folder, 7, 3), folder.join("aside")).unwrap();
        fs::rename(state(folder, 0, 3), state(folder, 7, 3)).unwrap();
        fs::rename(folder.join("aside"), state(folder, 0, 3)).unwrap();
    });
    assert!(error.contains("00000/00003.memory: is not the state of that client"), "{error}");
    let error = refused(|folder| fs::write(state(folder, 0, 3), [0; 40]).unwrap());
    assert!(error.contains("does not have its checksum"), "{error}");
    let error = refused(|folder| {
        fs::create_dir_all(state(folder, 9, 2).parent().unwrap()).unwrap();
        fs::copy(state(folder, 7, 2), state(folder, 9, 2)).unwrap();
    });
    assert!(error.contains("00009/00002.memory: is no state of a client"), "{error}");
    let error = refused(|folder| fs::remove_file(folder.join("clients/states.jsonl")).unwrap());
    assert!(error.contains("states.jsonl: is not the index of client states"), "{error}");
}

#[test]
fn a_state_that_is_whole_is_gone_on_from_as_the_error_says() {
    let folder = tempfile::tempdir().unwrap();
    begun(folder.path());
    fs::remove_file(folder.path().join("clients/00000/00003.memory")).unwrap();
    assert!(resume(folder.path(), &manifest(1)).is_err());
    fs::remove_file(Checkpoint::path(&folder.path().join("checkpoints"), RoundId(3))).unwrap();
    let (directory, checkpoint) = resume(folder.path(), &manifest(1)).unwrap().unwrap();
    assert_eq!(checkpoint.round, RoundId(2));
    // What comes then belongs together again.
    let mut store = directory.share();
    store.checkpoint(after(RoundId(3), &model(3.0), &[], &[(ClientId(0), Arc::from([3]))])).unwrap();
    store.append(&record(3, &model(3.0)), &[client_row(3)]).unwrap();
    assert_eq!(resume(folder.path(), &manifest(1)).unwrap().unwrap().1.round, RoundId(3));
}

#[test]
fn a_crash_before_the_first_row_begins_afresh() {
    let folder = tempfile::tempdir().unwrap();
    let directory = RunDirectory::create(folder.path(), Unfinished::Keep).unwrap();
    directory.write_manifest(&manifest(1)).unwrap();
    assert!(resume(folder.path(), &manifest(1)).unwrap().is_none());
    directory.share().checkpoint(after(RoundId(1), &model(1.0), &[], &[(ClientId(0), Arc::from([1]))])).unwrap();
    assert!(resume(folder.path(), &manifest(1)).unwrap().is_none());
    // The clients' rows come before the round's.
    rows::append(&folder.path().join(CLIENTS), &[client_row(1)]).unwrap();
    assert!(resume(folder.path(), &manifest(1)).unwrap().is_none());
    // One that was interrupted then has summed up no round.
    directory.write_summary(&json!({"status": "interrupted", "totals": {"rounds": 0}})).unwrap();
    assert!(resume(folder.path(), &manifest(1)).unwrap().is_none());
}

#[test]
fn c1_a_run_of_one_round_whose_row_is_lost_is_refused_and_nothing_is_deleted() {
    for text in [None, Some(""), Some("{\"round\": 1, \"outc")] {
        for (summary, has_client_rows, told) in [
            (Some(json!({"status": "completed", "totals": {"rounds": 1}})), true, "summary.json"),
            (Some(json!({"status": "completed", "totals": {"rounds": 1}})), false, "summary.json"),
            (Some(json!({"status": "interrupted", "totals": {"rounds": 1}})), false, "summary.json"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let directory = RunDirectory::create(folder.path(), Unfinished::Keep).unwrap();
            directory.write_manifest(&manifest(1)).unwrap();
            let mut store = directory.share();
            store.checkpoint(after(RoundId(1), &model(1.0), &[], &[(ClientId(0), Arc::from([1]))])).unwrap();
            store.append(&record(1, &model(1.0)), &[client_row(1)]).unwrap();
            let is_completed = summary.as_ref().is_some_and(|summary| summary["status"] == "completed");
            if let Some(summary) = &summary {
                directory.write_summary(summary).unwrap();
            }
            if !has_client_rows {
                fs::remove_file(folder.path().join(CLIENTS)).unwrap();
            }
            match text {
                None => fs::remove_file(folder.path().join(ROUNDS)).unwrap(),
                Some(text) => fs::write(folder.path().join(ROUNDS), text).unwrap(),
            }
            let before = content(folder.path());
            let error = resume(folder.path(), &manifest(1)).expect_err("is taken").to_string();
            assert!(error.contains("rounds.jsonl: rows are missing: its last one is of round 0"), "{error}");
            assert!(error.contains(told) && error.contains("the checkpoint of round 1 is left"), "{error}");
            assert!(error.contains("--overwrite"), "{error}");
            // A run that has not completed stays without --resume, too.
            assert_eq!(RunDirectory::check_place(folder.path(), Unfinished::Keep).is_ok(), is_completed);
            assert_eq!(content(folder.path()), before, "{error}");
        }
    }
}

/// Versions before this one named nothing in checkpoints and had no index.
#[test]
fn a_run_of_an_earlier_version_is_gone_on_with_and_known_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    begun(folder.path());
    for round in [2, 3] {
        let checkpoints = folder.path().join("checkpoints");
        Checkpoint::read(&checkpoints, RoundId(round)).unwrap().write(&checkpoints, None).unwrap();
    }
    fs::remove_file(folder.path().join("clients/states.jsonl")).unwrap();
    let (directory, checkpoint) = resume(folder.path(), &manifest(1)).unwrap().unwrap();
    assert_eq!(checkpoint.round, RoundId(3));
    let mut store = directory.share();
    store.checkpoint(after(RoundId(4), &model(4.0), &[], &[])).unwrap();
    store.append(&record(4, &model(4.0)), &[client_row(4)]).unwrap();
    assert_eq!(resume(folder.path(), &manifest(1)).unwrap().unwrap().1.round, RoundId(4));
    fs::remove_file(folder.path().join("clients/00000/00003.memory")).unwrap();
    let error = resume(folder.path(), &manifest(1)).unwrap_err().to_string();
    assert!(error.contains("00003.memory: is missing"), "{error}");
}

#[test]
fn other_code_is_gone_on_with_only_where_it_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = begun(folder.path());
    let built = |code: &str, cpu: &str| {
        let mut manifest = manifest(1);
        manifest["code"] = json!(code);
        manifest["instructions"] = json!({"libtorch": cpu});
        manifest
    };
    directory.write_manifest(&built("a", "AVX512")).unwrap();
    let other = built("b", "AVX2");
    let error = resume(folder.path(), &other).unwrap_err().to_string();
    assert!(error.contains(r#"(code was "a", is "b")"#) && error.contains("--allow-code-change"), "{error}");
    let recorded = json!({"scenario": {"seed": 1}});
    assert!(directory.check_resumable(&recorded, "b", CodeChange::Refuse).is_err());
    assert!(directory.check_resumable(&recorded, "b", CodeChange::Allow).is_ok());
    assert!(RunDirectory::resume(folder.path(), &other, CodeChange::Allow).unwrap().is_some());
    // From then on it is the run's.
    let change = json!([{"after_round": 3, "code": "b", "instructions": {"libtorch": "AVX2"}}]);
    assert_eq!(directory.manifest().unwrap()["resumed"], change);
    assert!(resume(folder.path(), &other).unwrap().is_some());
    assert_eq!(directory.manifest().unwrap()["resumed"], change);
    // One that has completed is not computed any more.
    directory.write_summary(&json!({"status": "completed"})).unwrap();
    assert!(directory.check_resumable(&recorded, "c", CodeChange::Refuse).is_ok());
}

#[test]
fn leftovers_of_killed_writes_go_when_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    begun(folder.path());
    let left = [
        "summary.json.4194999.tmp",
        "checkpoints/round-00004.checkpoint.4194999.tmp",
        "clients/00000/00004.memory.4194999.tmp",
    ];
    let kept = ["draft.4194999.tmp", "checkpoints/draft.4194999.tmp", "clients/00000/draft.4194999.tmp"];
    for name in left.iter().chain(&kept) {
        fs::write(folder.path().join(name), "half").unwrap();
    }
    resume(folder.path(), &manifest(1)).unwrap().unwrap();
    assert!(left.iter().all(|name| !folder.path().join(name).exists()));
    assert!(kept.iter().all(|name| folder.path().join(name).exists()));
    // Nor is a folder with somebody's own file empty.
    let theirs = tempfile::tempdir().unwrap();
    fs::write(theirs.path().join("summary.json.4194999.tmp"), "half").unwrap();
    assert!(RunDirectory::check_place(theirs.path(), Unfinished::Keep).is_ok());
    fs::write(theirs.path().join("draft.4194999.tmp"), "mine").unwrap();
    assert!(RunDirectory::check_place(theirs.path(), Unfinished::Keep).is_err());
}
