//! The scenarios that come with the program, held against the data that it fetches.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fedward::{
    data::{AdvBench, GoalParts, GoalUse, load_prompts},
    scenario::{self, Paths, Scenario},
};

use crate::support::home;

/// Every scenario of the repository, also those of grids, with its file.
fn shipped() -> Vec<(PathBuf, Scenario)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = [folder.clone(), folder.join("paper")].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let files = files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "toml"));
    let scenarios = files.flat_map(|path| {
        let (file, _) = scenario::load_for(&path, &[], Paths::Elsewhere).unwrap();
        let grid = scenario::load_grid_if_any(&path, &[], Paths::Elsewhere).unwrap();
        let all = file.scenarios.into_iter().chain(grid.into_iter().flat_map(|grid| grid.cells));
        all.map(|scenario| (path.clone(), scenario)).collect::<Vec<_>>()
    });
    scenarios.collect()
}

#[test]
fn shipped_scenarios_ask_for_no_more_red_prompts_than_there_are() {
    let advbench = AdvBench::load(&home().join("data/advbench/adv_bench.prompt")).unwrap();
    let mut checked = 0;
    for (path, scenario) in shipped() {
        let Some(cai) = scenario.cai.as_ref().filter(|cai| cai.data.is_none()) else { continue };
        let found = match &cai.prompts {
            Some(file) if file.is_file() => load_prompts(file).unwrap().len(),
            Some(name) => match fs::read_dir(home().join("data").join(name)) {
                Ok(files) => files.map(|file| load_prompts(&file.unwrap().path()).unwrap().len()).sum(),
                // A data set that the tests do not fetch.
                Err(_) => continue,
            },
            None => {
                let goals = GoalParts::new(&advbench, scenario.evaluation.split, scenario.data_seed());
                goals.of(GoalUse::RedPrompts).len()
            }
        };
        checked += 1;
        let (path, variant, seed) = (path.display(), &scenario.variant, scenario.seed);
        assert!(
            cai.red_prompts <= found,
            "{path}, variant {variant:?}, seed {seed}: asks for {} red prompts, but there are {found}",
            cai.red_prompts
        );
    }
    assert!(checked > 0, "no shipped scenario draws red prompts from what the tests fetch");
}
