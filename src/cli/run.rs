//! `fedward run`: all variants of a scenario, from the same start, compared at the end.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use fedward_actors::{
    FederationError, StartState,
    cancel::CancelFlag,
    ports::{Benchmarks, Evaluation, EvaluationScope, PortError},
    protocol::{Adapter, RoundId},
    run_federation,
};
use miette::{IntoDiagnostic, miette};
use serde_json::{Value, json};

use super::Ending;
use crate::{
    lora::peft,
    model::ModelError,
    report::{Console, Observers, RunStatus, StoredRun, Summary, Totals, comparison, page},
    scenario::{self, GuardSection, Scenario, ScenarioFile},
    store::{RunDirectory, Unfinished, write_atomically, write_json},
    telemetry::{Exposure, ProcessMemory, RunInfo, Telemetry},
    wiring::{Prepared, Progress, SetupError, Workshop, federation_config, ports},
};

/// Where metrics are served unless somebody says otherwise.
const DEFAULT_METRICS: &str = "127.0.0.1:9464";

/// How long work gets to notice that it was cancelled before the program ends without it.
const GRACE: Duration = Duration::from_millis(1200);

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
    /// Begin afresh where a run that has not completed is; one that has completed gives way without it
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
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
    let (telemetry, metrics) = install_telemetry(args.metrics.as_deref(), &console)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(args.scenario.file_stem().unwrap_or_else(|| "scenario".as_ref())));
    let cancel = CancelFlag::new();
    let job = Job {
        file,
        out,
        resume: args.resume,
        overwrite: args.overwrite,
        console: Arc::clone(&console),
        telemetry,
        metrics,
        cancel: cancel.clone(),
    };
    until_interrupted(&console, &cancel, job.run())
}

/// Works until it is done or Ctrl-C ends it.
pub(super) fn until_interrupted(
    console: &Console,
    cancel: &CancelFlag,
    work: impl Future<Output = miette::Result<Ending>> + Send + 'static,
) -> miette::Result<Ending> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().into_diagnostic()?;
    let ending = runtime.block_on(async move {
        let mut work = tokio::spawn(work);
        tokio::select! {
            ended = &mut work => ended.into_diagnostic()?,
            signal = tokio::signal::ctrl_c() => {
                signal.into_diagnostic()?;
                cancel.cancel();
                // The job writes its summary once the federation has let go; work deep inside libtorch is left behind.
                match tokio::time::timeout(GRACE, work).await {
                    Ok(ended) => ended.into_diagnostic()?.map(|_| Ending::Interrupted),
                    Err(_) => Ok(Ending::Interrupted),
                }
            }
        }
    });
    console.finish();
    if matches!(ending, Ok(Ending::Interrupted)) {
        eprintln!("interrupted; every finished round is stored, --resume goes on from there");
        // Blocking threads may still be inside libtorch: they end with the process.
        std::process::exit(i32::from(super::INTERRUPTED));
    }
    ending
}

/// Metrics, and where they are served.
pub(super) fn install_telemetry(
    address: Option<&str>,
    console: &Console,
) -> miette::Result<(Telemetry, Option<SocketAddr>)> {
    let parse = |text: &str| {
        text.parse::<SocketAddr>().map_err(|_| {
            miette!("--metrics: found {text:?}; expected an address such as {DEFAULT_METRICS}, or \"off\"")
        })
    };
    match address {
        Some("off") => Ok((Telemetry::new().into_diagnostic()?, None)),
        Some(address) => {
            let address = parse(address)?;
            Ok((Telemetry::install(address, Exposure::Loopback).into_diagnostic()?, Some(address)))
        }
        None => {
            let address = parse(DEFAULT_METRICS)?;
            match Telemetry::install(address, Exposure::Loopback) {
                Ok(telemetry) => Ok((telemetry, Some(address))),
                Err(error) => {
                    console.line(&format!("metrics are not served: {error} --metrics takes another address"));
                    Ok((Telemetry::new().into_diagnostic()?, None))
                }
            }
        }
    }
}

