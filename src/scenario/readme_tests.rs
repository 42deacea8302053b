//! `scenarios/README.md` says what a scenario can say: all of it, and what counts where nothing is said.

use std::collections::BTreeSet;

use super::load;

const README: &str = include_str!("../../scenarios/README.md");
const SCENARIO: &str = "name = \"t\"\nquestion = \"q\"\n";

/// Keys with their defaults; `None` where nothing is a value of its own.
fn documented() -> Vec<(&'static str, Option<&'static str>)> {
    let code = |cell: &'static str| cell.trim().strip_prefix('`')?.strip_suffix('`');
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix('|')?.split('|');
        Some((code(cells.next()?)?, code(cells.next()?)))
    };
    README.lines().filter_map(row).collect()
}

/// Keys of the table `prefix` (empty, or with a full stop at its end), as the complaint about one that it has not lists them.
fn allowed(prefix: &str) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    std::fs::write(&path, SCENARIO).unwrap();
    let set = match prefix {
        // A list of tables.
        "attack." => "attack=[{no_key=1}]".to_owned(),
        _ => format!("{prefix}no_key=1"),
    };
    let complaint = load(&path, &[set]).unwrap_err().to_string();
    let (_, listed) = complaint.split_once("expected").unwrap_or_else(|| panic!("{prefix}: {complaint}"));
    listed.split('`').skip(1).step_by(2).map(|key| format!("{prefix}{key}")).collect()
}

#[test]
fn every_key_is_there_and_no_other() {
    let keys: BTreeSet<String> = documented().into_iter().map(|(key, _)| key.to_owned()).collect();
    let prefixes: BTreeSet<&str> =
        keys.iter().flat_map(|key| key.match_indices('.').map(|(dot, _)| &key[..=dot])).collect();
    // Its keys are benchmarks.
    let prefixes = prefixes.into_iter().filter(|prefix| *prefix != "evaluation.data.");
    let mut accepted: BTreeSet<String> = allowed("");
    for prefix in prefixes {
        accepted.remove(prefix.trim_end_matches('.'));
        accepted.extend(allowed(prefix));
    }
    let elsewhere = |key: &&String| match key.as_str() {
        "name" | "question" | "evaluation.data" => true,
        // Those of evaluation.judge.
        key => key.starts_with("cai.teacher.") || key.starts_with("guard.endpoint."),
    };
    let missing: Vec<_> = accepted.difference(&keys).filter(|key| !elsewhere(key)).collect();
    assert!(missing.is_empty(), "scenarios/README.md says nothing of {missing:?}");
    let unknown: Vec<_> = keys.difference(&accepted).filter(|key| !key.starts_with("evaluation.data.")).collect();
    assert!(unknown.is_empty(), "scenarios/README.md has what no scenario can say: {unknown:?}");
}

#[test]
fn what_it_calls_a_default_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    std::fs::write(&path, SCENARIO).unwrap();
    let resolved = |sets: &[String]| serde_json::to_value(&load(&path, sets).unwrap().scenarios).unwrap();
    let keys = |assignments: &[&str]| -> Vec<String> { assignments.iter().map(ToString::to_string).collect() };
    // What a scenario does not use is in none that is resolved.
    let all_in_use = keys(&[
        "guard.enabled=true",
        "cai.schedule=every",
        "evaluation.schedule=every",
        "start.kind=aligned",
        "screen.kind=norm_bound",
        "data.partition=topic",
        "devices.tokens_per_second=40",
    ]);
    let mut compared = 0;
    for used in [Vec::new(), all_in_use] {
        let plain = resolved(&used);
        for (key, default) in documented() {
            let is_set = used.iter().any(|assignment| assignment.starts_with(&format!("{key}=")));
            // A table of devices is what turns time on, and attacks are a list.
            let stands_alone = key.starts_with("attack.") || (used.is_empty() && key.starts_with("devices."));
            let Some(default) = default.filter(|_| !is_set && !stands_alone) else { continue };
            let set: Vec<_> = used.iter().cloned().chain([format!("{key}={default}")]).collect();
            assert_eq!(resolved(&set), plain, "{key} = {default}");
            compared += 1;
        }
    }
    assert!(compared > 120, "only {compared} defaults were compared");
}

/// Scenarios that are written out on the project's page, from their names on.
#[test]
fn scenarios_on_the_front_page_are_valid() {
    let page = include_str!("../../README.md");
    let whole = |block: &&str| block.starts_with("name = ");
    let blocks: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    let scenarios: Vec<&str> = blocks.into_iter().filter(whole).collect();
    assert!(!scenarios.is_empty());
    for scenario in scenarios {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        std::fs::write(&path, scenario).unwrap();
        load(&path, &[]).unwrap();
    }
}
