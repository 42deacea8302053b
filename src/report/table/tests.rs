use serde_json::{Value, json};

use super::*;

fn summary(name: &str, start: &Value, end: &Value) -> Summary {
    let totals = json!({
        "rounds": 1, "train_tokens": 1, "seconds": 1.0, "peak_memory_bytes": 0, "accepted": 1, "clipped": 0,
        "rejected": 0, "dropped": 0, "rows_kept": 6, "rows_filtered": 0, "rows_reweighted": 4, "rows_kept_unsafe": 1,
        "rows_filtered_safe": 2, "reweighted_weight": 1.25, "reweighted_unsafe_weight": 0.5,
    });
    serde_json::from_value(json!({
        "scenario": "s", "variant": name, "status": "completed", "start_eval": start, "eval": end, "totals": totals,
        "adapter_sha256": "", "assumptions": [],
    }))
    .unwrap()
}

fn comparison_of(start: &Value, ends: [&Value; 2]) -> Comparison {
    let runs = [summary("a", start, ends[0]), summary("b", start, ends[1])];
    Comparison::of(runs.iter().map(|run| (run.label(), run)))
}

#[test]
fn every_benchmark_that_a_run_has_is_a_column_with_what_it_rests_on() {
    let start = json!({
        "advbench": {"n": 64, "refusal_rate": 0.75, "ci_low": 0.5, "ci_high": 0.875},
        "hhh": {"n": 221, "macro": 0.5, "macro_length_normalised": 0.25},
        "xstest": {"n": 45, "over_refusal_rate": 0.12, "safe_n": 25.0, "unsafe_n": 20.0},
        "mt_bench": {"n": 80, "rating": 3.125, "rated": 60.0, "unparsable": 15.0, "judge_failures": 5.0},
        "utility": {"n": 48, "perplexity": 17.4},
    });
    let end = json!({
        "advbench": {"n": 64, "refusal_rate": 0.5, "ci_low": 0.25, "ci_high": 0.75},
        "mt_bench": {"n": 80, "rated": 0.0, "unparsable": 80.0, "judge_failures": 0.0},
    });
    let Comparison { columns, lines, reading, .. } = comparison_of(&start, [&start, &end]);
    assert_eq!(columns.len(), 6 + 4);
    assert_eq!(lines[0][1], "0.75 (48 of 64)");
    assert_eq!(lines[0][6..], ["17.40 (n=48)", "0.50, 0.25 (n=221)", "0.12 (3 of 25)", "3.12 (60 of 80 rated)"]);
    assert_eq!(
        lines[1][1..],
        [&lines[0][1..3], &["+0.00", "1.5 of 7.2", "2"].map(str::to_owned), &lines[0][6..]].concat()
    );
    assert_eq!(lines[2][3], "-0.25");
    assert_eq!(lines[2][6..], ["", "", "", "none (0 of 80 rated)"]);
    assert_eq!(reading.len(), 3 + 4);
}

#[test]
fn benchmarks_of_one_s_own_are_columns_under_their_names() {
    let start = json!({"mine": {"n": 4, "accuracy": 0.25}});
    let end =
        json!({"mine": {"n": 4, "accuracy": 0.5}, "harmbench": {"n": 2, "refusal_rate": 0.5, "guard_safe_rate": 1.0}});
    let Comparison { columns, lines, reading, .. } = comparison_of(&start, [&start, &end]);
    assert_eq!(columns[6..], ["harmbench\nrefused", "harmbench\njudged\nsafe", "mine\nright"]);
    assert_eq!(lines[0][6..], ["", "", "0.25 (1 of 4)"]);
    assert_eq!(lines[2][6..], ["0.50 (1 of 2)", "1.00 (2 of 2)", "0.50 (2 of 4)"]);
    assert!(reading.last().unwrap().starts_with("other benchmarks"));
}

