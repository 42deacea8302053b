//! One run from preparation to summary.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use fedward_actors::{
    FederationError, Ports, StartState,
    ports::{Benchmarks, Evaluation, EvaluationScope, PortError},
    protocol::{Adapter, GlobalModel, RoundId},
    run_federation,
};
use serde_json::{Value, json};

use super::{
    Context, ExperimentError, PAGE, Shared,
    baseline::{Baseline, Evaluations},
    context::CODE,
};
use crate::{
    lora::peft,
    model::device,
    progress::Progress,
    report::{Observers, RunStatus, StoredRun, Summary, Totals, page},
    safety::guard::metrics_line,
    scenario::Scenario,
    store::{RunDirectory, write_atomically},
    telemetry::{ProcessMemory, RunInfo, RunObserver},
    wiring::{FittedGuard, Prepared, Workshop, federation_config, ports},
};

/// A run that an earlier command has completed.
struct Finished {
    directory: RunDirectory,
    summary: Summary,
}

/// One variant's run.
pub(super) struct SingleRun<'a> {
    pub(super) context: &'a Context,
    pub(super) scenario: &'a Scenario,
    pub(super) out: &'a Path,
    /// What tells it from the other runs of the experiment in metrics, `variant` there.
    pub(super) label: String,
}

impl SingleRun<'_> {
    /// Prepares, runs and sums up.
    pub(super) async fn run(&self, shared: &mut Shared) -> Result<Summary, ExperimentError> {
        if !self.scenario.variant.is_empty() {
            self.context.progress.line(&format!("variant {}", self.scenario.variant));
        }
        let prepared = self.prepare(shared).await?;
        if let Some(finished) = self.finished()? {
            return self.add_base(&prepared, finished, &mut shared.evaluations).await;
        }
        self.tell(&prepared, &mut shared.workshop);
        let (directory, start) = self.open(&prepared)?;
        let baseline = self.baseline(&directory, &prepared, &mut shared.evaluations).await?;
        let metrics = Arc::new(self.context.telemetry.observer(&self.run_info(&prepared)));
        metrics.evaluated(RoundId::START, &baseline.start);
        let ports = self.ports(&prepared, &shared.workshop, &directory, &metrics)?;
        let slots = self.scenario.federation.slots.unwrap_or(prepared.model.threads * prepared.replicas.count());
        let config = federation_config(self.scenario, slots);
        let ended = run_federation(config, ports, start, self.context.cancel.clone()).await;
        let (global, status) = match ended {
            Ok(result) => (result.global, RunStatus::Completed),
            Err(FederationError::Cancelled) => (last_stored(&directory, &prepared)?, RunStatus::Interrupted),
            Err(error) => return Err(error.into()),
        };
        let summary = self.sum_up(&directory, &prepared, &global, baseline, status).await?;
        metrics.evaluated(RoundId(summary.totals.rounds), &summary.eval);
        metrics.ended();
        self.store(&directory, &prepared, &global, &summary)?;
        if summary.status == RunStatus::Completed { Ok(summary) } else { Err(ExperimentError::Interrupted) }
    }

    /// The summary of this run, if an earlier command has completed it and this one is to go on with nothing left to measure,
    /// and what it knows of the start of others.
    pub(super) fn completed(&self) -> Result<Option<(Evaluations, Summary)>, ExperimentError> {
        let Some(Finished { directory, summary }) = self.finished()? else { return Ok(None) };
        if self.scenario.evaluation.base && summary.base_eval.is_none() {
            return Ok(None);
        }
        let manifest = directory.manifest()?;
        Ok(Some((self.evaluations_of(&summary, &manifest)?, summary)))
    }

    /// This run, if an earlier command has completed it and this one is to go on.
    fn finished(&self) -> Result<Option<Finished>, ExperimentError> {
        if !self.context.resumes() || !RunDirectory::is_at(self.out) {
            return Ok(None);
        }
        let directory = RunDirectory::open(self.out)?;
        let summary: Option<Summary> = directory.summary()?;
        let Some(summary) = summary.filter(|summary| summary.status == RunStatus::Completed) else { return Ok(None) };
        // The rows say what is stored: a summary may be older than they are.
        let last = directory.rounds()?.last().map_or(0, |last| last.round.0);
        if last < self.scenario.federation.rounds {
            return Ok(None);
        }
        directory.check_scenario(&self.context.recorded(self.scenario)?)?;
        directory.check_rows()?;
        Ok(Some(Finished { directory, summary }))
    }

    /// Measures the base model beside a run that has ended; nothing else of it changes.
    async fn add_base(
        &self,
        prepared: &Prepared,
        Finished { directory, mut summary }: Finished,
        known: &mut Evaluations,
    ) -> Result<Summary, ExperimentError> {
        directory.check_begun_with(&self.manifest(prepared)?, self.context.code_change)?;
        known.extend(self.evaluations_of(&summary, &directory.manifest()?)?);
        summary.base_eval = Some(self.evaluate_base(prepared, known).await?);
        store_summary(&directory, &summary)?;
        Ok(summary)
    }

    /// Says what is worth knowing of what was prepared, each thing once an experiment.
    fn tell(&self, prepared: &Prepared, workshop: &mut Workshop) {
        let progress = &self.context.progress;
        let description = prepared.guard.as_ref().and_then(|guard| workshop.description_once(guard));
        if let Some(description) = description {
            progress.line(&description);
        }
        let on_clients = prepared.guard_on_clients.map(|found| metrics_line("guard on clients' rows", &found));
        if let Some(line) = on_clients.filter(|line| workshop.is_new(line)) {
            progress.line(&line);
        }
        let shares = prepared.harmful.to_string();
        if workshop.is_new(&shares) {
            progress.line(&shares);
        }
        let judge = prepared.judge.as_ref().filter(|judge| !is_same(judge, prepared.guard.as_ref()));
        if let Some(description) = judge.and_then(|judge| workshop.description_once(judge)) {
            progress.line(&format!("judge of responses: {description}"));
        }
        for assumption in prepared.data.assumptions().iter().filter(|assumption| workshop.is_new(assumption)) {
            progress.line(&format!("assumed: {assumption}"));
        }
        let (max_length, context) = (self.scenario.training.max_length, prepared.model.context());
        if max_length > context {
            progress.line(&format!(
                "training.max_length: found {max_length}, but the model reads {context} tokens; rows are cut there"
            ));
        }
    }

    /// The ports of this run, as the program that runs it has changed them.
    fn ports(
        &self,
        prepared: &Prepared,
        workshop: &Workshop,
        directory: &RunDirectory,
        metrics: &Arc<RunObserver>,
    ) -> Result<Ports, ExperimentError> {
        let others = self.context.observers.iter().map(Arc::clone);
        let observer = Observers(std::iter::once(Arc::clone(metrics) as _).chain(others).collect());
        let mut ports = ports(self.scenario, prepared, workshop, directory, Arc::new(observer))?;
        for change in &self.context.extensions.ports {
            change(self.scenario, &mut ports);
        }
        Ok(ports)
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

    /// Makes what the run needs, on a blocking thread.
    async fn prepare(&self, shared: &mut Shared) -> Result<Prepared, ExperimentError> {
        let (scenario, cancel) = (self.scenario.clone(), self.context.cancel.clone());
        let progress: Arc<dyn Progress> = Arc::clone(&self.context.progress);
        let (judge, mut workshop) = (self.context.judge(), std::mem::take(&mut shared.workshop));
        let prepare = move || {
            let prepared = workshop.prepare(&scenario, judge.as_ref(), &progress, &cancel);
            (workshop, prepared)
        };
        let (workshop, prepared) = tokio::task::spawn_blocking(prepare).await?;
        shared.workshop = workshop;
        prepared.map_err(|error| {
            // Whatever it broke off, from the model to a judge that was asked.
            if self.context.cancel.is_cancelled() { ExperimentError::Interrupted } else { error.into() }
        })
    }

    /// Opens the run directory, afresh or where an interrupted run left it.
    fn open(&self, prepared: &Prepared) -> Result<(RunDirectory, StartState), ExperimentError> {
        let manifest = self.manifest(prepared)?;
        if self.context.resumes()
            && let Some((directory, checkpoint)) = RunDirectory::resume(self.out, &manifest, self.context.code_change)?
        {
            self.context.progress.line(&format!("{}: going on after {}", self.out.display(), checkpoint.round));
            let state = StartState {
                round: checkpoint.round,
                global: with_scaling_of(&prepared.start, checkpoint.global),
                strategy_state: checkpoint.strategy_state,
                in_flight: checkpoint.in_flight,
            };
            return Ok((directory, state));
        }
        self.context.clear_stale(self.out)?;
        let directory = RunDirectory::create(self.out, self.context.unfinished())?;
        directory.write_manifest(&manifest)?;
        let state = StartState::new(prepared.start.clone());
        Ok((directory, state))
    }

    pub(super) fn manifest(&self, prepared: &Prepared) -> Result<Value, ExperimentError> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let mut recorded = self.context.recorded(self.scenario)?;
        let mut manifest = json!({
            "scenario": recorded["scenario"].take(),
            "written": recorded["written"].take(),
            "seed": self.scenario.seed,
            "scenario_file": self.context.file.path,
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

    /// The full evaluation of an adapter, on a blocking thread.
    pub(super) async fn evaluate(
        &self,
        prepared: &Prepared,
        round: RoundId,
        global: &GlobalModel,
        what: &str,
    ) -> Result<Evaluation, ExperimentError> {
        self.context.progress.stage(&format!("evaluating {what}"));
        let (suite, global) = (Arc::clone(&prepared.benchmarks), global.clone());
        let cancel = self.context.cancel.clone();
        let evaluate = move || suite.evaluate(round, &global, EvaluationScope::Full, &cancel);
        match tokio::task::spawn_blocking(evaluate).await? {
            Err(PortError::Cancelled) => Err(ExperimentError::Interrupted),
            done => Ok(done?),
        }
    }

    async fn sum_up(
        &self,
        directory: &RunDirectory,
        prepared: &Prepared,
        global: &GlobalModel,
        baseline: Baseline,
        status: RunStatus,
    ) -> Result<Summary, ExperimentError> {
        let rounds = directory.rounds()?;
        let last_is_full =
            rounds.last().filter(|last| last.round.0 == self.scenario.federation.rounds && !last.eval.is_empty());
        let (eval, status) = match (last_is_full, status) {
            (Some(last), _) => (last.eval.clone(), status),
            (None, RunStatus::Interrupted) => (Evaluation::new(), status),
            (None, RunStatus::Completed) => {
                let round = RoundId(self.scenario.federation.rounds);
                match self.evaluate(prepared, round, global, "the final adapter").await {
                    // All rounds are done, and stay.
                    Err(ExperimentError::Interrupted) => (Evaluation::new(), RunStatus::Interrupted),
                    done => (done?, status),
                }
            }
        };
        Ok(Summary {
            scenario: self.scenario.name.clone(),
            variant: self.scenario.variant.clone(),
            status,
            base_eval: baseline.base,
            start_eval: baseline.start,
            eval,
            totals: Totals {
                peak_device_memory_bytes: prepared.replicas.peak_device_memory(),
                ..Totals::of(&rounds, ProcessMemory::read().map_or(0, |memory| memory.peak_bytes))
            },
            adapter_sha256: global.sha256(),
            assumptions: self.scenario.assumptions.iter().cloned().chain(prepared.data.assumptions()).collect(),
        })
    }

    /// Writes what the run leaves beside its rounds.
    fn store(
        &self,
        directory: &RunDirectory,
        prepared: &Prepared,
        global: &GlobalModel,
        summary: &Summary,
    ) -> Result<(), ExperimentError> {
        let at = |name: &str| directory.path().join(name);
        peft::save(&at("adapter"), &self.scenario.lora, global, &prepared.model.name)?;
        write_atomically(&at("metrics.prom"), self.context.telemetry.render_variant(&self.label).as_bytes())?;
        store_summary(directory, summary)
    }
}

/// Writes the summary, and before it the page that is made of it: where a summary says that a run has completed, everything is there.
fn store_summary(directory: &RunDirectory, summary: &Summary) -> Result<(), ExperimentError> {
    let ended = StoredRun::read(directory.path())?.ended_with(summary.clone());
    write_atomically(&directory.path().join(PAGE), page(&[ended])?.as_bytes())?;
    Ok(directory.write_summary(summary)?)
}

/// Whether the judge is the guard.
fn is_same(judge: &Arc<FittedGuard>, guard: Option<&Arc<FittedGuard>>) -> bool {
    guard.is_some_and(|guard| guard.model.version() == judge.model.version())
}

/// What a manifest says of a guard.
fn described(guard: &FittedGuard) -> Value {
    json!({ "version": guard.model.version(), "report": guard.report })
}

/// Checkpoints of earlier versions do not say how their adapter is scaled: as the one that the run started from.
fn with_scaling_of(start: &Adapter, global: GlobalModel) -> GlobalModel {
    let is_same = global.trainable().layout().tensors() == start.layout().tensors();
    match Adapter::new(Arc::clone(start.layout()), global.trainable().values().to_vec()) {
        Ok(trainable) if is_same => global.with_trainable(trainable),
        _ => global,
    }
}

/// The global model of the last stored round; that of the start if no round is stored.
fn last_stored(directory: &RunDirectory, prepared: &Prepared) -> Result<GlobalModel, ExperimentError> {
    let last = directory.last_checkpoint()?;
    Ok(last.map_or_else(|| prepared.start.clone().into(), |last| last.global))
}
