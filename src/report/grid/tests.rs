//! Tables and plots of made-up results.

use std::collections::BTreeMap;

use fedward_actors::{
    ports::{BenchmarkScore, Cost, PreferenceReport, RealignmentCost, RealignmentReport},
    records::{GuardCounts, PhaseSeconds},
};

use super::*;
use crate::report::{RunStatus, Totals};

/// That what is written can be computed anew.
mod recomputed;

fn evaluation(refused: f64) -> Evaluation {
    let score =
        |name: &str, value| BenchmarkScore { n: 10, items: None, values: BTreeMap::from([(name.to_owned(), value)]) };
    let values = [("refusal_rate".to_owned(), refused), ("refusal_rate_openfedllm".to_owned(), refused)];
    let refusals = BenchmarkScore { n: 10, items: None, values: values.into() };
    BTreeMap::from([("advbench".to_owned(), refusals), ("utility".to_owned(), score("perplexity", 16.0))])
}

fn cell(strategy: &str, defence: &str, seed: u64, refused: f64) -> CellResult {
    let summary = Summary {
        scenario: "grid".into(),
        variant: defence.into(),
        status: RunStatus::Completed,
        base_eval: None,
        start_eval: evaluation(0.9),
        eval: evaluation(refused),
        totals: Totals { rounds: 2, ..Totals::default() },
        adapter_sha256: String::new(),
        assumptions: Vec::new(),
    };
    CellResult {
        strategy: strategy.into(),
        defence: defence.into(),
        point: Vec::new(),
        seed,
        start_sha256: format!("start {seed}"),
        summary,
        rounds: Vec::new(),
        guard: None,
    }
}

/// A round in which nothing happened.
fn round() -> RoundRecord {
    let seconds = serde_json::to_value(PhaseSeconds::default()).unwrap();
    serde_json::from_value(serde_json::json!({
        "round": 1, "outcome": "committed", "cohort": [], "accepted": 0, "clipped": 0, "rejected": 0, "dropped": 0,
        "rows_kept": 0, "rows_filtered": 0, "rows_kept_unsafe": 0, "rows_filtered_safe": 0, "train_loss": null,
        "train_tokens": 0, "trainings_reused": 0, "train_tokens_per_second": null, "update_norm": null,
        "adapter_bytes_up": 0, "adapter_bytes_down": 0, "seconds": seconds, "align": null, "eval": {}, "warnings": [],
        "adapter_sha256": "",
    }))
    .unwrap()
}

#[test]
fn ours_stand_beside_the_papers_and_nothing_stands_for_what_was_not_measured() {
    // Mean 30, sample standard deviation 10.
    let cells = [("none", 1, 0.2), ("none", 2, 0.4), ("none", 3, 0.3), ("cai-light", 1, 0.8)]
        .map(|(defence, seed, refused)| cell("scaffold", defence, seed, refused));
    let text = markdown("a grid", &cells);
    assert!(
        text.contains("| defence | scaffold AdvBench | scaffold HHH | scaffold MT-Bench |\n|---|---:|---:|---:|\n"),
        "{text}"
    );
    assert!(text.contains("\n| none | 30.0 ± 10.0 (72.7) | – (49.5) | – (2.9) |\n"), "{text}");
    assert!(text.contains("\n| cai-light | 80.0 | – | – |\n"), "{text}");
    assert!(text.contains("\n| start, no FL | 90.0 ± 0.0 (99.6) |"), "{text}");
    assert!(!text.contains("base, no FL") && !text.contains("| guard |"), "{text}");
    let csv = csv(&cells);
    for line in ["1,AdvBench,20", "2,AdvBench,40", "3,AdvBench,30"] {
        assert!(csv.contains(&format!("\nscaffold,none,{line},10,72.7\n")), "{csv}");
    }
    assert!(!csv.contains("MT-Bench"), "{csv}");
}

