//! `fedward grid`: each variant with each strategy and each seed, cell by cell, compared at the end.

use std::{num::NonZeroUsize, path::PathBuf, process::Command, sync::Arc};

use clap::Args;
use miette::IntoDiagnostic;

use super::{Ending, session::Session};
use crate::{
    Experiment,
    experiment::{GridOutcome, WorkerCommand, end_with_parent},
    model::device,
    report::Console,
    scenario,
    store::CodeChange,
};

#[derive(Clone, Debug, Args)]
pub(super) struct GridArgs {
    /// A scenario file with variants and a [grid] of strategies and seeds
    file: PathBuf,
    /// Where the cells are kept; cells that are finished there are not run again [default: runs/<name of the file>]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on, too, with cells that another build of fedward has computed so far; what this one computes may differ
    #[arg(long)]
    allow_code_change: bool,
    /// Override a key, for example --set federation.rounds=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Serve Prometheus metrics here while it runs; "off" serves none [default: 127.0.0.1:9464 if it is free]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Cells worked on at a time, each by a process of its own with its share of the cores and a base model of its own.
    /// The first one is told here and in the metrics, the others tell in <out>/helper-<n>.log
    #[arg(long, short, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Started by another grid, to end with it
    #[arg(long, hide = true)]
    is_helper: bool,
}

/// Runs what is not finished; Ctrl-C ends it, and the same command goes on from there.
pub(super) fn grid(args: &GridArgs) -> miette::Result<Ending> {
    // What is wrong with the file is said before anything else.
    scenario::load_grid(&args.file, &args.sets).into_diagnostic()?;
    let experiment =
        Experiment::from_file(&args.file).sets(&args.sets).code_change(CodeChange::allowed_if(args.allow_code_change));
    let experiment = match &args.out {
        Some(out) => experiment.out(out),
        None => experiment,
    };
    let (session, experiment) = Session::of(experiment, Arc::new(Console::new()), args.metrics.as_deref())?;
    let grid = experiment.grid().into_diagnostic()?;
    let how_to_go_on = "the same command";
    if args.is_helper {
        end_with_parent(session.cancel.clone());
        return session.work(how_to_go_on, async move { grid.work().await }, |()| {});
    }
    let others = args.jobs.get().min(grid.count_unfinished().into_diagnostic()?).saturating_sub(1);
    let command = worker_command(args, grid.out().to_owned(), device::share_threads(others + 1));
    session.work(
        how_to_go_on,
        async move { grid.run(Some((others, command))).await },
        |GridOutcome { text, out, .. }| tell!("\n{text}\neverything is in {}", out.display()),
    )
}

/// Starts this program on the same grid again.
fn worker_command(args: &GridArgs, out: PathBuf, threads: NonZeroUsize) -> WorkerCommand {
    let args = args.clone();
    Box::new(move || {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("grid").args(["--metrics=off", "--is-helper"]).arg(format!("--threads={threads}"));
        command.args(args.allow_code_change.then_some("--allow-code-change"));
        command.args(args.sets.iter().map(|set| format!("--set={set}"))).arg("--out").arg(&out);
        command.arg("--").arg(&args.file);
        Ok(command)
    })
}
