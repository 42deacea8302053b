//! `fedward grid`: each variant with each strategy and each seed, cell by cell, compared at the end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use fedward_actors::cancel::CancelFlag;
use miette::{IntoDiagnostic, WrapErr};

use super::{
    Ending,
    job::{Job, install_telemetry, until_interrupted},
    single_run::{SingleRun, StartEvaluations},
};
use crate::{
    report::{
        Console,
        grid::{CellResult, charts, csv, markdown},
    },
    scenario::{self, Scenario, ScenarioFile},
    store::{FolderLock, RunDirectory, write_atomically},
    wiring::Workshop,
};

#[derive(Debug, Args)]
pub(super) struct GridArgs {
    /// A scenario file with variants and a [grid] of strategies and seeds
    file: PathBuf,
    /// Where the cells are kept; cells that are finished there are not run again [default: runs/<name of the file>]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Override a key, for example --set federation.rounds=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Serve Prometheus metrics here while it runs; "off" serves none [default: 127.0.0.1:9464 if it is free]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
}

/// Runs what is not finished; Ctrl-C ends it, and the same command goes on from there.
pub(super) fn grid(args: &GridArgs) -> miette::Result<Ending> {
    let cells = scenario::load_grid(&args.file, &args.sets).into_diagnostic()?.cells;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(args.file.file_stem().unwrap_or_else(|| "grid".as_ref())));
    let console = Arc::new(Console::new());
    let (telemetry, metrics) = install_telemetry(args.metrics.as_deref(), &console)?;
    let cancel = CancelFlag::new();
    let file = ScenarioFile { path: args.file.clone(), scenarios: cells };
    let job = Job {
        file,
        out,
        resume: true,
        overwrite: false,
        console: Arc::clone(&console),
        telemetry,
        metrics,
        cancel: cancel.clone(),
    };
    until_interrupted(&console, &cancel, "the same command", run(job))
}

/// All cells that nobody has finished and no other grid on the same folder is at; the last grid writes the tables.
async fn run(job: Job) -> miette::Result<Ending> {
    job.announce();
    let (mut workshop, mut start_evaluations) = (Workshop::new(), StartEvaluations::new());
    let total = job.file.scenarios.len();
    for (index, scenario) in job.file.scenarios.iter().enumerate() {
        let out = job.out.join(folder(scenario));
        let name = format!("cell {} of {total}, {}", index + 1, folder(scenario).display());
        let single = SingleRun { job: &job, scenario, out: &out };
        let Some(_lock) = FolderLock::take_if_free(&out).into_diagnostic()? else {
            job.console.line(&format!("{name}: another grid is at it"));
            continue;
        };
        if let Some((key, summary)) = single.completed().wrap_err_with(|| name.clone())? {
            job.console.line(&format!("{name}: finished before"));
            start_evaluations.insert(key, summary.start_eval);
            continue;
        }
        job.console.line(&name);
        let summary;
        (workshop, start_evaluations, summary) = single.run(workshop, start_evaluations).await?;
        if summary.is_none() {
            return Ok(Ending::Interrupted);
        }
    }
    job.console.finish();
    let results = job.file.scenarios.iter().filter_map(|scenario| result(&job, scenario).transpose());
    let results: Vec<_> = results.collect::<miette::Result<_>>()?;
    if results.len() < total {
        let left = total - results.len();
        eprintln!(
            "{left} of {total} cells are in the hands of other grids on {}; the last to end writes the tables",
            job.out.display()
        );
    } else {
        write_report(&job, &results)?;
    }
    Ok(Ending::Done)
}

/// `<strategy>/<variant>/seed-<seed>`.
fn folder(scenario: &Scenario) -> PathBuf {
    Path::new(scenario.federation.strategy.name()).join(&scenario.variant).join(format!("seed-{}", scenario.seed))
}

/// What a finished cell came to.
fn result(job: &Job, scenario: &Scenario) -> miette::Result<Option<CellResult>> {
    let out = job.out.join(folder(scenario));
    let Some((_, summary)) = (SingleRun { job, scenario, out: &out }).completed()? else { return Ok(None) };
    Ok(Some(CellResult {
        strategy: scenario.federation.strategy.name().to_owned(),
        defence: scenario.variant.clone(),
        seed: scenario.seed,
        summary,
        rounds: RunDirectory::open(&out).into_diagnostic()?.rounds().into_diagnostic()?,
    }))
}

fn write_report(job: &Job, results: &[CellResult]) -> miette::Result<()> {
    let question = job.file.scenarios.first().map_or("", |scenario| &scenario.question);
    let text = markdown(question, results);
    let write = |name: &str, text: &str| write_atomically(&job.out.join(name), text.as_bytes()).into_diagnostic();
    write("grid.md", &text)?;
    write("grid.csv", &csv(results))?;
    for (name, svg) in charts(results).into_diagnostic()? {
        write(name, &svg.standalone())?;
    }
    eprintln!("\n{text}\neverything is in {}", job.out.display());
    Ok(())
}
