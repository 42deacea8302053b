//! Controls through the program: what they do to a run is in its records.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    run::{TINY, assert_success},
    support::fedward,
};

const VARIANTS: &str = r#"
[[variant]]
name = "guard"
[[variant]]
name = "guard-random"
guard.verdicts = "shuffled"
[[variant]]
name = "refusals"
cai.schedule = "last_round"
cai.method = "refusals"
[[variant]]
name = "centralised"
guard.enabled = false
federation.mode = "centralised"
[[variant]]
name = "local"
guard.enabled = false
federation.mode = "local"
federation.local_client = 2
[[variant]]
name = "second-source"
data.harmful.source = "scored-responses"
"#;

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn controls_do_as_much_as_what_they_stand_for_and_nothing_of_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let (scenario, out) = (folder.path().join("controls.toml"), folder.path().join("out"));
    let file = TINY.replace("schedule = \"last_round\"", "schedule = \"never\"");
    fs::write(&scenario, format!("{file}{VARIANTS}")).unwrap();
    let mut command = fedward();
    command.arg("run").arg(&scenario).arg("--out").arg(&out).args(["--metrics", "off"]);
    for set in
        ["evaluation.benches=[]", "evaluation.interim_benches=[]", "cai.prompts=do-not-answer", "cai.dpo.steps=2"]
    {
        command.args(["--set", set]);
    }
    command.args(["--set", "data.rows_per_client=8"]);
    assert_success(&command.output().unwrap());
    let of = |variant: &str, file: &str| rows(&out.join(variant).join(file));

    let counts = |variant: &str, name: &str| -> Vec<u64> {
        let counted = |client: &Value| client["guard"].get(name).unwrap_or(&client[name]).as_u64().unwrap();
        of(variant, "clients.jsonl").iter().map(counted).collect()
    };
    let filtered = counts("guard", "rows_filtered");
    assert!(filtered.iter().sum::<u64>() > 0 && filtered.len() == 4);
    assert_eq!(counts("guard-random", "rows_filtered"), filtered);
    let harmful = |variant: &str| counts(variant, "rows_kept_unsafe").iter().sum::<u64>();
    assert!(harmful("guard-random") > harmful("guard"), "the verdicts are where they were");

    let aligned = |variant: &str| of(variant, "rounds.jsonl").pop().unwrap()["align"].clone();
    let report = aligned("refusals");
    let found =
        ["red_prompts", "revisions", "good_answers", "steps", "generated_tokens"].map(|name| report[name].clone());
    assert_eq!(found, [4, 0, 0, 3, 0].map(|count| json!(count)), "{report}");

    let clients = |variant: &str| -> Vec<(Value, Value)> {
        of(variant, "clients.jsonl")
            .iter()
            .map(|client| (client["client"].clone(), client["n_examples"].clone()))
            .collect()
    };
    assert_eq!(clients("centralised"), vec![(json!(0), json!(24.0)); 2]);
    assert_eq!(clients("local"), vec![(json!(2), json!(8.0)); 2]);
    let [together, alone] = ["centralised", "local"].map(|variant| counts(variant, "steps"));
    assert_eq!((together, alone), (vec![2, 2], vec![1, 1]));

    let manifest = |variant: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(out.join(variant).join("manifest.json")).unwrap()).unwrap()
    };
    let on_clients = &manifest("second-source")["guard"]["on_clients_rows"];
    assert_eq!((&on_clients["n"], &on_clients["positives"]), (&json!(24), &json!(12)));
    assert!(on_clients["recall_at_1_percent"].is_number());
    assert!(manifest("guard")["guard"].get("on_clients_rows").is_none());
}