/// All runs of a scenario file.
pub(super) struct Job {
    pub(super) file: ScenarioFile,
    pub(super) out: PathBuf,
    pub(super) resume: bool,
    pub(super) overwrite: bool,
    pub(super) console: Arc<Console>,
    pub(super) telemetry: Telemetry,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) cancel: CancelFlag,
}

impl Job {
    /// The guard that judges responses in all runs: that of the first variant that has one.
    fn judge(&self) -> Option<&GuardSection> {
        self.file.scenarios.iter().find_map(|scenario| scenario.guard.as_ref())
    }
}

/// What runs of one command share beside the workshop: evaluations of the adapter that they start from, by
/// [`SingleRun::evaluation_key`].
pub(super) type StartEvaluations = HashMap<String, Evaluation>;

impl Job {
    /// Refuses places that hold something that is to stay, before anything is computed for any variant.
    fn refuse_what_is_taken(&self) -> miette::Result<()> {
        let runs: Vec<_> = self.file.scenarios.iter().map(|scenario| self.out.join(&scenario.variant)).collect();
        for (scenario, path) in self.file.scenarios.iter().zip(&runs) {
            if self.resume && RunDirectory::is_at(path) {
                let scenario = serde_json::to_value(scenario).into_diagnostic()?;
                RunDirectory::open(path).and_then(|run| run.check_scenario(&scenario)).into_diagnostic()?;
            } else {
                RunDirectory::check_place(path, self.unfinished()).into_diagnostic()?;
            }
        }
        let is_theirs = |name: &&str| self.out.join(name).exists() && !runs.iter().any(|run| RunDirectory::is_at(run));
        match [COMPARISON, super::report::PAGE].iter().find(|name| self.file.has_variants() && is_theirs(name)) {
            None => Ok(()),
            Some(name) => Err(miette!(
                "{} is there, but no run of this scenario beside it; choose another --out",
                self.out.join(name).display()
            )),
        }
    }

    /// What becomes of runs that have not completed. Nothing is lost of one to be resumed that has stored no round.
    fn unfinished(&self) -> Unfinished {
        if self.overwrite || self.resume { Unfinished::Replace } else { Unfinished::Keep }
    }

    async fn run(self) -> miette::Result<Ending> {
        let mut workshop = Workshop::new();
        let mut start_evaluations = StartEvaluations::new();
        let mut summaries = Vec::new();
        self.refuse_what_is_taken()?;
        self.announce();
        for scenario in &self.file.scenarios {
            let out = self.out.join(&scenario.variant);
            let single = SingleRun { job: &self, scenario, out: &out };
            if let Some((key, summary)) = single.completed()? {
                self.console.line(&format!("{}: is complete, not run again", out.display()));
                start_evaluations.insert(key, summary.start_eval.clone());
                summaries.push(summary);
                continue;
            }
            let summary;
            (workshop, start_evaluations, summary) = single.run(workshop, start_evaluations).await?;
            let Some(summary) = summary else { return Ok(Ending::Interrupted) };
            summaries.push(summary);
        }
        self.console.finish();
        let table = comparison(&summaries);
        eprintln!("\n{}\n{table}", self.file.scenarios.first().map_or("", |scenario| &scenario.question));
        if self.file.has_variants() {
            write_json(&self.out.join(COMPARISON), &summaries).into_diagnostic()?;
            let variants = self.file.scenarios.iter().map(|scenario| self.out.join(&scenario.variant));
            write_page(&self.out, &variants.collect::<Vec<_>>())?;
        }
        eprintln!("everything is in {}", self.out.display());
        Ok(Ending::Done)
    }

    pub(super) fn announce(&self) {
        let Some(scenario) = self.file.scenarios.first() else { return };
        self.console.line(&scenario.question);
        let headline: Vec<_> = scenario::headline(&self.file.scenarios)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        self.console.line(&headline.join(" · "));
        if let Some(address) = self.metrics {
            self.console.line(&format!("metrics: http://{address}/metrics"));
        }
        let mut assumptions: Vec<_> = self.file.scenarios.iter().flat_map(|scenario| &scenario.assumptions).collect();
        assumptions.sort();
        assumptions.dedup();
        for assumption in assumptions {
            self.console.line(&format!("assumed: {assumption}"));
        }
    }
}

