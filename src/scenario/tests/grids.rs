use super::*;

#[test]
fn a_grid_that_is_not_read_is_spoken_of() {
    let grid = format!("{HEAD}[grid]\nstrategies = [\"fedavg\"]\nseeds = [1]\n{TWO_VARIANTS}");
    let (_folder, path) = file(&grid);
    let aside = load(&path, &[]).unwrap().grid_left_aside().unwrap();
    assert!(aside.contains("[grid] is left aside") && aside.contains("fedward grid "), "{aside}");
    let (_folder, path) = file(&format!("{HEAD}{TWO_VARIANTS}"));
    assert_eq!(load(&path, &[]).unwrap().grid_left_aside(), None);
    let set = ["grid.seeds=[1]".to_owned(), "grid.strategies=[\"fedavg\"]".to_owned()];
    assert!(load(&path, &set).unwrap().grid_left_aside().is_some(), "nor is one that --set gives");
}

#[test]
fn variants_need_names_of_their_own() {
    let found = complaints(&format!("{HEAD}[[variant]]\nname = \"a\"\n[[variant]]\nname = \"a\"\n"), &[]);
    assert_eq!(found, ["test.toml:6: name: found \"a\" twice; each variant needs its own"]);
    let found = complaints(&format!("{HEAD}[[variant]]\nname = \"../a\"\n"), &[]);
    assert!(found[0].contains("it names a folder"), "{found:?}");
}

/// Each of two variants has both faults of the file.
#[test]
fn a_fault_that_variants_share_is_complained_of_once() {
    let variants = "[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\n";
    let found = complaints(&format!("{HEAD}[data]\nharmful_share = 2\n[federation]\nquorum = 0\n{variants}"), &[]);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn variants_are_tables() {
    let found = complaints(&format!("{HEAD}variant = 3\n"), &[]);
    assert_eq!(found, ["test.toml:3: variant: found 3; allowed: [[variant]] tables"]);
    let found = complaints(&format!("{HEAD}[variant]\nname = \"a\"\n"), &[]);
    assert_eq!(found, ["test.toml:3: variant: found { name = \"a\" }; allowed: [[variant]] tables"]);
    let found = complaints(&format!("{HEAD}variant = [{{ name = \"a\" }}, 3]\n"), &[]);
    assert_eq!(found, ["test.toml:3: variant: found 3; allowed: [[variant]] tables"]);
    let found = complaints(&format!("{HEAD}[[variant]]\nname = 3\n"), &[]);
    assert_eq!(found, ["test.toml:4: name: found 3; allowed: letters, digits, - _ + (it names a folder)"]);
}

/// What is complained of in a grid file, the folder left out.
fn grid_complaints(axes: &str, sets: &[&str]) -> Vec<String> {
    complaints(&format!("{HEAD}{axes}{TWO_VARIANTS}"), sets)
}

#[test]
fn what_is_wrong_with_a_grid_is_named_with_line_found_and_allowed() {
    let seeds = "whole numbers from 0, for example [1, 2, 3]";
    let strategies = "names of fedavg, fedprox, fedavgm, fedadagrad, fedyogi, fedadam, scaffold";
    let found = grid_complaints("[grid]\nstrategies = [\"fedavg\", \"fedsgd\"]\nseeds = [1, -2]\nseedz = 1\n", &[]);
    assert_eq!(
        found,
        [
            "test.toml:6: grid.seedz: unknown key; allowed: strategies, seeds".to_owned(),
            format!("test.toml:4: grid.strategies[1]: found \"fedsgd\"; allowed: {strategies}"),
            format!("test.toml:5: grid.seeds[1]: found -2; allowed: {seeds}"),
        ]
    );
    let found = grid_complaints("[grid]\nstrategies = [\"fedavg\", \"fedavg\"]\nseeds = 1\n", &[]);
    let twice = "test.toml:4: grid.strategies: found \"fedavg\" twice; each names a folder".to_owned();
    assert_eq!(found, [twice, format!("test.toml:5: grid.seeds: found 1; allowed: a list of {seeds}")]);
    let found = grid_complaints("[grid]\nseeds = []\n", &[]);
    let missing = format!("test.toml:3: grid: found no strategies; allowed: a list of {strategies}");
    assert_eq!(found, [missing, format!("test.toml:4: grid.seeds: found none; allowed: one or more {seeds}")]);
    assert_eq!(
        grid_complaints("grid = 3\n", &[]),
        ["test.toml:3: grid: found 3; allowed: a table with strategies and seeds"]
    );
    let found = complaints(&format!("{HEAD}[grid]\nstrategies = [\"fedavg\"]\nseeds = [1]\n"), &[]);
    assert!(found[0].starts_with("test.toml:3: grid: found no [[variant]]"), "{found:?}");
}

#[test]
fn the_axes_of_a_grid_can_be_set_from_the_command_line() {
    let (_folder, path) = file(&format!("{HEAD}[grid]\nstrategies = [\"fedavg\"]\nseeds = [1, 2]\n{TWO_VARIANTS}"));
    let cells = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let cells = load_grid(&path, &sets).unwrap().cells;
        cells.iter().map(|cell| (cell.federation.strategy.name(), cell.seed)).collect::<Vec<_>>()
    };
    assert_eq!(cells(&[]), [("fedavg", 1), ("fedavg", 1), ("fedavg", 2), ("fedavg", 2)]);
    let set = cells(&["grid.seeds=[7]", "grid.strategies=[\"scaffold\", \"fedprox\"]"]);
    assert_eq!(set, [("scaffold", 7), ("scaffold", 7), ("fedprox", 7), ("fedprox", 7)]);
    let found = load_grid(&path, &["seed=7".into(), "federation.strategy=scaffold".into()]).unwrap_err().to_string();
    let expected = [
        "seed=7: seed: a grid has this for each cell; set grid.seeds instead",
        "federation.strategy=scaffold: federation.strategy: a grid has this for each cell; set grid.strategies instead",
    ];
    assert_eq!(found, expected.map(|line| format!("--set {line}")).join("\n"));
    // The variants alone do not mind.
    assert_eq!(load(&path, &["grid.seeds=[7]".into()]).unwrap().scenarios.len(), 2);

    let axes = "[grid]\nstrategies = [\"fedavg\"]\nseeds = [1]\n";
    let found = grid_complaints(axes, &["grid.seeds=[\"x\"]"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("--set grid.seeds=[\"x\"]: grid.seeds[0]: found \"x\"; allowed: whole"), "{found:?}");
    for (set, list) in [("seeds=1,2", "[1, 2]"), ("strategies=fedavg, scaffold", "[\"fedavg\", \"scaffold\"]")] {
        let found = grid_complaints(axes, &[&format!("grid.{set}")]);
        assert!(found.len() == 1 && found[0].ends_with(&format!("; write {list}")), "{found:?}");
    }
    let found = grid_complaints("", &["grid.seeds=[1]"]);
    assert!(found[0].starts_with("--set grid.seeds=[1]: grid: found no strategies; allowed"), "{found:?}");
    let found = grid_complaints(axes, &["grid.seed=[1]"]);
    assert_eq!(found, ["--set grid.seed=[1]: grid.seed: unknown key; allowed: strategies, seeds"]);
}
