//! `fedward run`: all variants of a scenario, from the same start, compared at the end.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use clap::Args;
use fedward_actors::cancel::CancelFlag;
use miette::{IntoDiagnostic, miette};

use super::{
    Ending,
    job::{Job, Stale, install_telemetry, until_interrupted},
    report::PAGE,
    single_run::{SingleRun, StartEvaluations, write_page},
};
use crate::{
    report::{Console, comparison},
    scenario::{self, ScenarioFile},
    store::{CodeChange, FolderLock, RunDirectory, write_json},
    wiring::Workshop,
};

/// The summaries of all variants, beside their folders.
const COMPARISON: &str = "comparison.json";

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
    let file = scenario::load(&args.scenario, &args.sets).into_diagnostic()?;
    let console = Arc::new(Console::new());
    if let Some(aside) = file.grid_left_aside() {
        console.line(&aside);
    }
    let (telemetry, metrics) = install_telemetry(args.metrics.as_deref(), &console)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(args.scenario.file_stem().unwrap_or_else(|| "scenario".as_ref())));
    let cancel = CancelFlag::new();
    let stale = if args.resume { Stale::default() } else { stale(&file, &out) };
    let job = Job {
        file,
        out,
        resume: args.resume,
        overwrite: args.overwrite,
        code_change: CodeChange::allowed_if(args.allow_code_change),
        console: Arc::clone(&console),
        telemetry: telemetry.clone(),
        metrics,
        cancel: cancel.clone(),
        stale: Mutex::new(stale),
    };
    until_interrupted(&console, &telemetry, &cancel, "--resume", run_variants(job))
}

/// What stands where a scenario's runs begin afresh.
fn stale(file: &ScenarioFile, out: &Path) -> Stale {
    let runs = file.scenarios.iter().map(|scenario| out.join(&scenario.variant)).collect();
    let files = [COMPARISON, PAGE].map(|name| out.join(name));
    Stale { runs, files: if file.has_variants() { files.into() } else { Vec::new() } }
}

async fn run_variants(job: Job) -> miette::Result<Ending> {
    let mut workshop = Workshop::new();
    let mut start_evaluations = StartEvaluations::new();
    let mut summaries = Vec::new();
    // A folder that holds something else is refused before a lock is laid into it.
    let known = FolderLock::take_if_known(&job.out).into_diagnostic()?;
    refuse_what_is_taken(&job)?;
    let _lock = known.map_or_else(|| FolderLock::take(&job.out), Ok).into_diagnostic()?;
    job.announce();
    for scenario in &job.file.scenarios {
        let out = job.out.join(&scenario.variant);
        // A run or grid elsewhere may have this variant's folder for its own.
        let _lock = if out == job.out { None } else { Some(FolderLock::take(&out).into_diagnostic()?) };
        let single = SingleRun { job: &job, scenario, out: &out, label: scenario.label().to_owned() };
        if let Some((evaluations, summary)) = single.completed()? {
            job.console.line(&format!("{}: is complete, not run again", out.display()));
            start_evaluations.extend(evaluations);
            summaries.push(summary);
            continue;
        }
        let summary;
        (workshop, start_evaluations, summary) = single.run(workshop, start_evaluations).await?;
        let Some(summary) = summary else { return Ok(Ending::Interrupted) };
        summaries.push(summary);
    }
    job.console.finish();
    let table = comparison(&summaries);
    tell!("\n{}\n{table}", job.file.scenarios.first().map_or("", |scenario| &scenario.question));
    if job.file.has_variants() {
        write_json(&job.out.join(COMPARISON), &summaries).into_diagnostic()?;
        let variants = job.file.scenarios.iter().map(|scenario| job.out.join(&scenario.variant));
        write_page(&job.out, &variants.collect::<Vec<_>>())?;
    }
    tell!("everything is in {}", job.out.display());
    Ok(Ending::Done)
}

/// Refuses places that hold something that is to stay, before anything is computed for any variant.
fn refuse_what_is_taken(job: &Job) -> miette::Result<()> {
    let runs: Vec<_> = job.file.scenarios.iter().map(|scenario| job.out.join(&scenario.variant)).collect();
    for (scenario, path) in job.file.scenarios.iter().zip(&runs) {
        job.refuse_what_is_taken(scenario, path)?;
    }
    let is_theirs = |name: &&str| job.out.join(name).exists() && !runs.iter().any(|run| RunDirectory::is_at(run));
    match [COMPARISON, PAGE].iter().find(|name| job.file.has_variants() && is_theirs(name)) {
        None => Ok(()),
        Some(name) => Err(miette!(
            "{} is there, but no run of this scenario beside it; choose another --out",
            job.out.join(name).display()
        )),
    }
}
