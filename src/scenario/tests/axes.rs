use super::super::{load, load_grid};

const FILE: &str = r#"
name = "t"
question = "q"
[federation]
cohort = 5
quorum = 5
[grid]
strategies = ["fedavg"]
seeds = [1, 2]
[[axis]]
name = "attack"
[[axis.value]]
name = "none"
[[axis.value]]
name = "flip"
attack = [{ kind = "sign_flip" }]
[[axis]]
name = "defence"
[[axis.value]]
name = "none"
[[axis.value]]
name = "krum"
server.aggregator = { kind = "krum", byzantine = 1 }
[[axis.value]]
name = "guard"
guard.enabled = true
"#;

fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn variants_are_the_product_of_axes_and_know_where_they_are_on_each() {
    let (_folder, path) = written(FILE);
    let scenarios = load(&path, &[]).unwrap().scenarios;
    let names: Vec<_> = scenarios.iter().map(|scenario| scenario.variant.as_str()).collect();
    assert_eq!(names, ["none--none", "none--krum", "none--guard", "flip--none", "flip--krum", "flip--guard"]);
    let both = &scenarios[4];
    assert!(both.server.is_some() && both.attacks.len() == 1 && both.guard.is_none());
    let point = [("attack", "flip"), ("defence", "krum")].map(|(axis, value)| (axis.to_owned(), value.to_owned()));
    assert_eq!(both.point, point);
    assert_eq!(load_grid(&path, &[]).unwrap().cells.len(), 2 * 6);
}

#[test]
fn what_is_wrong_with_an_axis_is_placed_where_it_is_written() {
    let complaints = |text: &str| {
        let (_folder, path) = written(text);
        load(&path, &[]).unwrap_err().problems.into_iter().map(|problem| problem.to_string()).collect::<Vec<_>>()
    };
    // Of two tables that an attack and a defence share, that of the value counts.
    let krum = complaints(&FILE.replace("byzantine = 1", "byzantine = 2"));
    assert!(krum.iter().all(|told| told.contains("t.toml:23: server.aggregator")), "{krum:?}");
    let flip = complaints(&FILE.replace("sign_flip", "sign_flop"));
    assert!(flip[0].contains("t.toml:16: attack[0].kind: found \"sign_flop\"; allowed: "), "{flip:?}");
    let both = complaints(&format!("{FILE}\n[[variant]]\nname = \"v\"\n"));
    assert!(both[0].contains("axis: found [[variant]], too"), "{both:?}");
    let unnamed = complaints(&FILE.replace("name = \"flip\"", "name = \"a--b\""));
    assert!(unnamed[0].contains("axis[0].value[1]: found name \"a--b\""), "{unnamed:?}");
    let empty = complaints("name = \"t\"\nquestion = \"q\"\n[[axis]]\nname = \"attack\"\n");
    assert!(empty[0].contains("axis[0]: found no [[axis.value]]"), "{empty:?}");
}
