//! `fedward grid`: each variant with each strategy and each seed, cell by cell, compared at the end.

mod helpers;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use fedward_actors::cancel::CancelFlag;
use miette::{IntoDiagnostic, WrapErr, miette};

use self::helpers::Helpers;
use super::{
    Ending,
    job::{Job, install_telemetry, until_interrupted},
    single_run::{SingleRun, StartEvaluations},
};
use crate::{
    model::device,
    report::{
        Console,
        grid::{CellResult, charts, csv, markdown},
    },
    scenario::{self, Scenario, ScenarioFile},
    store::{FolderLock, RunDirectory, write_atomically},
    wiring::Workshop,
};

/// How soon a cell that another grid has let go is noticed.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

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
    /// Cells worked on at a time, each by a process of its own with its share of the threads and a base model of its own.
    /// The first one is told here and in the metrics, the others tell in <out>/helper-<n>.log
    #[arg(long, short, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Started by another grid, to end with it
    #[arg(long, hide = true)]
    is_helper: bool,
}

/// Runs what is not finished; Ctrl-C ends it, and the same command goes on from there.
pub(super) fn grid(args: &GridArgs) -> miette::Result<Ending> {
    let scenarios = scenario::load_grid(&args.file, &args.sets).into_diagnostic()?.cells;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(args.file.file_stem().unwrap_or_else(|| "grid".as_ref())));
    let console = Arc::new(Console::new());
    let (telemetry, metrics) = install_telemetry(args.metrics.as_deref(), &console)?;
    let cancel = CancelFlag::new();
    if args.is_helper {
        helpers::end_with_parent(cancel.clone());
    }
    let jobs = args.jobs.get().min(scenarios.len());
    let file = ScenarioFile { path: args.file.clone(), scenarios };
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
    for (scenario, out) in cells(&job) {
        job.refuse_what_is_taken(scenario, &out)?;
    }
    let mut helpers = None;
    if jobs > 1 {
        let threads = device::share_threads(jobs);
        std::fs::create_dir_all(&job.out).into_diagnostic().wrap_err_with(|| job.out.display().to_string())?;
        helpers = Some(Helpers::start(args, &job.out, jobs - 1, threads)?);
    }
    let is_helper = args.is_helper;
    until_interrupted(&console, &cancel, "the same command", async move {
        job.announce();
        let ending = run(&job, helpers).await?;
        if ending == Ending::Done && !is_helper {
            let result = |(scenario, out): (_, PathBuf)| result(&job, scenario, &out);
            write_report(&job, &cells(&job).map(result).collect::<miette::Result<Vec<_>>>()?)?;
        }
        Ok(ending)
    })
}

/// The cells and their folders.
fn cells(job: &Job) -> impl Iterator<Item = (&Scenario, PathBuf)> {
    job.file.scenarios.iter().map(|scenario| (scenario, job.out.join(folder(scenario))))
}

/// Works until all cells are finished: takes those that no other grid on the same folder is at, and waits for the others.
async fn run(job: &Job, mut helpers: Option<Helpers>) -> miette::Result<Ending> {
    let (mut workshop, mut start_evaluations) = (Workshop::new(), StartEvaluations::new());
    let mut left: Vec<_> = cells(job).enumerate().collect();
    let total = left.len();
    let mut is_waiting = false;
    while !left.is_empty() {
        let mut held = Vec::new();
        for (index, (scenario, out)) in left {
            if job.cancel.is_cancelled() {
                return Ok(Ending::Interrupted);
            }
            let name = format!("cell {} of {total}, {}", index + 1, folder(scenario).display());
            let single = SingleRun { job, scenario, out: &out };
            let Some(_lock) = FolderLock::take_if_free(&out).into_diagnostic()? else {
                held.push((index, (scenario, out)));
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
            is_waiting = false;
        }
        if let Some(helpers) = &mut helpers {
            helpers.tell_failures(&job.console);
        }
        left = held;
        if !left.is_empty() {
            if !is_waiting {
                job.console.line(&format!("waiting for other grids on {}: {} cells", job.out.display(), left.len()));
                is_waiting = true;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
    job.console.finish();
    Ok(Ending::Done)
}

/// `<strategy>/<variant>/seed-<seed>`.
fn folder(scenario: &Scenario) -> PathBuf {
    Path::new(scenario.federation.strategy.name()).join(&scenario.variant).join(format!("seed-{}", scenario.seed))
}

/// What a finished cell came to.
fn result(job: &Job, scenario: &Scenario, out: &Path) -> miette::Result<CellResult> {
    let single = SingleRun { job, scenario, out };
    let gone = || miette!("{}: the cell was finished and is not any more; run the same command again", out.display());
    let (_, summary) = single.completed()?.ok_or_else(gone)?;
    Ok(CellResult {
        strategy: scenario.federation.strategy.name().to_owned(),
        defence: scenario.variant.clone(),
        seed: scenario.seed,
        summary,
        rounds: RunDirectory::open(out).into_diagnostic()?.rounds().into_diagnostic()?,
    })
}

fn write_report(job: &Job, results: &[CellResult]) -> miette::Result<()> {
    let question = job.file.scenarios.first().map_or("", |scenario| &scenario.question);
    let text = markdown(question, results);
    let write = |name: &str, text: &str| write_atomically(&job.out.join(name), text.as_bytes()).into_diagnostic();
    write("grid.md", &text)?;
    write("grid.csv", &csv(results))?;
    for (name, svg) in charts(results).into_diagnostic()? {
        write(&name, &svg.standalone())?;
    }
    eprintln!("\n{text}\neverything is in {}", job.out.display());
    Ok(())
}
