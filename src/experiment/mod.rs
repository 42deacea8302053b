//! Experiments: a scenario file's variants, run one after another and compared, or a grid of them with strategies and seeds.
//!
//! ```no_run
//! use fedward::Experiment;
//!
//! let outcome = Experiment::from_file("scenarios/quickstart.toml").set("federation.rounds=1").out("runs/mine").run()?;
//! println!("{}", outcome.comparison());
//! # Ok::<(), fedward::ExperimentError>(())
//! ```
//!
//! What a program plugs in, [ports](Experiment::ports) or a [benchmark](Experiment::benchmark), keeps everything that a run has: run
//! directory, `--resume`, grid, report. It goes by a name, which belongs to the run as its scenario does.

mod baseline;
mod context;
mod error;
mod grid;
mod single_run;
mod variants;
mod workers;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use fedward_actors::{CancelFlag, Ports, ports::Observer};

use self::{
    context::{Context, Shared},
    single_run::SingleRun,
};
pub use self::{
    error::ExperimentError,
    grid::GridOutcome,
    variants::Outcome,
    workers::{WorkerCommand, end_with_parent},
};
use crate::{
    eval::Benchmark,
    model::device,
    progress::{Progress, Silent},
    scenario::{self, Scenario, ScenarioError, ScenarioFile},
    store::{CodeChange, write_atomically},
    telemetry::Telemetry,
};

/// The page's name in a run's directory, and in the folder of a scenario with variants.
pub(crate) const PAGE: &str = "report.html";

/// Changes the ports of a run before it begins.
type PortsHook = Arc<dyn Fn(&Scenario, &mut Ports) + Send + Sync>;

/// A scenario file, where its runs go, and what takes part in them beside what the file says.
///
/// It begins afresh where a completed run is, and refuses to where one has not completed.
pub struct Experiment {
    file: PathBuf,
    sets: Vec<String>,
    out: Option<PathBuf>,
    existing: Existing,
    code_change: CodeChange,
    observers: Vec<Arc<dyn Observer>>,
    progress: Arc<dyn Progress>,
    telemetry: Option<(Telemetry, Option<SocketAddr>)>,
    cancel: CancelFlag,
    extensions: Extensions,
}

/// What becomes of runs of the same scenario that have not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They stay, and the experiment is refused.
    Keep,
    /// They go on after their last stored round; completed ones are not run again.
    Resume,
    /// They give way.
    Overwrite,
}

/// What a program adds to the runs of an experiment.
#[derive(Clone, Default)]
struct Extensions {
    names: Vec<String>,
    ports: Vec<PortsHook>,
    benchmarks: Vec<Arc<dyn Benchmark>>,
}

