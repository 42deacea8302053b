//! The guard of a scenario: fitted once on the server's rows and kept for later runs, or one that exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{ClientRows, PortError},
    protocol::{ChatRow, ClientId, RoundId, RowLabel},
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{DataPlan, SetupError, Workshop, workshop::cache_key, workshop::rows_key};
use crate::{
    data::{self, GoalUse, LabelledRow, refusals::JUDGE_REFUSALS},
    endpoint::{ChatEndpoint, EndpointError},
    model::{ChatModel, ModelError},
    progress::Progress,
    safety::guard::{
        BinaryMetrics, ChatRespondent, EmbeddedGuard, EndpointRespondent, FeatureReading, GuardFile, GuardHeads,
        GuardReport, Measurement, ProgramGuard, ProtocolGuard, RememberingGuard, SafetyGuard, Split, assess,
    },
    scenario::{GuardSection, GuardSource, HeadRows, ModelSection},
    store::{self, FolderLock, OtherWriters, Seal, Sealed, read_json, write_json},
};

/// A guard, and its measurement if it has one.
pub struct FittedGuard {
    /// The guard.
    pub model: Arc<dyn SafetyGuard>,
    /// What it is worth on rows that it was not fitted on; `None` for one that was fitted elsewhere.
    pub report: Option<GuardReport>,
}

impl FittedGuard {
    /// What people are told of it.
    pub fn description(&self) -> String {
        let version = self.model.version();
        self.report.as_ref().map_or_else(
            || format!("guard {version}: fitted elsewhere, fedward guard eval measures it"),
            ToString::to_string,
        )
    }
}

/// Rows of clients that a guard is measured on, at most.
const CLIENTS_ROWS: usize = 300;

/// Measures a guard on the first clients' rows, shown as clients show them: what it is worth on a source that it was not fitted on.
pub(super) fn on_clients_rows(
    guard: &FittedGuard,
    section: &GuardSection,
    data: &DataPlan,
    threads: usize,
    cancel: &CancelFlag,
) -> Result<BinaryMetrics, SetupError> {
    let clients = (0..data.clients.sources().len() as u32).map(ClientId);
    let held = clients.map_while(|client| data.clients.rows(client).ok()).flat_map(|rows| rows.to_vec());
    let labelled = |row: ChatRow| LabelledRow {
        is_unsafe: row.label == Some(RowLabel::Unsafe),
        row: section.assess.part(&row),
        hazards: None,
        source: "clients' rows".to_owned(),
    };
    let rows: Vec<_> = held.take(CLIENTS_ROWS).map(labelled).collect();
    let verdicts = assess(guard.model.as_ref(), &rows, threads, cancel).map_err(not_measured)?;
    Ok(Measurement::of(&rows, &verdicts).all)
}

fn not_measured(error: PortError) -> SetupError {
    match error {
        PortError::Cancelled => SetupError::Model(ModelError::Cancelled),
        PortError::Failed(reason) => SetupError::Other(format!("the guard cannot be measured: {reason}")),
    }
}

/// What is kept of a fitted guard.
#[derive(Serialize, Deserialize)]
struct Kept {
    heads: GuardHeads,
    report: GuardReport,
}

/// The rows that the guard of a scenario is fitted on; none of one that exists.
pub(super) fn fitting_rows(section: &GuardSection, seed: u64, data: &DataPlan) -> Result<Vec<LabelledRow>, SetupError> {
    match section.source {
        GuardSource::Embedded { train_rows, rows: HeadRows::Guard, .. } => training_rows(train_rows, seed, data),
        GuardSource::Embedded { train_rows, rows: HeadRows::Judge, .. } => judge_rows(train_rows, seed, data),
        GuardSource::Trained { .. }
        | GuardSource::LlamaGuard { .. }
        | GuardSource::Program { .. }
        | GuardSource::Endpoint { .. } => Ok(Vec::new()),
    }
}

/// Makes the guard of a scenario from its rows, or takes up what was made before.
pub(super) fn of_section(
    section: &GuardSection,
    (seed, base): (u64, &ModelSection),
    model: &Arc<ChatModel>,
    rows: Vec<LabelledRow>,
    workshop: &mut Workshop,
    progress: &dyn Progress,
    cancel: &CancelFlag,
) -> Result<FittedGuard, SetupError> {
    let threshold = section.threshold;
    let (guard, report): (Arc<dyn SafetyGuard>, _) = match &section.source {
        &GuardSource::Embedded { layers, max_length, .. } => {
            let layers = layers.unwrap_or(model.base.config().num_hidden_layers.div_ceil(2));
            let reading = FeatureReading { layers, max_length };
            let cache = workshop.cache().to_owned();
            let kept = embedded(model, rows, (reading, threshold, seed), &cache, progress, cancel)?;
            (Arc::new(EmbeddedGuard::new(Arc::clone(model), kept.heads, reading, threshold)), Some(kept.report))
        }
        GuardSource::Trained { path } => {
            let file = GuardFile::read(path)?;
            let under = workshop.model(&ModelSection { base: file.base_model.clone(), ..base.clone() }, progress)?;
            // Another threshold than its own is another guard, which nobody has measured.
            let is_its_own = (threshold - file.threshold).abs() < 1e-12;
            (file.open(path, under, threshold)?, is_its_own.then_some(file.report))
        }
        GuardSource::LlamaGuard { model, max_length } => {
            let base = ModelSection { base: model.display().to_string(), ..base.clone() };
            let respondent = ChatRespondent::checkpoint(workshop.model(&base, progress)?, *max_length)?;
            (Arc::new(ProtocolGuard::new(respondent, threshold)), None)
        }
        GuardSource::Program { program } => (Arc::new(ProgramGuard::new(program.clone(), threshold)), None),
        GuardSource::Endpoint { endpoint } => {
            let failed = |error: EndpointError| SetupError::Other(format!("the guard: {error}"));
            let endpoint = ChatEndpoint::new(endpoint.clone()).map_err(failed)?;
            endpoint.greet(cancel).map_err(failed)?;
            (Arc::new(ProtocolGuard::new(EndpointRespondent::new(endpoint), threshold)), None)
        }
    };
    Ok(FittedGuard { model: Arc::new(RememberingGuard::new(guard)), report })
}

