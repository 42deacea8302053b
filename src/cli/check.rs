//! `fedward check`.

use std::path::PathBuf;

use clap::Args;
use miette::IntoDiagnostic;

use super::{Ending, print_json};
use crate::scenario;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The scenario file
    scenario: PathBuf,
    /// Override a key, for example --set federation.rounds=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

/// Prints each variant as a line of JSON on stdout, and its assumptions on stderr.
pub(super) fn check(args: &CheckArgs) -> miette::Result<Ending> {
    let file = scenario::load(&args.scenario, &args.sets).into_diagnostic()?;
    let grid = scenario::load_grid_if_any(&args.scenario, &args.sets).into_diagnostic()?;
    for scenario in &file.scenarios {
        print_json(&serde_json::to_value(scenario).into_diagnostic()?)?;
    }
    eprintln!("{} is valid: {} run(s)", args.scenario.display(), file.scenarios.len());
    if let Some(grid) = grid {
        eprintln!("as a grid: {} cells", grid.cells.len());
    }
    if let Some(first) = file.scenarios.first() {
        eprintln!("question: {}", first.question);
    }
    for scenario in &file.scenarios {
        if !scenario.variant.is_empty() {
            eprintln!("variant {}", scenario.variant);
        }
        for assumption in &scenario.assumptions {
            eprintln!("  assumed: {assumption}");
        }
    }
    Ok(Ending::Done)
}
