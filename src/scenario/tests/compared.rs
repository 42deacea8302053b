use super::{super::GuardSection, *};

#[test]
fn what_is_compared_is_measured_alike() {
    let variants = format!("{TWO_VARIANTS}evaluation.judge_guard = \"off\"\n");
    let found = complaints(&format!("{HEAD}{variants}"), &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("evaluation.judge_guard: differs between variants"), "{found:?}");
    let found =
        complaints(&format!("{HEAD}evaluation.split = \"fixed\"\nevaluation.judge_guard = \"independent\"\n"), &[]);
    assert!(found[0].contains("allowed with it: \"filter\", \"off\""), "{found:?}");
    let judge = |text: &str| {
        let (_folder, path) = file(&format!("{HEAD}{text}"));
        load(&path, &[]).unwrap().judge()
    };
    assert_eq!(judge(""), None, "nothing is defended");
    assert_eq!(judge("guard.enabled = true\n"), Some(GuardSection::independent_judge()));
    let filter = judge("guard.enabled = true\nevaluation.judge_guard = \"filter\"\n");
    assert!(filter.is_some_and(|filter| filter != GuardSection::independent_judge()));
    assert_eq!(judge("guard.enabled = true\nevaluation.judge_guard = \"off\"\n"), None);
}

#[test]
fn seeds_of_a_grid_differ_in_something() {
    let fixed = "seeds = { data = 1, training = 1, evaluation = 1 }\n";
    let text = format!("{HEAD}{fixed}[grid]\nstrategies = [\"fedavg\"]\nseeds = [1, 2]\n{TWO_VARIANTS}");
    let (_folder, path) = file(&text);
    let found = load_grid(&path, &[]).unwrap_err().to_string();
    assert!(found.contains("grid.seeds: found seeds.data"), "{found}");
    assert!(load_grid(&path, &["grid.seeds=[1]".to_owned()]).is_ok());
}

#[test]
fn seeds_can_be_moved_apart() {
    let scenario = |text: &str| {
        let (_folder, path) = file(&format!("{HEAD}seed = 3\n{text}"));
        load(&path, &[]).unwrap().scenarios.remove(0)
    };
    let seeds = |of: &Scenario| [of.data_seed(), of.training_seed(), of.evaluation_seed(), of.attack_seed()];
    let alike = scenario("");
    assert_eq!(seeds(&alike), [3; 4]);
    let apart = scenario("seeds = { data = 4, evaluation = 5 }\n");
    assert_eq!(seeds(&apart), [4, 3, 5, 3]);
    // A run that says nothing of them goes on from one of an earlier version.
    assert!(serde_json::to_value(&alike).unwrap().get("seeds").is_none());
    assert_eq!(serde_json::to_value(&apart).unwrap()["seeds"], serde_json::json!({"data": 4, "evaluation": 5}));
}