/// `scipy.stats.t.interval(.95, 2, loc=d.mean(), scale=scipy.stats.sem(d))` of d = 40, 50, 45: (32.58, 57.42).
#[test]
fn defences_are_compared_over_the_seeds_that_both_have() {
    let cells = [
        ("none", 1, 0.2),
        ("none", 2, 0.1),
        ("none", 3, 0.2),
        ("none", 4, 0.9),
        ("filter", 1, 0.6),
        ("filter", 2, 0.6),
        ("filter", 3, 0.65),
        ("filter+cai", 1, 0.8),
    ];
    let text = markdown("a grid", &cells.map(|(defence, seed, refused)| cell("fedavg", defence, seed, refused)));
    let line = "| fedavg | filter − none | +45.0, +32.6 to +57.4 [+40.0 to +50.0] | +0.00, +0.00 to +0.00 [+0.00 to +0.00] | 3 |";
    assert!(
        text.contains(&format!(
            "| strategy | compared | refused | perplexity | seeds |\n|---|---|---:|---:|---:|\n{line}\n"
        )),
        "{text}"
    );
    assert!(!text.contains("filter+cai −"), "one seed shows no difference: {text}");
    let more = [
        ("none", 1, 0.2),
        ("none", 2, 0.3),
        ("cai", 1, 0.8),
        ("cai", 2, 0.8),
        ("filter+cai", 1, 0.7),
        ("filter+cai", 2, 0.9),
    ];
    let text = markdown("a grid", &more.map(|(defence, seed, refused)| cell("fedavg", defence, seed, refused)));
    for compared in ["cai − none", "filter+cai − none", "filter+cai − cai"] {
        assert!(text.contains(&format!("| fedavg | {compared} |")), "{compared}: {text}");
    }
    let controls =
        ["none", "filter", "filter-random"].into_iter().flat_map(|defence| [(defence, 1, 0.2), (defence, 2, 0.3)]);
    let cells: Vec<_> = controls.map(|(defence, seed, refused)| cell("fedavg", defence, seed, refused)).collect();
    assert!(markdown("a grid", &cells).contains("| fedavg | filter-random − filter |"));
}

#[test]
fn cells_that_started_elsewhere_are_told() {
    let mut cells = [("none", 1), ("filter", 1), ("none", 2)].map(|(defence, seed)| cell("fedavg", defence, seed, 0.5));
    assert!(!markdown("a grid", &cells).contains("different adapters"));
    "another".clone_into(&mut cells[1].start_sha256);
    let text = markdown("a grid", &cells);
    assert!(text.contains("Cells of seed 1 started from different adapters"), "{text}");
    assert!(!text.contains("seed 2 started"), "{text}");
}

#[test]
fn without_a_judge_the_references_have_a_column() {
    let mut of = cell("fedavg", "none", 1, 0.2);
    assert!(!markdown("a grid", &[of.clone()]).contains("| reference perplexity |"));
    for (evaluation, perplexity) in [(&mut of.summary.start_eval, 7.4), (&mut of.summary.eval, 20.1)] {
        let values = [("perplexity".to_owned(), perplexity)].into();
        evaluation.insert("mt_bench_reference_likelihood".to_owned(), BenchmarkScore { n: 30, items: None, values });
    }
    let text = markdown("a grid", &[of]);
    assert!(text.contains("| perplexity | reference perplexity |"), "{text}");
    assert!(text.contains("| 16.0 | 20.1 |"), "{text}");
    assert!(text.contains("| 16.0 | 7.4 |"), "{text}");
}

