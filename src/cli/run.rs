//! `fedward run`: all variants of a scenario file.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use miette::IntoDiagnostic;

use super::{Ending, session::Session};
use crate::{Experiment, Outcome, experiment::Existing, report::Console, store::CodeChange};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The scenario file
    scenario: PathBuf,
    /// Where the run directory is made [default: runs/<name of the file>]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with what an interrupted run has stored in the same place
    #[arg(long)]
    resume: bool,
    /// Begin afresh where a run that has not completed is; completed ones of all variants give way without it, as soon as the
    /// first variant is prepared
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Go on, too, with a run that another build of fedward has computed so far; what this one computes may differ
    #[arg(long, requires = "resume")]
    allow_code_change: bool,
    /// Override a key, for example --set federation.rounds=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Serve Prometheus metrics here while it runs; "off" serves none [default: 127.0.0.1:9464 if it is free]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
}

/// Runs all variants; Ctrl-C ends it within two seconds and leaves readable run directories.
pub(super) fn run(args: &RunArgs) -> miette::Result<Ending> {
    let existing = match (args.resume, args.overwrite) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Overwrite,
        _ => Existing::Keep,
    };
    let experiment = Experiment::from_file(&args.scenario)
        .sets(&args.sets)
        .existing(existing)
        .code_change(CodeChange::allowed_if(args.allow_code_change));
    let experiment = match &args.out {
        Some(out) => experiment.out(out),
        None => experiment,
    };
    let file = experiment.scenarios().into_diagnostic()?;
    let console = Arc::new(Console::new());
    if let Some(aside) = file.grid_left_aside() {
        console.line(&aside);
    }
    let (session, experiment) = Session::of(experiment, console, args.metrics.as_deref())?;
    session.work("--resume", experiment.run_variants(), |outcome: Outcome| {
        tell!("\n{}\n{}", outcome.question, outcome.comparison());
        tell!("everything is in {}", outcome.out.display());
    })
}
