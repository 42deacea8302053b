//! Evidence for the invariants of a stored run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fedward_actors::{
    CohortSampler, DeviceProfile, Gather, StartState,
    faults::FaultPlan,
    predicates::{Evidence, RunTerms, RunTrace},
    protocol::{Adapter, GlobalModel, RoundId},
};
use serde::Deserialize;
use serde_json::Value;

use super::{RunStatus, Summary};
use crate::{
    lora::peft,
    scenario::Seeds,
    store::{Checkpoint, RunDirectory, StoreError},
};

/// Checksum of the code that computes results.
const CODE: &str = env!("FEDWARD_CODE");

/// Scaling of a layout that names none.
const UNSCALED: f64 = 1.0;

/// Depth to which folders are searched for runs; `grid` nests them three deep.
const DEPTH: usize = 4;

/// Returns the run directories at `path`: itself, or those below it, in order of name.
///
/// # Errors
///
/// [`StoreError`] if a folder cannot be read, or there is no run.
pub fn runs_in(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut runs = Vec::new();
    collect_runs(path, DEPTH, &mut runs)?;
    if runs.is_empty() {
        let problem = "holds no run: neither a manifest.json of fedward's nor a folder with one".to_owned();
        return Err(StoreError::Invalid { path: path.to_owned(), problem });
    }
    Ok(runs)
}

fn collect_runs(path: &Path, depth: usize, runs: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    if RunDirectory::holds_a_run_at(path) {
        runs.push(path.to_owned());
    } else if depth > 0 {
        let entries = fs::read_dir(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let mut folders: Vec<PathBuf> =
            entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        folders.sort();
        folders.iter().try_for_each(|folder| collect_runs(folder, depth - 1, runs))?;
    }
    Ok(())
}

/// Reads the evidence of the run in `path`. Leftovers of a round that was not stored, as after a crash, are left out.
///
/// # Errors
///
/// [`StoreError`] if manifest or rows cannot be read; other damage is part of the evidence.
pub fn evidence_of(path: &Path) -> Result<Evidence, StoreError> {
    let directory = RunDirectory::open(path)?;
    let manifest = directory.manifest()?;
    let rounds = directory.rounds()?;
    let last = rounds.last().map_or(RoundId::START, |last| last.round);
    let mut clients = directory.clients()?;
    clients.retain(|record| record.round <= last);
    let mut trace = RunTrace {
        start_sha256: manifest["checksums"]["start_adapter_sha256"].as_str().map(str::to_owned),
        rounds,
        clients,
        ..RunTrace::default()
    };
    let problems = [read_checkpoints(&directory, last, &mut trace), read_end(&directory, &mut trace)];
    let problems = problems.into_iter().chain([directory.check_whole()]).filter_map(Result::err);
    let damage = problems.map(|problem| problem.to_string()).collect();
    Ok(Evidence { terms: terms(&manifest), trace, damage, ..Evidence::default() })
}

/// Reads the checkpoints of stored rounds.
fn read_checkpoints(directory: &RunDirectory, last: RoundId, trace: &mut RunTrace) -> Result<(), StoreError> {
    for round in directory.checkpointed()?.into_iter().filter(|round| *round <= last) {
        let Checkpoint { round, global, strategy_state, in_flight } = directory.checkpoint_after(round)?;
        trace.checkpoints.push(StartState { round, global, strategy_state, in_flight });
    }
    scale_those_of_earlier_versions(&mut trace.checkpoints);
    Ok(())
}

/// Checkpoints of earlier versions do not say how their adapter is scaled, and are read as unscaled: gives them the scaling of the newest.
fn scale_those_of_earlier_versions(checkpoints: &mut [StartState]) {
    let Some((newest, older)) = checkpoints.split_last_mut() else { return };
    let scaling = newest.global.trainable().layout().scaling();
    for state in older {
        let adapter = state.global.trainable();
        if state.global.frozen().is_empty() && adapter.layout().scaling().to_bits() == UNSCALED.to_bits() {
            let scaled = adapter.with_scaling(scaling);
            state.global = state.global.with_trainable(scaled);
        }
    }
}

/// Reads the final adapter and compares the summary with the rows. Both are ignored if the summary predates the last rounds.
fn read_end(directory: &RunDirectory, trace: &mut RunTrace) -> Result<(), StoreError> {
    let Some(summary): Option<Summary> = directory.summary()? else { return Ok(()) };
    let invalid = |problem| Err(StoreError::Invalid { path: directory.path().join("summary.json"), problem });
    let (counted, stored) = (summary.totals.rounds as usize, trace.rounds.len());
    if summary.status == RunStatus::Completed && counted > stored {
        return invalid(format!("totals.rounds: expected the {stored} rounds that are stored, found {counted}"));
    }
    let Some(last) = trace.rounds.last().filter(|_| counted == stored) else { return Ok(()) };
    if summary.adapter_sha256 != last.adapter_sha256 {
        return invalid(format!("adapter_sha256: expected {}, found {}", last.adapter_sha256, summary.adapter_sha256));
    }
    if let Some(state) = trace.checkpoints.last() {
        trace.adapter = read_adapter(&directory.path().join("adapter"), &state.global)?;
    }
    Ok(())
}

/// Reads the final adapter. With frozen terms it is written as one of all ranks, which the rows know nothing of: it is compared with
/// the last state here, and none is returned.
fn read_adapter(folder: &Path, global: &GlobalModel) -> Result<Option<Adapter>, StoreError> {
    let invalid = |problem| StoreError::Invalid { path: folder.to_owned(), problem };
    let read = |layout| peft::load_saved(folder, layout).map_err(|error| invalid(error.to_string()));
    let Some(expected) = peft::stacked(global.into()).map_err(|error| invalid(error.to_string()))? else {
        return read(global.trainable().layout()).map(Some);
    };
    let (expected, found) = (expected.sha256(), read(expected.layout())?.sha256());
    if expected != found {
        let problem = format!("SHA-256 of all terms: expected {expected} as in the last checkpoint, found {found}");
        return Err(invalid(problem));
    }
    Ok(None)
}

/// Settings in a manifest that determine cohorts, faults and time.
#[derive(Deserialize)]
struct RecordedScenario {
    seed: u64,
    #[serde(default)]
    seeds: Seeds,
    federation: RecordedFederation,
    #[serde(default)]
    faults: FaultPlan,
    #[serde(default)]
    devices: Option<DeviceProfile>,
    #[serde(default)]
    gather: Gather,
}

#[derive(Deserialize)]
struct RecordedFederation {
    clients: u32,
    cohort: u32,
    quorum: u32,
    max_attempts: u32,
    sampler: CohortSampler,
}

/// Returns the settings of a run; `None` if other code computed it, which may have drawn or recorded otherwise.
fn terms(manifest: &Value) -> Option<RunTerms> {
    if manifest["code"] != CODE || !manifest["resumed"].is_null() {
        return None;
    }
    let RecordedScenario { seed, seeds, federation, faults, devices, gather } =
        RecordedScenario::deserialize(&manifest["scenario"]).ok()?;
    Some(RunTerms {
        seed: seeds.training.unwrap_or(seed),
        attack_seed: seeds.attack.unwrap_or(seed),
        clients: federation.clients,
        cohort: federation.cohort,
        quorum: federation.quorum,
        max_attempts: federation.max_attempts,
        sampler: federation.sampler,
        faults,
        devices,
        gather,
    })
}