#[test]
fn hhh_stands_beside_chance_and_in_both_normalisations() {
    let values = [("macro", 0.45), ("macro_length_normalised", 0.55), ("chance", 0.5)];
    let hhh =
        BenchmarkScore { n: 10, items: None, values: values.map(|(name, value)| (name.to_owned(), value)).into() };
    let mut of = cell("fedavg", "none", 1, 0.2);
    for eval in [&mut of.summary.eval, &mut of.summary.start_eval] {
        eval.insert("hhh".to_owned(), hhh.clone());
    }
    let text = markdown("a grid", std::slice::from_ref(&of));
    assert!(text.contains("\n| none | 20.0 (72.5) | 45.0 (49.3) | – (2.7) |"), "{text}");
    assert!(text.contains("\n| chance | – | 50.0 | – |\n"), "{text}");
    assert!(text.contains("| fedavg | none | 20.0 | – | 55.0 | – | 16.0 |"), "{text}");
    let csv = csv(&[of]);
    assert!(csv.contains("\n,chance,1,HHH,50,10,\n") && csv.contains("\nfedavg,none,1,HHH by mean,55"), "{csv}");
}

#[test]
fn plots_name_their_configurations() {
    let cells = [cell("fedavg", "none", 1, 0.2), cell("fedavg", "none", 2, 0.4), cell("fedavg", "filter", 1, 0.7)];
    let others = [cell("scaffold", "none", 1, 0.3), cell("scaffold", "filter", 1, 0.6)];
    let charts = charts(&[&cells[..], &others].concat()).unwrap();
    let found: Vec<_> = charts.iter().map(|(name, _)| name.as_str()).collect();
    let of_strategies = ["safety-by-round-fedavg.svg", "safety-by-round-scaffold.svg"];
    let of_all = ["safety-against-utility.svg", "safety-against-cost.svg", "cost-of-cai.svg"];
    assert_eq!(found, [&of_strategies[..], &of_all].concat());
    for ((name, svg), strategy) in charts.iter().zip(["fedavg", "scaffold"]) {
        let svg = svg.standalone();
        assert!(svg.contains(&format!("by round: {strategy}")), "{name}");
        assert!(svg.contains("filter") && !svg.contains(&format!("{strategy} filter")), "{name}");
    }
    for (name, svg) in &charts[2..] {
        let svg = svg.standalone();
        assert!(svg.contains("fedavg filter") && svg.contains("scaffold none"), "{name}");
    }
}

#[test]
fn verdicts_are_drawn_by_round_where_a_guard_gave_them() {
    let mut judged = cell("fedavg", "filter", 1, 0.7);
    for evaluation in [&mut judged.summary.start_eval, &mut judged.summary.eval] {
        evaluation.get_mut("advbench").unwrap().values.insert("guard_safe_rate".into(), 0.8);
    }
    let charts = charts(&[judged, cell("scaffold", "none", 1, 0.3)]).unwrap();
    let of = |name: &str| charts.iter().find(|(found, _)| found == name).map(|(_, svg)| svg.standalone());
    assert!(of("judged-safe-by-round-fedavg.svg").unwrap().contains("judged safe, %"));
    assert!(of("judged-safe-by-round-scaffold.svg").is_none());
}

