//! Variants that are there to be compared with: what a defence does beside what it is for.

use fedward_actors::{CohortSampler, policy::VerdictOrder, protocol::ClientId};

use super::*;
use crate::{safety::cai::Method, scenario::FederationMode};

fn scenario(text: &str) -> Scenario {
    let (_folder, path) = file(&format!("{HEAD}{text}"));
    load(&path, &[]).unwrap().scenarios.remove(0)
}

fn says(scenario: &Scenario, text: &str) -> bool {
    scenario.assumptions.iter().any(|assumption| assumption.contains(text))
}

#[test]
fn without_a_federation_there_are_no_attackers() {
    let attack = "attack=[{ kind = \"sign_flip\" }]";
    let found = complaints(HEAD, &["federation.mode=centralised", attack]);
    assert!(found[0].contains("attack: without a federation nobody works against it"), "{found:?}");
    let (_folder, path) = file(HEAD);
    load(&path, &[attack.to_owned()]).unwrap();
}

#[test]
fn a_random_filter_is_the_guard_with_its_verdicts_dealt_otherwise() {
    let plain = scenario("guard.enabled = true\n");
    let control = scenario("guard.enabled = true\nguard.verdicts = \"shuffled\"\n");
    let (own, shuffled) = (plain.guard.clone().unwrap(), control.guard.clone().unwrap());
    assert_eq!((own.verdicts, shuffled.verdicts), (VerdictOrder::Own, VerdictOrder::Shuffled));
    assert_eq!(own.classifier(), shuffled.classifier(), "one guard, fitted once");
    assert!(says(&control, "a control: the guard's verdicts are dealt") && !says(&plain, "a control"));
    // A run that says nothing of it goes on from one of an earlier version.
    assert!(serde_json::to_value(&plain).unwrap()["guard"].get("verdicts").is_none());
}

#[test]
fn refusals_leave_out_what_makes_a_constitution() {
    let plain = scenario("cai.schedule = \"every\"\n");
    let control = scenario("cai.schedule = \"every\"\ncai.method = \"refusals\"\n");
    assert_eq!(control.cai.as_ref().unwrap().method, Method::Refusals);
    assert!(says(&control, "fixed refusals of the same red prompts") && !says(&control, "DPO"));
    assert!(serde_json::to_value(&plain).unwrap()["cai"].get("method").is_none());
    let found = complaints(HEAD, &["cai={ schedule = \"every\", method = \"refusals\", data = \"/dev/null\" }"]);
    assert!(found[0].contains("cai.method: found \"refusals\", but cai.data names revisions"), "{found:?}");
}

#[test]
fn settings_are_chosen_on_goals_that_nothing_trains_on() {
    let development = "evaluation.advbench_goals = \"development\"\n";
    let told = scenario(&format!("{development}cai = {{ schedule = \"every\", prompts = \"do-not-answer\" }}\n"));
    assert!(says(&told, "goals for development") && scenario(development).cai.is_none());
    let found = |text: &str| complaints(&format!("{HEAD}{development}{text}"), &[]).join("\n");
    assert!(found("cai.schedule = \"every\"\n").contains("whose goals are the red prompts of this Constitutional AI"));
    assert!(found("evaluation.split = \"fixed\"\n").contains("which has no goals for it"));
}

#[test]
fn harmful_rows_of_a_second_source_are_shared_with_no_guard() {
    let source = "data.harmful.source = \"scored-responses\"\n";
    assert_eq!(scenario(source).data.harmful, RowSource::ScoredResponses);
    let found = |text: &str| complaints(&format!("{HEAD}{text}"), &[]).join("\n");
    let fixed = found(&format!("{source}evaluation.split = \"fixed\"\n"));
    assert!(
        fixed.contains("data.harmful.source: found \"scored-responses\" with evaluation.split = \"fixed\""),
        "{fixed}"
    );
    let benign = found("data.benign.source = \"scored-responses\"\n");
    assert!(benign.contains("data.benign.source: found \"scored-responses\", which is harmful"), "{benign}");
    let format = found(&format!("{source}data.harmful.format = \"alpaca\"\n"));
    assert!(format.contains("data.harmful.format: is set, but source \"scored-responses\" is not a file"), "{format}");
}

#[test]
fn without_a_federation_one_client_takes_part() {
    let clients = "federation.clients = 8\nfederation.cohort = 4\nfederation.quorum = 2\ntraining.local_steps = 5\n";
    let plain = scenario(clients);
    assert_eq!((plain.federation.mode, plain.federation.selectable()), (FederationMode::Federated, 0..8));
    assert!(serde_json::to_value(&plain).unwrap()["federation"].get("mode").is_none());

    let centralised = scenario(&format!("{clients}federation.mode = \"centralised\"\n"));
    let federation = &centralised.federation;
    assert_eq!((federation.holders(), federation.selectable()), (8, 0..1));
    assert_eq!((federation.clients, federation.cohort, federation.quorum), (1, 1, 1));
    assert_eq!(centralised.training.sft.steps, 20);
    assert!(says(&centralised, "one client holds the rows of all 8") && says(&centralised, "takes 20 steps"));

    let local = scenario(&format!("{clients}federation.mode = \"local\"\nfederation.local_client = 3\n"));
    let federation = &local.federation;
    assert_eq!((federation.holders(), federation.selectable()), (8, 3..4));
    assert_eq!((federation.clients, federation.cohort, federation.quorum), (8, 1, 1));
    assert_eq!((federation.sampler, local.training.sft.steps), (CohortSampler::Only(ClientId(3)), 5));
    assert!(says(&local, "client 3 alone"));

    let found = complaints(HEAD, &["federation.mode=local", "federation.local_client=20"]);
    assert!(found[0].contains("federation.local_client: found 20; allowed: 0 to 19"), "{found:?}");
    let found = complaints(HEAD, &["federation.local_client=2"]);
    assert!(found[0].contains("federation.local_client: is set, but only mode = \"local\" reads it"), "{found:?}");
}