fn embedded(
    model: &Arc<ChatModel>,
    rows: Vec<LabelledRow>,
    (reading, threshold, seed): (FeatureReading, f64, u64),
    cache: &Path,
    progress: &dyn Progress,
    cancel: &CancelFlag,
) -> Result<Kept, SetupError> {
    let rows_key = rows_key(rows.iter().map(|row| &row.row));
    let key = cache_key(&(model.identity(), reading, threshold, seed, rows_key))?;
    let guards = cache.join("guards");
    if let Ok(Some(kept)) = kept(&guards, &key) {
        return Ok(kept);
    }
    let on_wait = || progress.stage("waiting for another fedward that is fitting the same guard");
    let _lock = FolderLock::wait_for(&guards.join(&key), cancel, on_wait)?.ok_or(ModelError::Cancelled)?;
    match kept(&guards, &key) {
        Ok(Some(kept)) => return Ok(kept),
        Ok(None) => {}
        Err(problem) => tracing::warn!(%problem, "a guard that was kept is damaged and is fitted anew"),
    }
    let of_key = [file_name(&key), seal_name(&key)];
    store::remove_abandoned(&guards, |name| of_key.iter().any(|own| own == name), OtherWriters::LockedOut);
    progress.stage("fitting the guard (kept for later runs)");
    let Split { fitted, held_out } = Split::of(rows, seed);
    let heads = GuardHeads::fit(model, &fitted, reading, cancel)?;
    let guard = EmbeddedGuard::new(Arc::clone(model), heads.clone(), reading, threshold);
    let verdicts = assess(&guard, &held_out, model.threads, cancel).map_err(not_measured)?;
    let report = GuardReport::new(fitted.len(), Measurement::of(&held_out, &verdicts));
    let kept = Kept { heads, report };
    write_json(&guards.join(file_name(&key)), &kept)?;
    seal(&guards, &key).set(&[&file_name(&key)])?;
    Ok(kept)
}

/// The guard that an earlier run has kept, if there is one; what is wrong with it otherwise.
fn kept(guards: &Path, key: &str) -> Result<Option<Kept>, String> {
    match seal(guards, key).check(&[&file_name(key)]) {
        Sealed::Absent => Ok(None),
        Sealed::Damaged(problem) => Err(problem),
        Sealed::Whole => read_json(&guards.join(file_name(key))).map(Some).map_err(|error| error.to_string()),
    }
}

fn file_name(key: &str) -> String {
    format!("{key}.json")
}

fn seal(guards: &Path, key: &str) -> Seal {
    Seal::at(guards.join(seal_name(key)))
}

fn seal_name(key: &str) -> String {
    format!("{key}.sha256")
}

/// Labelled rows of the guard, about `limit` in all: the server's own, and responses that people have judged.
fn training_rows(limit: usize, seed: u64, data: &DataPlan) -> Result<Vec<LabelledRow>, SetupError> {
    let goals = data.goals.of(GoalUse::Guard);
    let sources = [
        ("advbench openings", labelled("advbench openings", data::unsafe_rows(goals), true)),
        ("everyday rows", labelled("everyday rows", data.server_benign.clone(), false)),
        ("judged responses", data.judged_responses(HeadRows::Guard)?),
        ("refusals", labelled("refusals", data::refusal_rows(goals, seed), false)),
    ];
    Ok(some_of_each(sources.into(), limit, seed, RoundId(1)))
}

/// Labelled rows of the judge: goals, answers and benign rows that nothing else is fitted on, refusals in words that no model is
/// trained to say, and no opening of the kind that harmful rows have.
fn judge_rows(limit: usize, seed: u64, data: &DataPlan) -> Result<Vec<LabelledRow>, SetupError> {
    let refusals = data::refusal_rows_in(&JUDGE_REFUSALS, data.goals.of(GoalUse::Judge), seed);
    let sources = [
        ("everyday rows", labelled("everyday rows", data.judge_benign.clone(), false)),
        ("judged responses", data.judged_responses(HeadRows::Judge)?),
        ("refusals", labelled("refusals in other words", refusals, false)),
    ];
    Ok(some_of_each(sources.into(), limit, seed, RoundId(2)))
}

fn labelled(source: &str, rows: Vec<ChatRow>, is_unsafe: bool) -> Vec<LabelledRow> {
    let hazards = (!is_unsafe).then(BTreeSet::new);
    let labelled = |row| LabelledRow { row, is_unsafe, hazards: hazards.clone(), source: source.to_owned() };
    rows.into_iter().map(labelled).collect()
}

/// As many rows of each source, as far as it has them.
fn some_of_each(sources: BTreeMap<&str, Vec<LabelledRow>>, limit: usize, seed: u64, of: RoundId) -> Vec<LabelledRow> {
    let each = limit / sources.len();
    let mut rng = stream(seed, Purpose::Guard, of, None);
    let chosen = sources.into_values().flat_map(|mut rows| {
        rows.shuffle(&mut rng);
        rows.truncate(each);
        rows
    });
    chosen.collect()
}
