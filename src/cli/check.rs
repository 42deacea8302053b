//! `fedward check`.

use std::path::PathBuf;

use clap::Args;
use miette::IntoDiagnostic;

use super::{Ending, print_json};
use crate::{
    data::catalogue,
    scenario::{self, Paths},
};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The scenario file
    scenario: PathBuf,
    /// Override a key, for example --set federation.rounds=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// The scenario is for another machine: models, rows, adapters and other paths that are not on this one are told, and are no
    /// errors
    #[arg(long)]
    elsewhere: bool,
}

/// Prints each variant as a line of JSON on stdout, and its assumptions on stderr.
pub(super) fn check(args: &CheckArgs) -> miette::Result<Ending> {
    let paths = if args.elsewhere { Paths::Elsewhere } else { Paths::Here };
    let (file, missing) = scenario::load_for(&args.scenario, &args.sets, paths).into_diagnostic()?;
    let grid = scenario::load_grid_if_any(&args.scenario, &args.sets, paths).into_diagnostic()?;
    for scenario in &file.scenarios {
        print_json(&serde_json::to_value(scenario).into_diagnostic()?)?;
    }
    tell!("{} is valid: {} run(s)", args.scenario.display(), file.scenarios.len());
    if let Some(grid) = grid {
        tell!("as a grid: {} cells", grid.cells.len());
    }
    for problem in missing {
        tell!("not on this machine: {problem}");
    }
    if let Some(first) = file.scenarios.first() {
        tell!("question: {}", first.question);
        if !args.elsewhere
            && let Some(entry) = catalogue::find(&first.model.base).filter(|entry| !catalogue::is_present(entry))
        {
            tell!("not fetched yet: {0}; fedward fetch {0} does it", entry.name);
        }
    }
    for scenario in &file.scenarios {
        if !scenario.variant.is_empty() {
            tell!("variant {}", scenario.variant);
        }
        for assumption in &scenario.assumptions {
            tell!("  assumed: {assumption}");
        }
    }
    Ok(Ending::Done)
}
