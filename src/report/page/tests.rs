use std::{fs, path::Path};

use fedward_actors::records::{ClientOutcome, RoundOutcome};
use serde_json::{Value as Json, json};

use super::*;
use crate::report::RunState;

fn evaluation(rate: f64) -> Json {
    let advbench = json!({"n": 64, "refusal_rate": rate, "ci_low": rate - 0.1, "ci_high": rate});
    json!({"advbench": advbench, "mine": {"n": 4, "accuracy": rate}})
}

/// A run of two rounds as `fedward run` leaves it, with or without its summary.
fn stored(folder: &Path, variant: &str, started: u64, status: Option<&str>) {
    fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    let scenario = json!({"name": "a <b> scenario", "variant": variant, "question": "what?"});
    write("manifest.json", json!({"scenario": scenario, "started_unix_seconds": started}).to_string());
    let round = |round: u32, rate: f64| {
        json!({
            "round": round, "outcome": RoundOutcome::Committed, "cohort": [0], "accepted": 1, "clipped": 0, "rejected": 0,
            "dropped": 0, "rows_kept": 30, "rows_filtered": 10, "rows_kept_unsafe": 3, "rows_filtered_safe": 1,
            "train_loss": 2.5, "train_tokens": 100, "trainings_reused": 0, "train_tokens_per_second": 50.0,
            "update_norm": 1.0, "adapter_bytes_up": 24, "adapter_bytes_down": 24,
            "seconds": {"select": 0.0, "broadcast": 0.0, "train": 2.0, "screen": 0.0, "aggregate": 0.0, "align": 0.0,
                        "evaluate": 1.0, "commit": 0.0},
            "align": (round == 2).then(|| json!({
                "red_prompts": 8, "revisions": 5, "good_answers": 2, "discarded": {"unfinished": 1, "unsafe": 3}, "steps": 9,
                "generated_tokens": 480, "train_tokens": 900, "preference": {"pairs": 4, "steps": 3},
                "cost": {"generate": {"seconds": 1.5, "tokens": 600, "flops": 1e12},
                         "sft": {"seconds": 1.0, "tokens": 900, "flops": 2.5e12}},
            })), "eval": evaluation(rate), "warnings": [], "adapter_sha256": "",
        })
    };
    write("rounds.jsonl", format!("{}\n{}\n", round(1, 0.5), round(2, 0.25)));
    let client = |round: u32| {
        json!({
            "round": round, "client": 0, "outcome": ClientOutcome::Accepted, "attempt": 1,
            "guard": {"kept": 30, "filtered": 10, "kept_unsafe": 3, "filtered_safe": 1}, "steps": 5,
            "train_tokens": 100, "train_loss": 2.5, "train_seconds": 2.0, "reused": false, "update_norm": 1.0, "clipped_to": null,
        })
    };
    write("clients.jsonl", format!("{}\n{}\n", client(1), client(2)));
    if let Some(status) = status {
        let summary = json!({
            "scenario": "a <b> scenario", "variant": variant, "status": status,
            "start_eval": evaluation(0.75), "eval": evaluation(0.25),
            "totals": {"rounds": 2, "train_tokens": 200, "seconds": 6.0, "peak_memory_bytes": 0, "accepted": 2, "clipped": 0,
                       "rejected": 0, "dropped": 0, "rows_kept": 60, "rows_filtered": 20, "rows_kept_unsafe": 6,
                       "rows_filtered_safe": 2},
            "adapter_sha256": "", "assumptions": ["greedy decoding"],
        });
        write("summary.json", summary.to_string());
    }
}

#[test]
fn a_page_holds_the_numbers_escapes_names_and_asks_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    stored(folder.path(), "guard", 1, Some("completed"));
    let page = page(&StoredRun::read_all(&[folder.path().to_owned()]).unwrap()).unwrap();
    for expected in [
        "a &lt;b&gt; scenario · guard",
        "<td>0.25 (16 of 64)</td>",
        "<td>advbench</td><td class=\"words\">refusal_rate</td><td>64</td><td>0.75</td><td>0.25</td>",
        "<td>6 of 60</td>",
        "greedy decoding",
        "<td>8</td><td>2</td><td>5</td>\n    <td class=\"words\">1 unfinished, 3 unsafe</td>\n    <td>4</td><td>9</td><td>3</td>",
        "<td>480</td><td>2.5</td><td>3.5</td>",
        "Harmful prompts refused, by round",
        "mine: share right, by round",
        "harmful prompts refused: share of held-out AdvBench prompts",
        "Client losses, by round",
        "default-src 'none'",
    ] {
        assert!(page.contains(expected), "{expected} is missing in {page}");
    }
    assert!(!page.contains("<b>"), "a name is not escaped");
    let without_namespace = page.replace("http://www.w3.org/2000/svg", "");
    for forbidden in ["http:", "https:", "<script", "<link", "<img", "src="] {
        assert!(!without_namespace.contains(forbidden), "{forbidden} is in {page}");
    }
}

#[test]
fn variants_stand_side_by_side_in_the_order_in_which_they_began() {
    let folder = tempfile::tempdir().unwrap();
    stored(&folder.path().join("b"), "b", 1, Some("completed"));
    stored(&folder.path().join("a"), "a", 2, Some("completed"));
    let runs = StoredRun::read_all(&[folder.path().to_owned()]).unwrap();
    assert_eq!(runs.iter().map(|run| run.label.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let page = page(&runs).unwrap();
    assert!(page.contains("<td>start</td><td>0.75 (48 of 64)</td>"), "{page}");
    assert_eq!(page.matches("Client losses: ").count(), 2 * 2, "a title and a label each");
    assert!(page.contains("<h1>a &lt;b&gt; scenario</h1>"), "{page}");
}

#[test]
fn runs_of_one_name_are_told_apart_by_their_directories() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| folder.path().join(name));
    for path in &paths {
        stored(path, "guard", 1, Some("completed"));
    }
    let runs = StoredRun::read_all(&paths).unwrap();
    assert!(runs[0].label.ends_with("one") && runs[1].label.ends_with("two"), "{} {}", runs[0].label, runs[1].label);
}

#[test]
fn half_a_run_is_reported_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    stored(&folder.path().join("a"), "a", 1, Some("interrupted"));
    stored(&folder.path().join("b"), "b", 2, None);
    // A crash cut the last row off: it is no round.
    let rows = folder.path().join("b/rounds.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, &text[..text.len() - 20]).unwrap();
    let runs = StoredRun::read_all(&[folder.path().to_owned()]).unwrap();
    assert_eq!([runs[0].state, runs[1].state], [RunState::Interrupted, RunState::Unfinished]);
    let page = page(&runs).unwrap();
    assert!(page.contains("interrupted after round 2; --resume goes on from there"), "{page}");
    assert!(page.contains("no summary.json: it runs still, or was killed after round 1"), "{page}");
}

#[test]
fn what_is_no_run_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| StoredRun::read_all(&[path.to_owned()]).unwrap_err().to_string();
    assert!(refused(folder.path()).contains("holds no run: neither a manifest.json nor a folder with one"));
    assert!(refused(&folder.path().join("missing")).contains("missing: No such file"));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(refused(&file).contains("is a file; expected the directory of a run"));
    stored(folder.path(), "a", 1, Some("completed"));
    fs::write(folder.path().join("rounds.jsonl"), "{\"round\": 1}\n").unwrap();
    let broken = refused(folder.path());
    assert!(broken.contains("rounds.jsonl: line 1: missing field"), "{broken}");
}
