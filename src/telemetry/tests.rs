use std::collections::{BTreeMap, BTreeSet};

use fedward_actors::{
    ports::{BenchmarkScore, Cost, Observer, PreferenceReport, RealignmentCost, RealignmentReport},
    protocol::{ClientId, RoundId},
    records::{
        ClientOutcome, ClientRecord, ClientRole, DropReason, GuardCounts, Phase, PhaseSeconds, RejectReason,
        RoundEvent, RoundOutcome, RoundRecord,
    },
};

use super::*;

fn info(clients: u32) -> RunInfo {
    RunInfo {
        scenario: "s".to_owned(),
        variant: "v".to_owned(),
        strategy: "fedavg".to_owned(),
        guard: Some("g".to_owned()),
        model: "m".to_owned(),
        clients,
        rounds: 3,
    }
}

fn client(id: u32, outcome: ClientOutcome) -> ClientRecord {
    ClientRecord {
        round: RoundId(1),
        client: ClientId(id),
        role: ClientRole::Honest,
        staleness: 0,
        outcome,
        attempt: 1,
        guard: GuardCounts {
            kept: 7,
            filtered: 3,
            replaced: 4,
            reweighted: 5,
            kept_unsafe: 2,
            filtered_safe: 1,
            malformed: 3,
            cut: 4,
            ..GuardCounts::default()
        },
        n_examples: 48.0,
        steps: 5,
        train_tokens: 100,
        train_loss: Some(1.3),
        train_seconds: 2.0,
        reused: false,
        update_norm: Some(0.2),
        clipped_to: Some(0.1),
        trust: None,
        fault: None,
    }
}

fn round(id: u32, outcome: RoundOutcome) -> RoundRecord {
    RoundRecord {
        round: RoundId(id),
        outcome,
        cohort: vec![ClientId(0)],
        accepted: 1,
        clipped: 1,
        rejected: 0,
        dropped: 0,
        rows: GuardCounts {
            kept: 7,
            filtered: 3,
            replaced: 4,
            reweighted: 5,
            kept_unsafe: 2,
            filtered_safe: 1,
            malformed: 3,
            cut: 4,
            reweighted_weight: 1.5,
            reweighted_unsafe_weight: 0.5,
        },
        train_loss: Some(1.3),
        train_tokens: 100,
        trainings_reused: 0,
        train_tokens_per_second: Some(50.0),
        update_norm: Some(0.5),
        strategy: BTreeMap::from([("control_norm".to_owned(), 0.75)]),
        faults: BTreeMap::from([("crash".to_owned(), 2)]),
        adapter_bytes_up: 11,
        adapter_bytes_down: 13,
        simulated_seconds: None,
        seconds: PhaseSeconds { train: 2.0, align: 0.5, ..PhaseSeconds::default() },
        align: None,
        eval: BTreeMap::from([(
            "advbench".to_owned(),
            BenchmarkScore { n: 64, items: None, values: BTreeMap::from([("refusal_rate".to_owned(), 0.25)]) },
        )]),
        warnings: vec!["w".to_owned()],
        adapter_sha256: String::new(),
    }
}

fn realignment() -> RealignmentReport {
    RealignmentReport {
        red_prompts: 4,
        revisions: 3,
        good_answers: 5,
        discarded: BTreeMap::from([("unfinished".to_owned(), 1)]),
        generated_tokens: 60,
        steps: 2,
        train_tokens: 40,
        mean_loss: Some(1.1),
        preference: Some(PreferenceReport { mean_loss: 0.6, reward_margin: 0.2, ..PreferenceReport::default() }),
        cost: RealignmentCost {
            generate: Cost { seconds: 1.0, tokens: 70, flops: 140.0 },
            sft: Cost { seconds: 2.0, tokens: 40, flops: 160.0 },
            ..RealignmentCost::default()
        },
    }
}