#[test]
fn a_light_form_stands_beside_its_full_one() {
    let with_cost = |defence: &str, refused: f64, cost: f64| {
        let part = Cost { seconds: cost, tokens: 2000 * cost as u64, flops: 3e12 * cost };
        let cost = RealignmentCost { generate: part, sft: part, dpo: Cost::default() };
        let first = RealignmentReport {
            red_prompts: 8,
            good_answers: 2,
            revisions: 5,
            discarded: BTreeMap::from([("unsafe".to_owned(), 1)]),
            preference: Some(PreferenceReport { pairs: 5, ..PreferenceReport::default() }),
            cost,
            ..RealignmentReport::default()
        };
        let second = RealignmentReport { preference: None, ..first.clone() };
        let rounds = [first, second].map(|report| RoundRecord { align: Some(report), ..round() }).into();
        CellResult { rounds, ..cell("fedavg", defence, 1, refused) }
    };
    let cells = [
        cell("fedavg", "none", 1, 0.2),
        with_cost("cai", 0.7, 100.0),
        with_cost("cai-light", 0.6, 5.0),
        cell("fedavg", "filter", 1, 0.8),
        with_cost("filter+cai", 0.9, 10.0),
        with_cost("filter+cai-light", 0.85, 1.0),
    ];
    let text = markdown("a grid", &cells);
    assert!(text.contains("| fedavg | cai-light beside cai | none | 40.0 of 50.0 | – | 5% | 5% | 5% |"), "{text}");
    assert!(text.contains("minutes a round | – | – | – | 4% | – | – |"), "{text}");
    // What the filter does is not the light form's merit.
    assert!(
        text.contains("| fedavg | filter+cai-light beside filter+cai | filter | 5.0 of 10.0 | – | 10% | 10% | 10% |"),
        "{text}"
    );
    // Two rounds: 16 prompts, 4 answers kept, 10 revised, 2 discarded, 5 pairs for DPO.
    assert!(text.contains("\n| fedavg | cai | 16.0 | 4.0 | 10.0 | 2.0 | 5.0 | 400.0 | 800.0 | 1200.0 |\n"), "{text}");
    let (_, realigned) = text.split_once("| Constitutional AI, a run |").unwrap();
    let (realigned, _) = realigned.split_once("\n\n").unwrap();
    assert_eq!(realigned.lines().count(), 2 + 4, "{realigned}");
    let csv = csv(&cells);
    for line in [
        "cai_answers_kept,4,,",
        "cai_pairs_for_dpo,5,,",
        "cai_seconds,400,,",
        "cai_kilotokens,800,,",
        "cai_teraflops,1200,,",
    ] {
        assert!(csv.contains(&format!("\nfedavg,cai,1,{line}\n")), "{csv}");
    }
    assert!(!markdown("a grid", &cells[..2]).contains("beside full"), "no light form, no table of it");
}

#[test]
fn strategies_stand_side_by_side_and_more_of_them_below() {
    let cells = [
        cell("fedavg", "none", 1, 0.2),
        cell("fedavg", "filter", 1, 0.7),
        cell("scaffold", "none", 1, 0.3),
        cell("fedprox", "filter", 1, 0.6),
    ];
    let text = markdown("a grid", &cells);
    assert!(
        text.contains("\n| none | 20.0 (72.5) | – (49.3) | – (2.7) | 30.0 (72.7) | – (49.5) | – (2.9) |\n"),
        "{text}"
    );
    assert!(
        text.contains("\n| filter | 70.0 (81.2) | – (51.8) | – (2.4) | – (78.8) | – (54.6) | – (2.7) |\n"),
        "{text}"
    );
    let (_, below) = text.split_once("| defence | fedprox AdvBench |").unwrap();
    assert!(below.contains("\n| filter | 60.0 | – | – |\n") && !below.contains("\n| none |"), "{text}");
}