impl Experiment {
    /// An experiment with a scenario file, which is read when it is run.
    pub fn from_file(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            sets: Vec::new(),
            out: None,
            existing: Existing::Keep,
            code_change: CodeChange::Refuse,
            observers: Vec::new(),
            progress: Arc::new(Silent),
            telemetry: None,
            cancel: CancelFlag::new(),
            extensions: Extensions::default(),
        }
    }

    /// Overrides a key of the file: `"federation.rounds=3"`.
    #[must_use]
    pub fn set(mut self, key_value: impl Into<String>) -> Self {
        self.sets.push(key_value.into());
        self
    }

    /// Overrides several keys.
    #[must_use]
    pub fn sets<S: Into<String>>(self, key_values: impl IntoIterator<Item = S>) -> Self {
        key_values.into_iter().fold(self, Self::set)
    }

    /// Says where run directories are made; `runs/<name of the file>` otherwise.
    #[must_use]
    pub fn out(mut self, out: impl Into<PathBuf>) -> Self {
        self.out = Some(out.into());
        self
    }

    /// Says what becomes of runs that have not completed. A grid resumes whatever is said here.
    #[must_use]
    pub fn existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Lets runs go on that another build of fedward has computed so far.
    #[must_use]
    pub fn code_change(mut self, code_change: CodeChange) -> Self {
        self.code_change = code_change;
        self
    }

    /// Adds somebody who hears what happens in rounds.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Says who hears how far work is, and what people should know of it.
    #[must_use]
    pub fn progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Puts metrics into `telemetry`, which is served at `address` where there is one.
    #[must_use]
    pub fn telemetry(mut self, telemetry: Telemetry, address: Option<SocketAddr>) -> Self {
        self.telemetry = Some((telemetry, address));
        self
    }

    /// Has the experiment end early, with what was stored so far, once the flag is raised.
    #[must_use]
    pub fn cancel(mut self, cancel: CancelFlag) -> Self {
        self.cancel = cancel;
        self
    }

    /// Changes the ports of each run: another strategy, a guard, a layer over local training.
    ///
    /// `name` says what it is and in which version. It is recorded, and a run is not gone on with under another name.
    #[must_use]
    pub fn ports(
        mut self,
        name: impl Into<String>,
        change: impl Fn(&Scenario, &mut Ports) + Send + Sync + 'static,
    ) -> Self {
        self.extensions.names.push(name.into());
        self.extensions.ports.push(Arc::new(change));
        self
    }

    /// Measures with one more benchmark wherever those of the scenario do. `name` as in [`Experiment::ports`].
    #[must_use]
    pub fn benchmark(mut self, name: impl Into<String>, benchmark: impl Benchmark + 'static) -> Self {
        self.extensions.names.push(name.into());
        self.extensions.benchmarks.push(Arc::new(benchmark));
        self
    }

    /// Reads the scenario file with what overrides it.
    ///
    /// # Errors
    ///
    /// [`ScenarioError`] with every complaint at once.
    pub fn scenarios(&self) -> Result<ScenarioFile, ScenarioError> {
        scenario::load(&self.file, &self.sets)
    }

    /// Runs all variants and compares them.
    ///
    /// # Errors
    ///
    /// [`ExperimentError`] says what is missing or wrong; [`ExperimentError::Interrupted`] if it was cancelled.
    pub fn run(self) -> Result<Outcome, ExperimentError> {
        block_on(self.run_variants())
    }

    /// As [`Experiment::run`], inside of a multi-threaded runtime with time and I/O.
    ///
    /// # Errors
    ///
    /// As [`Experiment::run`].
    pub async fn run_variants(self) -> Result<Outcome, ExperimentError> {
        let context = self.context()?;
        variants::run(&context).await
    }

    /// Runs what is not finished of each variant with each strategy and each seed of the file's `[grid]`, and compares.
    ///
    /// # Errors
    ///
    /// As [`Experiment::run`].
    pub fn run_grid(self) -> Result<GridOutcome, ExperimentError> {
        block_on(async {
            let grid = self.grid()?;
            grid.run(None).await
        })
    }

    /// Reads a grid and sees that its cells can be run.
    ///
    /// # Errors
    ///
    /// [`ExperimentError`] if a place is taken, or the file is no grid.
    pub fn grid(mut self) -> Result<Grid, ExperimentError> {
        self.existing = Existing::Resume;
        let cells = scenario::load_grid(&self.file, &self.sets)?.cells;
        let file = ScenarioFile { path: self.file.clone(), scenarios: cells, has_grid: true };
        Ok(Grid { context: self.context_of(file)? })
    }

    fn context(self) -> Result<Context, ExperimentError> {
        let file = self.scenarios()?;
        self.context_of(file)
    }

    fn context_of(self, file: ScenarioFile) -> Result<Context, ExperimentError> {
        device::init_backend();
        let name = || self.file.file_stem().unwrap_or_else(|| "scenario".as_ref());
        let out = self.out.unwrap_or_else(|| Path::new("runs").join(name()));
        let (telemetry, metrics) = match self.telemetry {
            Some(given) => given,
            None => (Telemetry::new()?, None),
        };
        let stale =
            if self.existing == Existing::Resume { context::Stale::default() } else { context::stale(&file, &out) };
        Ok(Context {
            file,
            out,
            existing: self.existing,
            code_change: self.code_change,
            progress: self.progress,
            observers: self.observers,
            telemetry,
            metrics,
            cancel: self.cancel,
            extensions: self.extensions,
            stale: std::sync::Mutex::new(stale),
        })
    }
}

/// A grid whose cells can be run.
pub struct Grid {
    context: Context,
}

impl Grid {
    /// Returns where its cells are kept.
    pub fn out(&self) -> &Path {
        &self.context.out
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, ExperimentError>>) -> Result<T, ExperimentError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| ExperimentError::Other(format!("the runtime cannot be started: {error}")))?.block_on(work)
}

/// Puts runs on a page in `folder`.
fn write_page(folder: &Path, runs: &[PathBuf]) -> Result<(), ExperimentError> {
    let page = crate::report::page(&crate::report::StoredRun::read_all(runs)?)?;
    Ok(write_atomically(&folder.join(PAGE), page.as_bytes())?)
}
