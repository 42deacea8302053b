//! `fedward grid`: each variant with each strategy and each seed, cell by cell, compared at the end.

mod helpers;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
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
    report::{
        Console,
        grid::{CellGuard, CellResult, charts, csv, markdown},
    },
    safety::guard::GuardReport,
    scenario::{self, Scenario, ScenarioFile},
    store::{CodeChange, FolderLock, RunDirectory, write_atomically},
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
    let job = job(args)?;
    let (console, telemetry, cancel) = (Arc::clone(&job.console), job.telemetry.clone(), job.cancel.clone());
    let how_to_go_on = "the same command";
    if args.is_helper {
        helpers::end_with_parent(cancel.clone());
        let help = async move { run(&job, &mut Helpers::none()).await };
        return until_interrupted(&console, &telemetry, &cancel, how_to_go_on, help);
    }
    let mut unfinished = 0;
    for (scenario, out) in cells(&job) {
        job.refuse_what_is_taken(scenario, &out)?;
        unfinished += usize::from(of_cell(&job, scenario, &out).completed()?.is_none());
    }
    let mut helpers = Helpers::start(args, &job.out, args.jobs.get().min(unfinished).saturating_sub(1))?;
    until_interrupted(&console, &telemetry, &cancel, how_to_go_on, async move {
        job.announce();
        let ending = run(&job, &mut helpers).await?;
        if ending == Ending::Done {
            helpers.finish(&job.console).await;
            let result = |(scenario, out): (_, PathBuf)| result(&job, scenario, &out);
            write_report(&job, &cells(&job).map(result).collect::<miette::Result<Vec<_>>>()?)?;
        }
        Ok(ending)
    })
}

fn job(args: &GridArgs) -> miette::Result<Job> {
    let scenarios = scenario::load_grid(&args.file, &args.sets).into_diagnostic()?.cells;
    let name = || args.file.file_stem().unwrap_or_else(|| "grid".as_ref());
    let console = Arc::new(Console::new());
    let (telemetry, metrics) = install_telemetry(args.metrics.as_deref(), &console)?;
    Ok(Job {
        file: ScenarioFile { path: args.file.clone(), scenarios, has_grid: true },
        out: args.out.clone().unwrap_or_else(|| Path::new("runs").join(name())),
        resume: true,
        overwrite: false,
        code_change: CodeChange::allowed_if(args.allow_code_change),
        console,
        telemetry,
        metrics,
        cancel: CancelFlag::new(),
        stale: Mutex::default(),
    })
}

/// The cells and their folders.
fn cells(job: &Job) -> impl Iterator<Item = (&Scenario, PathBuf)> {
    job.file.scenarios.iter().map(|scenario| (scenario, job.out.join(folder(scenario))))
}

/// Works until all cells are finished: takes those that no other grid on the same folder is at, and waits for the others.
async fn run(job: &Job, helpers: &mut Helpers) -> miette::Result<Ending> {
    let (mut workshop, mut start_evaluations) = (Workshop::new(), StartEvaluations::new());
    let mut left: Vec<_> = cells(job).enumerate().collect();
    let total = left.len();
    let (mut is_waiting, mut last_seed) = (false, None);
    while !left.is_empty() {
        let mut held = Vec::new();
        for (index, (scenario, out)) in left {
            if job.cancel.is_cancelled() {
                return Ok(Ending::Interrupted);
            }
            helpers.tell_failures(&job.console);
            let name = format!("cell {} of {total}, {}", index + 1, folder(scenario).display());
            let single = of_cell(job, scenario, &out);
            let Some(_lock) = FolderLock::take_if_free(&out).into_diagnostic()? else {
                held.push((index, (scenario, out)));
                continue;
            };
            if let Some((evaluations, _)) = single.completed().wrap_err_with(|| name.clone())? {
                job.console.line(&format!("{name}: finished before"));
                start_evaluations.extend(evaluations);
                continue;
            }
            job.console.line(&name);
            if last_seed.replace(scenario.seed) != Some(scenario.seed) {
                // Cells of another seed train on other rows.
                workshop.shared_trainings().clear();
            }
            let summary;
            (workshop, start_evaluations, summary) = single.run(workshop, start_evaluations).await?;
            if summary.is_none() {
                return Ok(Ending::Interrupted);
            }
            is_waiting = false;
        }
        left = held;
        if !left.is_empty() {
            if !is_waiting {
                job.console.line(&format!(
                    "waiting for other processes on {}: {} cells",
                    job.out.display(),
                    left.len()
                ));
                is_waiting = true;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
    job.console.finish();
    Ok(Ending::Done)
}

/// The run of a cell. Variants have cells of the same name: in metrics it goes by its folder's.
fn of_cell<'a>(job: &'a Job, scenario: &'a Scenario, out: &'a Path) -> SingleRun<'a> {
    SingleRun { job, scenario, out, label: folder(scenario).display().to_string() }
}

/// `<strategy>/<variant>/seed-<seed>`.
fn folder(scenario: &Scenario) -> PathBuf {
    Path::new(scenario.federation.strategy.name()).join(&scenario.variant).join(format!("seed-{}", scenario.seed))
}

/// What a finished cell came to.
fn result(job: &Job, scenario: &Scenario, out: &Path) -> miette::Result<CellResult> {
    let single = of_cell(job, scenario, out);
    let gone = || miette!("{}: the cell was finished and is not any more; run the same command again", out.display());
    let (_, summary) = single.completed()?.ok_or_else(gone)?;
    let directory = RunDirectory::open(out).into_diagnostic()?;
    let manifest = directory.manifest().into_diagnostic()?;
    let guard = &manifest["guard"];
    let report: Option<GuardReport> = serde_json::from_value(guard["report"].clone()).into_diagnostic()?;
    let on_clients = serde_json::from_value(guard["on_clients_rows"].clone()).into_diagnostic()?;
    Ok(CellResult {
        strategy: scenario.federation.strategy.name().to_owned(),
        defence: scenario.variant.clone(),
        seed: scenario.seed,
        start_sha256: manifest["checksums"]["start_adapter_sha256"].as_str().unwrap_or_default().to_owned(),
        summary,
        rounds: directory.rounds().into_diagnostic()?,
        guard: guard.is_object().then_some(CellGuard { held_out: report.map(|report| report.held_out), on_clients }),
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
    tell!("\n{text}\neverything is in {}", job.out.display());
    Ok(())
}
