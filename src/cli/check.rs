//! `fedward check`: a scenario before it runs, a run after it.

use std::path::{Path, PathBuf};

use clap::Args;
use fedward_actors::predicates::{Evidence, Finding, Invariant};
use miette::IntoDiagnostic;

use super::{Ending, print_json, print_line};
use crate::{
    data::catalogue,
    report::{evidence_of, runs_in},
    scenario::{self, Paths},
};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The scenario file, or the directory of a run, whose invariants are then checked, or a folder with such directories
    #[arg(value_name = "SCENARIO|RUN")]
    path: PathBuf,
    /// Override a key, for example --set federation.rounds=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// The scenario is for another machine: models, rows, adapters and other paths that are not on this one are told, and are no
    /// errors
    #[arg(long)]
    elsewhere: bool,
}

/// Checks a scenario file, or the runs at a directory.
pub(super) fn check(args: &CheckArgs) -> miette::Result<Ending> {
    if !args.path.is_dir() {
        return check_scenario(args);
    }
    if args.elsewhere || !args.sets.is_empty() {
        miette::bail!("--set and --elsewhere: found with the directory of a run, expected with a scenario file");
    }
    check_runs(&args.path)
}

/// Prints for each run how every invariant fares, one a line. A run that cannot be read fails the check; the others are checked all the same.
fn check_runs(path: &Path) -> miette::Result<Ending> {
    let runs = runs_in(path).into_diagnostic()?;
    let (mut violated, mut unreadable) = (0, 0);
    for run in &runs {
        if runs.len() > 1 {
            print_line(run.display())?;
        }
        match evidence_of(run) {
            Ok(evidence) => violated += check_run(run, &evidence)?,
            Err(error) => {
                unreadable += 1;
                print_line(format_args!("cannot be read: {error}"))?;
            }
        }
    }
    let violations = match violated {
        0 => None,
        1 => Some("an invariant is violated".to_owned()),
        _ => Some(format!("{violated} invariants are violated")),
    };
    let damaged = (unreadable > 0).then(|| format!("{unreadable} run(s) cannot be read"));
    let problems: Vec<String> = violations.into_iter().chain(damaged).collect();
    if problems.is_empty() {
        return Ok(Ending::Done);
    }
    miette::bail!("{}: {}", path.display(), problems.join(", "))
}

/// Prints how every invariant of a run fares; returns how many are violated.
fn check_run(run: &Path, evidence: &Evidence) -> miette::Result<usize> {
    let is_empty = evidence.trace.rounds.is_empty();
    if !is_empty && evidence.terms.is_none() {
        tell!("{}: computed with other code: cohorts and faults are not drawn anew", run.display());
    }
    let mut violated = 0;
    for invariant in Invariant::ALL {
        match invariant.check(evidence) {
            Ok(Finding::Holds) if is_empty => {
                print_line(format_args!("{invariant}: {}", Finding::CannotBeTold("no round is stored yet")))?;
            }
            Ok(finding) => print_line(format_args!("{invariant}: {finding}"))?,
            Err(violation) => {
                violated += 1;
                print_line(format_args!("{invariant}: violated: {}", violation.difference))?;
            }
        }
    }
    Ok(violated)
}

/// Prints each variant as a line of JSON on stdout, and its assumptions on stderr.
fn check_scenario(args: &CheckArgs) -> miette::Result<Ending> {
    let paths = if args.elsewhere { Paths::Elsewhere } else { Paths::Here };
    let (file, missing) = scenario::load_for(&args.path, &args.sets, paths).into_diagnostic()?;
    let grid = scenario::load_grid_if_any(&args.path, &args.sets, paths).into_diagnostic()?;
    for scenario in &file.scenarios {
        print_json(&serde_json::to_value(scenario).into_diagnostic()?)?;
    }
    tell!("{} is valid: {} run(s)", args.path.display(), file.scenarios.len());
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