#[test]
fn a_benchmark_that_no_run_has_is_no_column() {
    let likelihood = json!({"mt_bench_reference_likelihood": {"n": 30, "mean_log_likelihood": -2.5}});
    let Comparison { columns, lines, .. } = comparison_of(&json!({}), [&likelihood, &json!({})]);
    assert_eq!(columns[6..], ["MT-Bench\nreferences,\nnats a token"]);
    assert_eq!(lines.len(), 2, "nothing is known of the start");
    assert_eq!((lines[0][6].as_str(), lines[1][6].as_str()), ("-2.50 (n=30)", ""));
}

#[test]
fn different_starts_have_a_line_each_and_other_prompts_are_not_compared() {
    let score = |n: u64, rate: f64| json!({"advbench": {"n": n, "refusal_rate": rate}});
    let runs = [
        summary("a", &score(64, 0.75), &score(64, 0.5)),
        summary("b", &score(64, 0.25), &score(4, 0.5)),
        summary("c", &score(64, 0.75), &score(64, 1.0)),
        summary("unfinished", &json!({}), &json!({})),
    ];
    let Comparison { lines, warnings, .. } = Comparison::of(runs.iter().map(|run| (run.label(), run)));
    let found: Vec<_> = lines.iter().map(|line| (line[0].as_str(), line[1].as_str(), line[3].as_str())).collect();
    assert_eq!(
        found,
        [
            ("start of a, c", "0.75 (48 of 64)", ""),
            ("start of b", "0.25 (16 of 64)", ""),
            ("a", "0.50 (32 of 64)", "-0.25"),
            ("b", "0.50 (2 of 4)", ""),
            ("c", "1.00 (64 of 64)", "+0.25"),
            ("unfinished", "", ""),
        ]
    );
    assert_eq!(
        warnings,
        [
            "warning: advbench was not measured on the same prompts, its numbers cannot be compared: n=4 in b; n=64 in a, c"
        ]
    );
    let told = comparison(&runs);
    assert!(told.contains(&warnings[0]), "{told}");
}

#[test]
fn the_base_model_stands_above_the_start() {
    let score = |perplexity: f64| json!({"utility": {"n": 48, "perplexity": perplexity}});
    let mut runs = ["a", "b"].map(|name| summary(name, &score(17.0), &score(16.0)));
    for run in &mut runs {
        run.base_eval = Some(serde_json::from_value(score(20.0)).unwrap());
    }
    let lines = |runs: &[Summary]| Comparison::of(runs.iter().map(|run| (run.label(), run))).lines;
    let names = |runs: &[Summary]| lines(runs).iter().map(|line| line[0].clone()).collect::<Vec<_>>();
    assert_eq!(names(&runs), ["base", "start", "a", "b"]);
    assert_eq!(lines(&runs)[0][6], "20.00 (n=48)");
    runs[1].base_eval = None;
    assert_eq!(names(&runs), ["base", "start", "a", "b"]);
    // What Constitutional AI took is a column, where any run had it.
    runs[1].totals.realignments.sft = Cost { seconds: 7.0, tokens: 10, flops: 2e12 };
    let Comparison { columns, lines, .. } = Comparison::of(runs.iter().map(|run| (run.label(), run)));
    assert_eq!(columns.last().unwrap(), "CAI:\nseconds,\nTFLOP");
    assert!(lines.iter().all(|line| line.len() == columns.len()), "{lines:?}");
    assert_eq!(lines.iter().map(|line| line.last().unwrap().as_str()).collect::<Vec<_>>(), ["", "", "", "7, 2.0"]);
    // And so are faults, where any were put in.
    runs[0].totals.faults = [("crash".to_owned(), 2), ("offline".to_owned(), 1)].into();
    (runs[0].totals.dropped, runs[0].totals.counted) = (3, Some(0));
    let Comparison { columns, lines, reading, .. } = Comparison::of(runs.iter().map(|run| (run.label(), run)));
    assert_eq!(columns[columns.len() - 2..], ["faults\nput in", "updates\nthat\ncounted"]);
    let cells: Vec<_> = lines.iter().map(|line| line[line.len() - 2..].to_vec()).collect();
    assert_eq!(cells, [["", ""], ["", ""], ["3", "0 of 4"], ["0", "1 of 1"]]);
    assert!(reading.last().unwrap().starts_with("updates that counted: "));
}
