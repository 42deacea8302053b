//! One run from preparation to summary.

mod before;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use fedward_actors::{
    FederationError, StartState,
    ports::{Benchmarks, Evaluation, EvaluationScope, PortError},
    protocol::{Adapter, RoundId},
    run_federation,
};
use miette::IntoDiagnostic;
use serde_json::{Value, json};

use self::before::Before;
pub(super) use self::before::StartEvaluations;
use super::job::{CODE, Job};
use crate::{
    lora::peft,
    model::device,
    progress::Progress,
    report::{Observers, RunStatus, StoredRun, Summary, Totals, page},
    safety::guard::metrics_line,
    scenario::Scenario,
    store::{RunDirectory, write_atomically},
    telemetry::{ProcessMemory, RunInfo},
    wiring::{FittedGuard, Prepared, Workshop, federation_config, ports},
};

/// A run that an earlier command has completed.
struct Finished {
    directory: RunDirectory,
    summary: Summary,
}

/// One variant's run.
pub(super) struct SingleRun<'a> {
    pub(super) job: &'a Job,
    pub(super) scenario: &'a Scenario,
    pub(super) out: &'a Path,
    /// What tells it from the other runs of the command in metrics, `variant` there.
    pub(super) label: String,
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
        if let Some(finished) = self.finished()? {
            let summary = self.add_base(&prepared, finished, &mut start_evaluations).await?;
            return Ok((workshop, start_evaluations, summary));
        }
        let description = prepared.guard.as_ref().and_then(|guard| workshop.description_once(guard));
        if let Some(description) = description {
            self.job.console.line(&description);
        }
        let on_clients = prepared.guard_on_clients.map(|found| metrics_line("guard on clients' rows", &found));
        if let Some(line) = on_clients.filter(|line| workshop.is_new(line)) {
            self.job.console.line(&line);
        }
        let shares = prepared.harmful.to_string();
        if workshop.is_new(&shares) {
            self.job.console.line(&shares);
        }
        let judge = prepared.judge.as_ref().filter(|judge| !is_same(judge, prepared.guard.as_ref()));
        if let Some(description) = judge.and_then(|judge| workshop.description_once(judge)) {
            self.job.console.line(&format!("judge of responses: {description}"));
        }
        for assumption in prepared.data.assumptions().iter().filter(|assumption| workshop.is_new(assumption)) {
            self.job.console.line(&format!("assumed: {assumption}"));
        }
        let (max_length, context) = (self.scenario.training.max_length, prepared.model.context());
        if max_length > context {
            self.job.console.line(&format!(
                "training.max_length: found {max_length}, but the model reads {context} tokens; rows are cut there"
            ));
        }
        let (directory, start) = self.open(&prepared)?;
        let resumed: Option<Summary> = directory.summary().into_diagnostic()?;
        if let Some(resumed) = &resumed {
            let recorded = directory.manifest().into_diagnostic()?;
            start_evaluations.extend(self.evaluations_of(resumed, &recorded)?);
        }
        // What the run has measured of itself stays, also where other code goes on with it.
        let (own_start, own_base) = resumed.map_or((None, None), |own| (Some(own.start_eval), own.base_eval));
        let start_eval = match own_start.filter(|start| !start.is_empty()) {
            None => self.evaluate_before(&prepared, Before::Start, &mut start_evaluations).await?,
            own => own,
        };
        let Some(start_eval) = start_eval else { return Ok((workshop, start_evaluations, None)) };
        let base_eval = if self.scenario.evaluation.base && own_base.is_none() {
            match self.evaluate_before(&prepared, Before::Base, &mut start_evaluations).await? {
                None => return Ok((workshop, start_evaluations, None)),
                found => found,
            }
        } else {
            own_base
        };

        let metrics = Arc::new(self.job.telemetry.observer(&self.run_info(&prepared)));
        metrics.evaluated(RoundId::START, &start_eval);
        let slots = self.scenario.federation.slots.unwrap_or(prepared.model.threads * prepared.replicas.count());
        let observer = Observers(vec![Arc::clone(&metrics) as _, Arc::clone(&self.job.console) as _]);
        let ports = ports(self.scenario, &prepared, &workshop, &directory, Arc::new(observer)).into_diagnostic()?;
        let config = federation_config(self.scenario, slots);
        let ended = run_federation(config, ports, start, self.job.cancel.clone()).await;
        let (global, status) = match ended {
            Ok(result) => (result.global, RunStatus::Completed),
            Err(FederationError::Cancelled) => (last_stored(&directory, &prepared)?, RunStatus::Interrupted),
            Err(error) => return Err(error).into_diagnostic(),
        };
        let summary = self.sum_up(&directory, &prepared, &global, (base_eval, start_eval), status).await?;
        metrics.evaluated(RoundId(summary.totals.rounds), &summary.eval);
        metrics.ended();
        self.store(&directory, &prepared, &global, &summary)?;
        let summary = Some(summary).filter(|summary| summary.status == RunStatus::Completed);
        Ok((workshop, start_evaluations, summary))
    }

    /// The summary of this run, if an earlier command has completed it and this one is to go on with nothing left to measure,
    /// and what it knows of the start of others.
    pub(super) fn completed(&self) -> miette::Result<Option<(StartEvaluations, Summary)>> {
        let Some(Finished { directory, summary }) = self.finished()? else { return Ok(None) };
        if self.scenario.evaluation.base && summary.base_eval.is_none() {
            return Ok(None);
        }
        let manifest = directory.manifest().into_diagnostic()?;
        Ok(Some((self.evaluations_of(&summary, &manifest)?, summary)))
    }

    /// This run, if an earlier command has completed it and this one is to go on.
    fn finished(&self) -> miette::Result<Option<Finished>> {
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
        directory.check_scenario(&self.scenario.recorded().into_diagnostic()?).into_diagnostic()?;
        directory.check_rows().into_diagnostic()?;
        Ok(Some(Finished { directory, summary }))
    }

    /// Measures the base model beside a run that has ended; nothing else of it changes.
    async fn add_base(
        &self,
        prepared: &Prepared,
        Finished { directory, mut summary }: Finished,
        known: &mut StartEvaluations,
    ) -> miette::Result<Option<Summary>> {
        directory.check_begun_with(&self.manifest(prepared)?, self.job.code_change).into_diagnostic()?;
        known.extend(self.evaluations_of(&summary, &directory.manifest().into_diagnostic()?)?);
        let Some(base) = self.evaluate_before(prepared, Before::Base, known).await? else { return Ok(None) };
        summary.base_eval = Some(base);
        directory.write_summary(&summary).into_diagnostic()?;
        write_page(directory.path(), &[directory.path().to_owned()])?;
        Ok(Some(summary))
    }

    fn run_info(&self, prepared: &Prepared) -> RunInfo {
        RunInfo {
            scenario: self.scenario.name.clone(),
            variant: self.label.clone(),
            strategy: self.scenario.federation.strategy.name().to_owned(),
            guard: prepared.guard.as_ref().map(|guard| guard.model.version().to_owned()),
            model: prepared.model.name.clone(),
            clients: self.scenario.federation.clients,
            rounds: self.scenario.federation.rounds,
        }
    }

    /// Makes what the run needs, on a blocking thread; `None` if it was interrupted.
    async fn prepare(&self, mut workshop: Workshop) -> miette::Result<(Workshop, Option<Prepared>)> {
        let (scenario, cancel) = (self.scenario.clone(), self.job.cancel.clone());
        let progress: Arc<dyn Progress> = Arc::clone(&self.job.console) as _;
        let judge = self.job.judge();
        let prepare = move || {
            let prepared = workshop.prepare(&scenario, judge.as_ref(), &progress, &cancel);
            (workshop, prepared)
        };
        let (workshop, prepared) = tokio::task::spawn_blocking(prepare).await.into_diagnostic()?;
        match prepared {
            Ok(prepared) => Ok((workshop, Some(prepared))),
            // Whatever it broke off, from the model to a judge that was asked.
            Err(_) if self.job.cancel.is_cancelled() => Ok((workshop, None)),
            Err(error) => Err(error).into_diagnostic(),
        }
    }

    /// Opens the run directory, afresh or where an interrupted run left it.
    fn open(&self, prepared: &Prepared) -> miette::Result<(RunDirectory, StartState)> {
        let manifest = self.manifest(prepared)?;
        if self.job.resume
            && let Some((directory, checkpoint)) =
                RunDirectory::resume(self.out, &manifest, self.job.code_change).into_diagnostic()?
        {
            self.job.console.line(&format!("{}: going on after {}", self.out.display(), checkpoint.round));
            let state = StartState {
                round: checkpoint.round,
                global: checkpoint.global,
                strategy_state: checkpoint.strategy_state,
                in_flight: checkpoint.in_flight,
            };
            return Ok((directory, state));
        }
        self.job.clear_stale(self.out)?;
        let directory = RunDirectory::create(self.out, self.job.unfinished()).into_diagnostic()?;
        directory.write_manifest(&manifest).into_diagnostic()?;
        let state = StartState::new(prepared.start.clone());
        Ok((directory, state))
    }

    fn manifest(&self, prepared: &Prepared) -> miette::Result<Value> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let mut recorded = self.scenario.recorded().into_diagnostic()?;
        let mut manifest = json!({
            "scenario": recorded["scenario"].take(),
            "written": recorded["written"].take(),
            "seed": self.scenario.seed,
            "scenario_file": self.job.file.path,
            "started_unix_seconds": started,
            "versions": { "fedward": env!("CARGO_PKG_VERSION"), "libtorch": device::LIBTORCH_VERSION },
            "code": CODE,
            "instructions": device::instructions(),
            "device": format!("{:?}", prepared.model.base.device()),
            "precision": format!("{:?}", prepared.model.base.precision()),
            "threads": prepared.model.threads,
            "checksums": {
                "model_sha256": prepared.model.sha256,
                "start_adapter_sha256": prepared.start.sha256(),
                "client_rows_sha256": prepared.data.clients_sha256(),
                "measured_sha256": prepared.inputs.measured,
                "cai_sha256": prepared.inputs.cai,
            },
            "guard": prepared.guard.as_deref().map(described),
            "judge": prepared.judge.as_deref().map(described),
        });
        if let Some(found) = prepared.guard_on_clients {
            manifest["guard"]["on_clients_rows"] = json!(found);
        }
        manifest["harmful_share"] = json!(prepared.harmful);
        let goals = &prepared.data.goals;
        manifest["goals"] = json!({
            "sizes": goals.sizes(),
            "near_duplicates_of_measured": goals.near_duplicates_of_measured(),
        });
        if !prepared.data.overlaps.is_empty() {
            manifest["overlaps"] = json!(prepared.data.overlaps);
        }
        Ok(manifest)
    }

    /// The full evaluation of an adapter, on a blocking thread; `None` if it was interrupted.
    async fn evaluate(
        &self,
        prepared: &Prepared,
        round: RoundId,
        adapter: &Adapter,
        what: &str,
    ) -> miette::Result<Option<Evaluation>> {
        self.job.console.stage(&format!("evaluating {what}"));
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
        (base_eval, start_eval): (Option<Evaluation>, Evaluation),
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
                match self.evaluate(prepared, round, global, "the final adapter").await? {
                    Some(eval) => (eval, status),
                    None => (Evaluation::new(), RunStatus::Interrupted),
                }
            }
        };
        Ok(Summary {
            scenario: self.scenario.name.clone(),
            variant: self.scenario.variant.clone(),
            status,
            base_eval,
            start_eval,
            eval,
            totals: Totals {
                peak_device_memory_bytes: prepared.replicas.peak_device_memory(),
                ..Totals::of(&rounds, ProcessMemory::read().map_or(0, |memory| memory.peak_bytes))
            },
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
        let metrics = self.job.telemetry.render_variant(&self.label);
        write_atomically(&directory.path().join("metrics.prom"), metrics.as_bytes()).into_diagnostic()?;
        directory.write_summary(summary).into_diagnostic()?;
        write_page(directory.path(), &[directory.path().to_owned()])
    }
}

/// Whether the judge is the guard.
fn is_same(judge: &Arc<FittedGuard>, guard: Option<&Arc<FittedGuard>>) -> bool {
    guard.is_some_and(|guard| guard.model.version() == judge.model.version())
}

/// What a manifest says of a guard.
fn described(guard: &FittedGuard) -> Value {
    json!({ "version": guard.model.version(), "report": guard.report })
}

/// Puts runs on a page in `folder`.
pub(super) fn write_page(folder: &Path, runs: &[PathBuf]) -> miette::Result<()> {
    let runs = StoredRun::read_all(runs).into_diagnostic()?;
    let page = page(&runs).into_diagnostic()?;
    write_atomically(&folder.join(super::report::PAGE), page.as_bytes()).into_diagnostic()
}

/// The global adapter of the last stored round; the starting one if no round is stored.
fn last_stored(directory: &RunDirectory, prepared: &Prepared) -> miette::Result<Adapter> {
    let last = directory.last_checkpoint().into_diagnostic()?;
    Ok(last.map_or_else(|| prepared.start.clone(), |last| last.global))
}