/// Telemetry that has seen one event of each kind.
fn after_all_events(clients: u32) -> (Telemetry, RunObserver) {
    let telemetry = Telemetry::new().unwrap();
    let observer = telemetry.observer(&info(clients));
    for event in [
        RoundEvent::RoundStarted { round: RoundId(1), cohort: 1 },
        RoundEvent::PhaseStarted { round: RoundId(1), phase: Phase::Train },
        RoundEvent::ClientFinished(Box::new(client(4, ClientOutcome::Accepted))),
        RoundEvent::ActorRestarted { kind: "guard" },
        RoundEvent::Realigned(Box::new(realignment())),
        RoundEvent::RoundFinished(Box::new(round(1, RoundOutcome::Committed))),
    ] {
        observer.observe(&event);
    }
    (telemetry, observer)
}

/// The value of one series, written as Prometheus writes it.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no series {series} in\n{page}")).parse().unwrap()
}

/// Metric names on a page, histograms by their stem.
fn names(page: &str) -> BTreeSet<&str> {
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let full = lines.map(|line| line.split(['{', ' ']).next().unwrap());
    full.map(|name| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        stem.filter(|stem| table::ALL.iter().any(|metric| metric.name == *stem)).unwrap_or(name)
    })
    .collect()
}

#[test]
fn every_declared_metric_appears_described_with_its_kind() {
    let (telemetry, _observer) = after_all_events(20);
    let page = telemetry.render();
    for metric in table::ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert!(
            page.contains(&format!("# HELP {} {}\n", metric.name, metric.help)),
            "{} is not described",
            metric.name
        );
        assert!(page.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{} is no {kind}", metric.name);
    }
}

#[test]
fn nothing_undeclared_appears() {
    let (telemetry, _observer) = after_all_events(20);
    let page = telemetry.render();
    let declared: BTreeSet<_> = table::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(names(&page), declared);
}