/// The summaries of all variants, beside their folders.
const COMPARISON: &str = "comparison.json";

/// One variant's run.
pub(super) struct SingleRun<'a> {
    pub(super) job: &'a Job,
    pub(super) scenario: &'a Scenario,
    pub(super) out: &'a Path,
}

impl SingleRun<'_> {
    /// Prepares, runs and sums up; no summary if it was interrupted.
    pub(super) async fn run(
        &self,
        workshop: Workshop,
        mut start_evaluations: StartEvaluations,
    ) -> miette::Result<(Workshop, StartEvaluations, Option<Summary>)> {
        if !self.scenario.variant.is_empty() {
            self.job.console.line(&format!("variant {}", self.scenario.variant));
        }
        let (mut workshop, prepared) = self.prepare(workshop).await?;
        let Some(prepared) = prepared else { return Ok((workshop, start_evaluations, None)) };
        let description = prepared.guard.as_ref().and_then(|guard| workshop.description_once(guard));
        if let Some(description) = description {
            self.job.console.line(&description);
        }
        for assumption in prepared.data.assumptions() {
            self.job.console.line(&format!("assumed: {assumption}"));
        }
        let (directory, start) = self.open(&prepared)?;
        let resumed: Option<Summary> = directory.summary().into_diagnostic()?;
        let key = self.evaluation_key(&prepared.start.sha256())?;
        let known = start_evaluations.get(&key).or(resumed.as_ref().map(|resumed| &resumed.start_eval));
        let start_eval = match known.filter(|evaluation| !evaluation.is_empty()) {
            Some(evaluation) => evaluation.clone(),
            None => match self.evaluate(&prepared, RoundId::START, &prepared.start).await? {
                Some(evaluation) => evaluation,
                None => return Ok((workshop, start_evaluations, None)),
            },
        };
        start_evaluations.insert(key, start_eval.clone());

        let metrics = Arc::new(self.job.telemetry.observer(&self.run_info(&prepared)));
        metrics.evaluated(RoundId::START, &start_eval);
        let slots = self.scenario.federation.slots.unwrap_or(prepared.model.threads);
        let observer = Observers(vec![Arc::clone(&metrics) as _, Arc::clone(&self.job.console) as _]);
        let ports = ports(self.scenario, &prepared, &workshop, &directory, Arc::new(observer)).into_diagnostic()?;
        let config = federation_config(self.scenario, slots);
        let ended = run_federation(config, ports, start, self.job.cancel.clone()).await;
        let (global, status) = match ended {
            Ok(result) => (result.global, RunStatus::Completed),
            Err(FederationError::Cancelled) => (last_stored(&directory, &prepared)?, RunStatus::Interrupted),
            Err(error) => return Err(error).into_diagnostic(),
        };
        let summary = self.sum_up(&directory, &prepared, &global, start_eval, status).await?;
        metrics.evaluated(RoundId(summary.totals.rounds), &summary.eval);
        metrics.ended();
        self.store(&directory, &prepared, &global, &summary)?;
        let summary = Some(summary).filter(|summary| summary.status == RunStatus::Completed);
        Ok((workshop, start_evaluations, summary))
    }

    /// The summary of this run, if an earlier command has completed it and this one is to go on, and the key of its start.
    pub(super) fn completed(&self) -> miette::Result<Option<(String, Summary)>> {
        if !self.job.resume || !RunDirectory::is_at(self.out) {
            return Ok(None);
        }
        let directory = RunDirectory::open(self.out).into_diagnostic()?;
        let summary: Option<Summary> = directory.summary().into_diagnostic()?;
        let Some(summary) = summary.filter(|summary| summary.status == RunStatus::Completed) else { return Ok(None) };
        // The rows say what is stored: a summary may be older than they are.
        let last = directory.rounds().into_diagnostic()?.last().map_or(0, |last| last.round.0);
        if last < self.scenario.federation.rounds {
            return Ok(None);
        }
        let scenario = serde_json::to_value(self.scenario).into_diagnostic()?;
        directory.check_scenario(&scenario).into_diagnostic()?;
        let manifest = directory.manifest().into_diagnostic()?;
        let start = manifest["checksums"]["start_adapter_sha256"].as_str().unwrap_or_default();
        Ok(Some((self.evaluation_key(start)?, summary)))
    }

    /// Names an evaluation of an adapter: what it is and all that the benchmarks depend on, the judge among it.
    fn evaluation_key(&self, adapter_sha256: &str) -> miette::Result<String> {
        let scenario = serde_json::to_value(self.scenario).into_diagnostic()?;
        let depends_on = ["seed", "model", "lora", "data", "evaluation"].map(|section| &scenario[section]);
        Ok(json!([adapter_sha256, depends_on, serde_json::to_value(self.job.judge()).into_diagnostic()?]).to_string())
    }

    fn run_info(&self, prepared: &Prepared) -> RunInfo {
        RunInfo {
            scenario: self.scenario.name.clone(),
            variant: self.scenario.label().to_owned(),
            strategy: self.scenario.federation.strategy.name().to_owned(),
            guard: prepared.guard.as_ref().map(|guard| guard.model.version().to_owned()),
            model: prepared.model.name.clone(),
            clients: self.scenario.federation.clients,
            rounds: self.scenario.federation.rounds,
        }
    }

    /// Makes what the run needs, on a blocking thread; `None` if it was interrupted.
    async fn prepare(&self, mut workshop: Workshop) -> miette::Result<(Workshop, Option<Prepared>)> {
        let (scenario, console, cancel) =
            (self.scenario.clone(), Arc::clone(&self.job.console), self.job.cancel.clone());
        let judge = self.job.judge().cloned();
        let prepare = move || {
            let prepared = workshop.prepare(&scenario, judge.as_ref(), console.as_ref(), &cancel);
            (workshop, prepared)
        };
        let (workshop, prepared) = tokio::task::spawn_blocking(prepare).await.into_diagnostic()?;
        match prepared {
            Ok(prepared) => Ok((workshop, Some(prepared))),
            Err(SetupError::Model(ModelError::Cancelled)) => Ok((workshop, None)),
            Err(error) => Err(error).into_diagnostic(),
        }
    }

    /// Opens the run directory, afresh or where an interrupted run left it.
    fn open(&self, prepared: &Prepared) -> miette::Result<(RunDirectory, StartState)> {
        let manifest = self.manifest(prepared)?;
        if self.job.resume
            && let Some((directory, resumed)) = RunDirectory::resume(self.out, &manifest).into_diagnostic()?
        {
            let checkpoint = resumed.checkpoint;
            self.job.console.line(&format!("{}: going on after {}", self.out.display(), checkpoint.round));
            let state = StartState {
                round: checkpoint.round,
                global: checkpoint.global,
                strategy_state: checkpoint.strategy_state,
            };
            return Ok((directory, state));
        }
        let directory = RunDirectory::create(self.out, self.job.unfinished()).into_diagnostic()?;
        directory.write_manifest(&manifest).into_diagnostic()?;
        let state = StartState { round: RoundId::START, global: prepared.start.clone(), strategy_state: Vec::new() };
        Ok((directory, state))
    }

    fn manifest(&self, prepared: &Prepared) -> miette::Result<Value> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        Ok(json!({
            "scenario": serde_json::to_value(self.scenario).into_diagnostic()?,
            "seed": self.scenario.seed,
            "scenario_file": self.job.file.path,
            "started_unix_seconds": started,
            "versions": { "fedward": env!("CARGO_PKG_VERSION"), "libtorch": crate::model::device::LIBTORCH_VERSION },
            "device": format!("{:?}", prepared.model.base.device()),
            "precision": format!("{:?}", prepared.model.base.precision()),
            "threads": prepared.model.threads,
            "checksums": {
                "model_sha256": prepared.model.sha256,
                "start_adapter_sha256": prepared.start.sha256(),
                "client_rows_sha256": prepared.data.clients_sha256(),
            },
            "guard": prepared.guard.as_ref().map(|guard| json!({
                "version": guard.model.version(),
                "report": guard.report,
            })),
        }))
    }

    /// The full evaluation of an adapter, on a blocking thread; `None` if it was interrupted.
    async fn evaluate(
        &self,
        prepared: &Prepared,
        round: RoundId,
        adapter: &Adapter,
    ) -> miette::Result<Option<Evaluation>> {
        let which = if round == RoundId::START { "starting" } else { "final" };
        self.job.console.stage(&format!("evaluating the {which} adapter"));
        let (suite, adapter, cancel) = (Arc::clone(&prepared.benchmarks), adapter.clone(), self.job.cancel.clone());
        let evaluate = move || suite.evaluate(round, &adapter, EvaluationScope::Full, &cancel);
        match tokio::task::spawn_blocking(evaluate).await.into_diagnostic()? {
            Ok(evaluation) => Ok(Some(evaluation)),
            Err(PortError::Cancelled) => Ok(None),
            Err(error) => Err(error).into_diagnostic(),
        }
    }

    async fn sum_up(
        &self,
        directory: &RunDirectory,
        prepared: &Prepared,
        global: &Adapter,
        start_eval: Evaluation,
        status: RunStatus,
    ) -> miette::Result<Summary> {
        let rounds = directory.rounds().into_diagnostic()?;
        let last_is_full =
            rounds.last().filter(|last| last.round.0 == self.scenario.federation.rounds && !last.eval.is_empty());
        let (eval, status) = match (last_is_full, status) {
            (Some(last), _) => (last.eval.clone(), status),
            (None, RunStatus::Interrupted) => (Evaluation::new(), status),
            (None, RunStatus::Completed) => {
                let round = RoundId(self.scenario.federation.rounds);
                match self.evaluate(prepared, round, global).await? {
                    Some(eval) => (eval, status),
                    None => (Evaluation::new(), RunStatus::Interrupted),
                }
            }
        };
        Ok(Summary {
            scenario: self.scenario.name.clone(),
            variant: self.scenario.variant.clone(),
            status,
            start_eval,
            eval,
            totals: Totals::of(&rounds, ProcessMemory::read().map_or(0, |memory| memory.peak_bytes)),
            adapter_sha256: global.sha256(),
            assumptions: self.scenario.assumptions.iter().cloned().chain(prepared.data.assumptions()).collect(),
        })
    }

    /// Writes what the run leaves beside its rounds; the summary comes before the page that is made of it.
    fn store(
        &self,
        directory: &RunDirectory,
        prepared: &Prepared,
        global: &Adapter,
        summary: &Summary,
    ) -> miette::Result<()> {
        peft::save(&directory.path().join("adapter"), &self.scenario.lora, global, &prepared.model.name)
            .into_diagnostic()?;
        let metrics = self.job.telemetry.render_variant(self.scenario.label());
        write_atomically(&directory.path().join("metrics.prom"), metrics.as_bytes()).into_diagnostic()?;
        directory.write_summary(summary).into_diagnostic()?;
        write_page(directory.path(), &[directory.path().to_owned()])
    }
}

/// Puts runs on a page in `folder`.
fn write_page(folder: &Path, runs: &[PathBuf]) -> miette::Result<()> {
    let runs = StoredRun::read_all(runs).into_diagnostic()?;
    let page = page(&runs).into_diagnostic()?;
    write_atomically(&folder.join(super::report::PAGE), page.as_bytes()).into_diagnostic()
}

/// The global adapter of the last stored round; the starting one if no round is stored.
fn last_stored(directory: &RunDirectory, prepared: &Prepared) -> miette::Result<Adapter> {
    let last = directory.last_checkpoint().into_diagnostic()?;
    Ok(last.map_or_else(|| prepared.start.clone(), |last| last.global))
}