#[test]
fn base_guard_and_rows_have_their_place() {
    let of = |defence, seed| cell("fedavg", defence, seed, 0.7);
    let mut cells = [of("none", 1), of("none", 2), of("filter", 1), of("filter", 2), of("both", 1), of("both", 2)];
    let totals = Totals {
        rows: GuardCounts {
            kept: 6,
            filtered: 2,
            replaced: 2,
            kept_unsafe: 1,
            filtered_safe: 2,
            ..GuardCounts::default()
        },
        ..Totals::default()
    };
    for cell in &mut cells {
        cell.summary.base_eval = Some(evaluation(0.1));
        if cell.defence != "none" {
            let recall = Some(if cell.seed == 1 { 0.5 } else { 0.7 });
            let held_out =
                BinaryMetrics { recall, ..BinaryMetrics::of_calls(&[0.9, 0.1], &[true, false], &[true, false]) };
            cell.guard = Some(CellGuard { held_out: Some(held_out), on_clients: None });
            cell.summary.totals = totals.clone();
        }
    }
    let has = |text: &str, line: &str| assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
    let text = markdown("a grid", &cells);
    has(&text, "| base, no FL | 10.0 ± 0.0 | – | – |\n| start, no FL | 90.0 ± 0.0 (99.6) | – (60.0) | – (6.8) |");
    has(&text, "| – | base, no FL | 10.0 ± 0.0 | – | – | – | 16.0 ± 0.0 | – | – |  |");
    // One of ten rows is harmful and trained on, two of ten harmless and lost.
    has(&text, "| fedavg | filter | 70.0 ± 0.0 | – | – | – | 16.0 ± 0.0 | 10.0 ± 0.0 | 20.0 ± 0.0 | 2 |");
    has(&text, "| filter, both | clients' rows | 20 (6) | 70.0 ± 0.0 | 50.0 ± 0.0 | 66.7 ± 0.0 | 57.1 ± 0.0 | – | – |");
    let held_out = "held-out rows of what it was fitted on";
    has(
        &text,
        &format!(
            "| filter, both | {held_out} | 4 (2) | 100.0 ± 0.0 | 100.0 ± 0.0 | 60.0 ± 14.1 | 100.0 ± 0.0 | 100.0 ± 0.0 | 100.0 ± 0.0 |"
        ),
    );
    has(
        &text,
        "| Llama Guard 3, fine-tuned (the paper) | the paper's SQuARe rows | – | 75.5 | 56.7 | 73.7 | 64.1 | – | – |",
    );
    // A guard that calls other rows unsafe has a line of its own.
    cells[5].summary.totals.rows.filtered_safe = 0;
    let text = markdown("a grid", &cells);
    has(&text, "| filter | clients' rows | 20 (6) | 70.0 ± 0.0 | 50.0 ± 0.0 | 66.7 ± 0.0 | 57.1 ± 0.0 | – | – |");
    has(&text, "| both | clients' rows | 20 (8) | 80.0 ± 14.1 | 75.0 ± 35.4 | 73.3 ± 9.4 | 73.0 ± 22.4 | – | – |");
    let csv = csv(&cells);
    has(&csv, ",base,2,AdvBench,10,10,");
    has(&csv, "fedavg,filter,1,harmful rows trained on,10,10,");
}

#[test]
fn a_file_with_axes_has_a_matrix_for_each_measure_and_compares_along_axes_alone() {
    let cell = |attack: &str, defence: &str, seed, refused| {
        let point = [("attack", attack), ("defence", defence)].map(|(axis, value)| (axis.to_owned(), value.to_owned()));
        CellResult { point: point.into(), ..cell("fedavg", &format!("{attack}--{defence}"), seed, refused) }
    };
    let mut cells = Vec::new();
    for seed in [1, 2] {
        let more = 0.1 * (seed - 1) as f64;
        cells.push(cell("none", "none", seed, 0.8 + more));
        cells.push(cell("none", "krum", seed, 0.7 + more));
        cells.push(cell("flip", "none", seed, 0.1 + more));
        cells.push(cell("flip", "krum", seed, 0.6 + more));
    }
    let text = markdown("a grid", &cells);
    let matrix = "| defence | none | flip |\n|---|---:|---:|\n| none | 85.0 ± 7.1 | 15.0 ± 7.1 |\n| krum | 75.0 ± 7.1 | 65.0 ± 7.1 |\n";
    assert_eq!(text.matches(matrix).count(), 1, "{text}");
    assert!(text.starts_with("# a grid\n\n**"), "{text}");
    for pair in
        ["none--krum − none--none", "flip--none − none--none", "flip--krum − none--krum", "flip--krum − flip--none"]
    {
        assert!(text.contains(&format!("| fedavg | {pair} |")), "{pair}: {text}");
    }
    assert!(!text.contains("flip--krum − none--none"), "cells that differ on two axes are compared: {text}");
}
