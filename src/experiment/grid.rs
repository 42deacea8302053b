//! Grids: each variant with each strategy and each seed, cell by cell, compared at the end.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Context, ExperimentError, Grid, SingleRun, WorkerCommand, workers::Workers};
use crate::{
    report::grid::{CellGuard, CellResult, charts, csv, markdown},
    safety::guard::GuardReport,
    scenario::Scenario,
    store::{FolderLock, RunDirectory, write_atomically},
};

/// How soon a cell that another grid has let go is noticed.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What a grid came to.
#[derive(Clone, Debug)]
pub struct GridOutcome {
    /// Its tables, and how to read them, in Markdown.
    pub text: String,
    /// Its cells.
    pub cells: Vec<CellResult>,
    /// Where everything is.
    pub out: PathBuf,
}

impl Grid {
    /// Refuses places that are taken, and counts the cells that are left to do.
    ///
    /// # Errors
    ///
    /// [`ExperimentError`] says which place holds what.
    pub fn count_unfinished(&self) -> Result<usize, ExperimentError> {
        let mut unfinished = 0;
        for (scenario, out) in cells(&self.context) {
            self.context.refuse_what_is_taken(scenario, &out)?;
            unfinished += usize::from(of_cell(&self.context, scenario, &out).completed()?.is_none());
        }
        Ok(unfinished)
    }

    /// Works on the cells together with so many other processes, and compares. Workers end when this does.
    ///
    /// # Errors
    ///
    /// [`ExperimentError`] says what is missing or wrong; [`ExperimentError::Interrupted`] if it was cancelled.
    pub async fn run(&self, workers: Option<(usize, WorkerCommand)>) -> Result<GridOutcome, ExperimentError> {
        if workers.is_none() {
            self.count_unfinished()?;
        }
        let out = &self.context.out;
        let started = workers.map(|(count, command)| Workers::start(&command, out, count)).transpose()?;
        let mut workers = started.unwrap_or_else(Workers::none);
        self.context.announce();
        run(&self.context, &mut workers).await?;
        workers.finish(self.context.progress.as_ref()).await;
        let result = |(scenario, out): (_, PathBuf)| result(&self.context, scenario, &out);
        let cells = cells(&self.context).map(result).collect::<Result<Vec<_>, _>>()?;
        let text = write_report(&self.context, &cells)?;
        Ok(GridOutcome { text, cells, out: out.clone() })
    }

    /// Works on the cells for another process, which compares them.
    ///
    /// # Errors
    ///
    /// As [`Grid::run`].
    pub async fn work(&self) -> Result<(), ExperimentError> {
        run(&self.context, &mut Workers::none()).await
    }
}

/// The cells and their folders.
fn cells(context: &Context) -> impl Iterator<Item = (&Scenario, PathBuf)> {
    context.file.scenarios.iter().map(|scenario| (scenario, context.out.join(folder(scenario))))
}

/// Works until all cells are finished: takes those that no other grid on the same folder is at, and waits for the others.
async fn run(context: &Context, workers: &mut Workers) -> Result<(), ExperimentError> {
    let (mut shared, progress) = (context.shared(), context.progress.as_ref());
    let mut left: Vec<_> = cells(context).enumerate().collect();
    let total = left.len();
    let (mut is_waiting, mut last_seed) = (false, None);
    while !left.is_empty() {
        let mut held = Vec::new();
        for (index, (scenario, out)) in left {
            if context.cancel.is_cancelled() {
                return Err(ExperimentError::Interrupted);
            }
            workers.tell_failures(progress);
            let name = format!("cell {} of {total}, {}", index + 1, folder(scenario).display());
            let single = of_cell(context, scenario, &out);
            let Some(_lock) = FolderLock::take_if_free(&out)? else {
                held.push((index, (scenario, out)));
                continue;
            };
            let completed = single.completed();
            let completed =
                completed.map_err(|error| ExperimentError::Run { run: name.clone(), source: Box::new(error) })?;
            if let Some((evaluations, _)) = completed {
                progress.line(&format!("{name}: finished before"));
                shared.evaluations.extend(evaluations);
                continue;
            }
            progress.line(&name);
            if last_seed.replace(scenario.seed) != Some(scenario.seed) {
                // Cells of another seed train on other rows.
                shared.workshop.shared_trainings().clear();
            }
            single.run(&mut shared).await?;
            is_waiting = false;
        }
        left = held;
        if !left.is_empty() {
            if !is_waiting {
                progress.line(&format!(
                    "waiting for other processes on {}: {} cells",
                    context.out.display(),
                    left.len()
                ));
                is_waiting = true;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
    Ok(())
}

/// The run of a cell. Variants have cells of the same name: in metrics it goes by its folder's.
fn of_cell<'a>(context: &'a Context, scenario: &'a Scenario, out: &'a Path) -> SingleRun<'a> {
    SingleRun { context, scenario, out, label: folder(scenario).display().to_string() }
}

/// `<strategy>/<variant>/seed-<seed>`.
fn folder(scenario: &Scenario) -> PathBuf {
    Path::new(scenario.federation.strategy.name()).join(&scenario.variant).join(format!("seed-{}", scenario.seed))
}

/// What a finished cell came to.
fn result(context: &Context, scenario: &Scenario, out: &Path) -> Result<CellResult, ExperimentError> {
    let single = of_cell(context, scenario, out);
    let gone = || {
        let out = out.display();
        ExperimentError::Other(format!("{out}: the cell was finished and is not any more; run the same command again"))
    };
    let (_, summary) = single.completed()?.ok_or_else(gone)?;
    let directory = RunDirectory::open(out)?;
    let manifest = directory.manifest()?;
    let guard = &manifest["guard"];
    let report: Option<GuardReport> = serde_json::from_value(guard["report"].clone())?;
    let on_clients = serde_json::from_value(guard["on_clients_rows"].clone())?;
    Ok(CellResult {
        strategy: scenario.federation.strategy.name().to_owned(),
        defence: scenario.variant.clone(),
        point: scenario.point.clone(),
        seed: scenario.seed,
        start_sha256: manifest["checksums"]["start_adapter_sha256"].as_str().unwrap_or_default().to_owned(),
        summary,
        rounds: directory.rounds()?,
        guard: guard.is_object().then_some(CellGuard { held_out: report.map(|report| report.held_out), on_clients }),
    })
}

fn write_report(context: &Context, results: &[CellResult]) -> Result<String, ExperimentError> {
    let question = context.file.scenarios.first().map_or("", |scenario| &scenario.question);
    let text = markdown(question, results);
    let write = |name: &str, text: &str| write_atomically(&context.out.join(name), text.as_bytes());
    write("grid.md", &text)?;
    write("grid.csv", &csv(results))?;
    for (name, svg) in charts(results)? {
        write(&name, &svg.standalone())?;
    }
    Ok(text)
}