#[test]
fn events_become_the_values_that_they_carry() {
    let (telemetry, _observer) = after_all_events(20);
    let page = telemetry.render();
    for (series, expected) in [
        (r#"fedward_client_outcomes_total{variant="v",outcome="accepted",reason="none"}"#, 1.0),
        (r#"fedward_faults_total{variant="v",fault="crash"}"#, 2.0),
        (r#"fedward_faults_total{variant="v",fault="offline"}"#, 0.0),
        (r#"fedward_guard_rows_total{variant="v",verdict="kept"}"#, 7.0),
        (r#"fedward_guard_rows_total{variant="v",verdict="filtered"}"#, 3.0),
        (r#"fedward_guard_rows_total{variant="v",verdict="replaced"}"#, 4.0),
        (r#"fedward_guard_rows_total{variant="v",verdict="reweighted"}"#, 5.0),
        (r#"fedward_client_rows_filtered_total{variant="v",client="4"}"#, 12.0),
        (r#"fedward_guard_mistakes_total{variant="v",mistake="kept_unsafe"}"#, 2.0),
        (r#"fedward_guard_mistakes_total{variant="v",mistake="filtered_safe"}"#, 1.0),
        (r#"fedward_guard_mistakes_total{variant="v",mistake="malformed"}"#, 3.0),
        (r#"fedward_guard_mistakes_total{variant="v",mistake="cut"}"#, 4.0),
        (r#"fedward_train_tokens_total{variant="v",source="computed"}"#, 100.0),
        (r#"fedward_train_tokens_total{variant="v",source="reused"}"#, 0.0),
        (r#"fedward_train_tokens_per_second{variant="v"}"#, 50.0),
        (r#"fedward_client_last_train_loss{variant="v",client="4"}"#, 1.3),
        (r#"fedward_client_train_loss_bucket{variant="v",le="1.25"}"#, 0.0),
        (r#"fedward_client_train_loss_bucket{variant="v",le="1.5"}"#, 1.0),
        (r#"fedward_updates_clipped_total{variant="v"}"#, 1.0),
        (r#"fedward_rounds_total{variant="v",outcome="committed"}"#, 1.0),
        (r#"fedward_rounds_total{variant="v",outcome="skipped"}"#, 0.0),
        (r#"fedward_round_duration_seconds_sum{variant="v"}"#, 2.5),
        (r#"fedward_last_round_phase_seconds{variant="v",phase="align"}"#, 0.5),
        (r#"fedward_adapter_bytes_total{variant="v",direction="up"}"#, 11.0),
        (r#"fedward_adapter_bytes_total{variant="v",direction="down"}"#, 13.0),
        (r#"fedward_realign_discarded_total{variant="v",reason="unfinished"}"#, 1.0),
        (r#"fedward_realign_discarded_total{variant="v",reason="same"}"#, 0.0),
        (r#"fedward_realign_part_tokens_total{variant="v",part="dpo"}"#, 0.0),
        (r#"fedward_evaluation_value{variant="v",benchmark="advbench",measure="refusal_rate"}"#, 0.25),
        (r#"fedward_evaluation_items{variant="v",benchmark="advbench"}"#, 64.0),
        (r#"fedward_actor_restarts_total{variant="v",kind="guard"}"#, 1.0),
    ] {
        let found = value(&page, series);
        assert!((found - expected).abs() < 1e-12, "{series}: found {found}, expected {expected}");
    }
}

#[test]
fn a_reused_training_is_no_speed_and_no_duration() {
    let telemetry = Telemetry::new().unwrap();
    let observer = telemetry.observer(&info(20));
    let reused = ClientRecord { reused: true, train_seconds: 0.0, ..client(4, ClientOutcome::Accepted) };
    observer.observe(&RoundEvent::ClientFinished(Box::new(reused)));
    let mut record = round(1, RoundOutcome::Committed);
    (record.trainings_reused, record.train_tokens_per_second) = (1, None);
    observer.observe(&RoundEvent::RoundFinished(Box::new(record)));
    let page = telemetry.render();
    let reused = value(&page, r#"fedward_train_tokens_total{variant="v",source="reused"}"#);
    assert!((reused - 100.0).abs() < 1e-12, "{reused}");
    assert!(value(&page, r#"fedward_train_tokens_total{variant="v",source="computed"}"#).abs() < 1e-12);
    assert!(!page.contains("fedward_train_tokens_per_second{"), "{page}");
    assert!(!page.contains("fedward_client_train_duration_seconds_count{"), "{page}");
}

#[test]
fn the_state_before_training_is_evaluated_but_is_no_round() {
    let telemetry = Telemetry::new().unwrap();
    let observer = telemetry.observer(&info(20));
    observer.observe(&RoundEvent::RoundFinished(Box::new(round(0, RoundOutcome::Committed))));
    let page = telemetry.render();
    assert!(value(&page, r#"fedward_rounds_total{variant="v",outcome="committed"}"#).abs() < 1e-12);
    assert!(page.contains("fedward_evaluation_value{"));
}

#[test]
fn one_phase_is_active_at_a_time_and_none_after_the_run() {
    let active = |page: &str| {
        let lines = page.lines().filter(|line| line.starts_with("fedward_phase_active{") && line.ends_with(" 1"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let telemetry = Telemetry::new().unwrap();
    let observer = telemetry.observer(&info(20));
    for phase in [Phase::Train, Phase::Evaluate] {
        observer.observe(&RoundEvent::PhaseStarted { round: RoundId(1), phase });
    }
    assert_eq!(active(&telemetry.render()), [r#"fedward_phase_active{variant="v",phase="evaluate"} 1"#]);
    assert!((value(&telemetry.render(), r#"fedward_run_active{variant="v"}"#) - 1.0).abs() < 1e-12);
    drop(observer);
    assert!(active(&telemetry.render()).is_empty());
    assert!(value(&telemetry.render(), r#"fedward_run_active{variant="v"}"#).abs() < 1e-12);
}

#[test]
fn every_outcome_is_visible_before_it_happens() {
    let telemetry = Telemetry::new().unwrap();
    let observer = telemetry.observer(&info(20));
    let series = |page: &str| page.lines().filter(|line| line.starts_with("fedward_client_outcomes_total{")).count();
    let before = series(&telemetry.render());
    let text = || "text".to_owned();
    for outcome in [
        ClientOutcome::Accepted,
        ClientOutcome::Rejected(RejectReason::LayoutMismatch(text())),
        ClientOutcome::Rejected(RejectReason::NotFinite(text())),
        ClientOutcome::Rejected(RejectReason::Stale),
        ClientOutcome::Rejected(RejectReason::Screened(text())),
        ClientOutcome::Rejected(RejectReason::ScreenUnavailable(text())),
        ClientOutcome::Dropped(DropReason::Offline),
        ClientOutcome::Dropped(DropReason::Crashed),
        ClientOutcome::Dropped(DropReason::TimedOut),
        ClientOutcome::Dropped(DropReason::GuardUnavailable(text())),
        ClientOutcome::Dropped(DropReason::NoRows),
        ClientOutcome::Dropped(DropReason::TrainingFailed(text())),
        ClientOutcome::Dropped(DropReason::AttackFailed(text())),
        ClientOutcome::Dropped(DropReason::Late),
        ClientOutcome::Dropped(DropReason::NoInstructions(text())),
    ] {
        observer.observe(&RoundEvent::ClientFinished(Box::new(client(0, outcome))));
    }
    let page = telemetry.render();
    assert_eq!((before, series(&page)), (15, 15));
    assert!(
        page.lines().filter(|line| line.starts_with("fedward_client_outcomes_total{")).all(|line| line.ends_with(" 1"))
    );
}

#[test]
fn ten_thousand_clients_make_no_series_each() {
    let series = |clients: u32| {
        let telemetry = Telemetry::new().unwrap();
        let observer = telemetry.observer(&info(clients));
        for id in 0..clients {
            observer.observe(&RoundEvent::ClientFinished(Box::new(client(id, ClientOutcome::Accepted))));
        }
        telemetry.render().lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count()
    };
    let (few, limit, many) = (series(1), series(table::CLIENT_LABEL_LIMIT), series(10_000));
    assert!(many < 200, "{many} series at 10,000 clients");
    assert_eq!(few - many, 2, "each of two metrics has one series for one client, none above the limit");
    assert_eq!(limit - many, 2 * table::CLIENT_LABEL_LIMIT as usize);
}

#[test]
fn variants_do_not_mix() {
    let telemetry = Telemetry::new().unwrap();
    let first = telemetry.observer(&info(20));
    let second = telemetry.observer(&RunInfo { variant: "w".to_owned(), ..info(20) });
    first.observe(&RoundEvent::ClientFinished(Box::new(client(0, ClientOutcome::Accepted))));
    second.observe(&RoundEvent::ClientFinished(Box::new(client(0, ClientOutcome::Accepted))));
    second.observe(&RoundEvent::ClientFinished(Box::new(client(1, ClientOutcome::Accepted))));
    let page = telemetry.render();
    assert!((value(&page, r#"fedward_train_tokens_total{variant="v",source="computed"}"#) - 100.0).abs() < 1e-12);
    assert!((value(&page, r#"fedward_train_tokens_total{variant="w",source="computed"}"#) - 200.0).abs() < 1e-12);
}

#[test]
fn a_run_that_has_ended_keeps_its_own_series_and_is_not_active() {
    let telemetry = Telemetry::new().unwrap();
    let first = telemetry.observer(&RunInfo { variant: "v\"1".to_owned(), ..info(20) });
    let second = telemetry.observer(&RunInfo { variant: "w".to_owned(), ..info(20) });
    first.observe(&RoundEvent::PhaseStarted { round: RoundId(1), phase: Phase::Evaluate });
    first.observe(&RoundEvent::ClientFinished(Box::new(client(0, ClientOutcome::Accepted))));
    first.ended();
    let page = telemetry.render_variant("v\"1");
    assert!(value(&page, r#"fedward_run_active{variant="v\"1"}"#).abs() < 1e-12);
    assert!(value(&page, r#"fedward_phase_active{variant="v\"1",phase="evaluate"}"#).abs() < 1e-12);
    assert!((value(&page, r#"fedward_train_tokens_total{variant="v\"1",source="computed"}"#) - 100.0).abs() < 1e-12);
    assert!(!page.contains(r#"variant="w""#), "{page}");
    assert!(page.contains("\nfedward_process_resident_memory_bytes ") && page.contains("fedward_run_info{"), "{page}");
    drop((first, second));
}

#[test]
fn without_a_guard_nobody_makes_its_mistakes() {
    let telemetry = Telemetry::new().unwrap();
    let observer = telemetry.observer(&RunInfo { guard: None, ..info(20) });
    observer.observe(&RoundEvent::ClientFinished(Box::new(client(0, ClientOutcome::Accepted))));
    let page = telemetry.render();
    assert!(!page.contains("fedward_guard_mistakes_total{"), "{page}");
    assert!(page.contains("guard=\"none\"") && page.contains("fedward_guard_rows_total{"), "{page}");
}

#[test]
fn addresses_that_others_reach_are_refused() {
    for address in ["0.0.0.0:9464", "192.0.2.1:9464", "[::]:9464"] {
        let error = Telemetry::install(address.parse().unwrap(), Exposure::Loopback).err().unwrap();
        let text = error.to_string();
        assert!(text.contains(address) && text.contains("127.0.0.1:9464"), "{text}");
    }
}

#[test]
fn memory_is_read_from_the_process_status() {
    let status = "Name:\tfedward\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
    assert_eq!(ProcessMemory::parse(status), Some(ProcessMemory { resident_bytes: 1 << 20, peak_bytes: 1 << 21 }));
    assert_eq!(ProcessMemory::parse("VmRSS:\t 1 kB\n"), None);
}

/// Benchmarks and measures that dashboards and rules name are declared beside a benchmark.
#[test]
fn dashboards_and_rules_read_declared_measures_only() {
    let texts =
        [include_str!("../../grafana/dashboards/fedward.json"), include_str!("../../grafana/prometheus/rules.yml")];
    let named = |label: &str| {
        let values = texts.iter().flat_map(|text| {
            text.match_indices(label).map(|(at, _)| {
                let value = text[at + label.len()..].trim_start_matches(['=', '~', '\\', '"']);
                &value[..value.find(['\\', '"']).unwrap()]
            })
        });
        values.flat_map(|value| value.split('|')).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let measures: Vec<_> = crate::eval::measure::measures().collect();
    let (benchmarks, keys) = (named("benchmark="), named("measure="));
    assert!(!benchmarks.is_empty() && keys.len() > 2, "{benchmarks:?}, {keys:?}");
    for benchmark in benchmarks.iter().filter(|name| !name.starts_with('$')) {
        assert!(measures.iter().any(|measure| measure.benchmark == benchmark), "{benchmark} is no benchmark");
    }
    for key in keys.iter().filter(|name| !name.starts_with('$')) {
        let is_declared = measures.iter().any(|measure| measure.key == key);
        // Those of the headline.
        assert!(is_declared || ["ci_low", "ci_high"].contains(&key.as_str()), "{key} is no declared measure");
    }
}

#[test]
fn dashboards_and_rules_read_declared_metrics_only() {
    let declared: BTreeSet<_> = table::ALL.iter().map(|metric| metric.name).collect();
    for text in
        [include_str!("../../grafana/dashboards/fedward.json"), include_str!("../../grafana/prometheus/rules.yml")]
    {
        let mut found = 0;
        for (start, _) in text.match_indices("fedward_") {
            let name = text[start..].split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap();
            let is_recorded_by_rule = text[start + name.len()..].starts_with(':');
            let stem =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            assert!(
                is_recorded_by_rule || declared.contains(name) || declared.contains(stem),
                "{name} is not declared"
            );
            found += 1;
        }
        assert!(found > 5);
    }
}
