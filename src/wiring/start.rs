//! The adapter that round 1 starts from.

use std::path::Path;

use fedward_actors::{cancel::CancelFlag, protocol::Adapter, protocol::RoundId};

use super::{
    DataPlan, SetupError,
    workshop::{cache_key, rows_key},
};
use crate::{
    lora::{initial_adapter, peft},
    model::{ChatModel, ModelError},
    progress::Progress,
    scenario::{Scenario, StartSection},
    store::{FolderLock, Seal, Sealed},
    train::{SftSettings, TrainStreams, train_sft},
};

/// Loads or makes the starting adapter of a scenario. An aligned one is kept in `cache`, by what it depends on.
pub(super) fn adapter(
    scenario: &Scenario,
    model: &ChatModel,
    data: &DataPlan,
    cache: &Path,
    progress: &dyn Progress,
    cancel: &CancelFlag,
) -> Result<Adapter, SetupError> {
    match &scenario.start {
        StartSection::Fresh => Ok(initial_adapter(&scenario.lora, model.base.config(), scenario.training_seed())),
        StartSection::Adapter { path } => {
            let (config, adapter) = peft::load_for(path, model.base.config(), &model.name)?;
            let (found, wanted) = (&config, &scenario.lora);
            let same = found.rank == wanted.rank
                && found.targets == wanted.targets
                && found.use_rslora == wanted.use_rslora
                && (found.alpha - wanted.alpha).abs() < 1e-9;
            if same {
                return Ok(adapter);
            }
            let problem = format!(
                "the adapter in {} is of {}, [lora] says {}: make [lora] the same",
                path.display(),
                describe(found),
                describe(wanted)
            );
            Err(SetupError::Other(problem))
        }
        StartSection::Aligned { refusal_share, training } => {
            aligned(scenario, model, data, (*refusal_share, training), cache, progress, cancel)
        }
    }
}

fn describe(lora: &crate::lora::LoraConfig) -> String {
    let targets: Vec<_> = lora.targets.iter().map(ToString::to_string).collect();
    let rslora = if lora.use_rslora { ", rsLoRA" } else { "" };
    format!("rank {}, alpha {}, targets {}{rslora}", lora.rank, lora.alpha, targets.join(","))
}

fn aligned(
    scenario: &Scenario,
    model: &ChatModel,
    data: &DataPlan,
    (refusal_share, training): (f64, &SftSettings),
    cache: &Path,
    progress: &dyn Progress,
    cancel: &CancelFlag,
) -> Result<Adapter, SetupError> {
    let rows = data.alignment_rows(refusal_share, scenario.data_seed());
    let max_length = scenario.training.max_length;
    let depends_on =
        (model.identity(), &scenario.lora, training, max_length, scenario.training_seed(), rows_key(&rows));
    let folder = cache.join("starts").join(cache_key(&depends_on)?);
    if let Kept::Whole(adapter) = kept(&folder, model) {
        return Ok(adapter);
    }
    let on_wait = || progress.stage("waiting for another fedward that is aligning the same adapter");
    let _lock = FolderLock::wait_for(&folder, cancel, on_wait)?.ok_or(ModelError::Cancelled)?;
    match kept(&folder, model) {
        Kept::Whole(adapter) => return Ok(adapter),
        Kept::Absent => {}
        Kept::Damaged(problem) => {
            tracing::warn!(%problem, "a starting adapter that was kept is damaged and is made anew");
        }
    }
    progress.stage("aligning the starting adapter on refusals (kept for later runs)");
    let tokenized = model.tokenize_up_to(training.end, &rows, max_length)?;
    let start = initial_adapter(&scenario.lora, model.base.config(), scenario.training_seed());
    let streams = TrainStreams::of(scenario.training_seed(), RoundId::START, None);
    let (total, dropout) = (training.steps as u64, scenario.lora.dropout);
    let mut on_step = |report: &crate::train::StepReport| progress.step(report.step as u64, total);
    let outcome = train_sft(&model.base, &start, dropout, &tokenized, training, streams, cancel, &mut on_step)?;
    if cancel.is_cancelled() {
        return Err(ModelError::Cancelled.into());
    }
    peft::save(&folder, &scenario.lora, &outcome.adapter, &model.name)?;
    seal(&folder).set(&peft::FILES)?;
    Ok(outcome.adapter)
}

/// How an adapter of an earlier run is found.
enum Kept {
    Whole(Adapter),
    Absent,
    Damaged(String),
}

/// The adapter that an earlier run has kept in `folder`.
fn kept(folder: &Path, model: &ChatModel) -> Kept {
    match seal(folder).check(&peft::FILES) {
        Sealed::Absent => Kept::Absent,
        Sealed::Damaged(problem) => Kept::Damaged(problem),
        Sealed::Whole => match peft::load(folder, model.base.config()) {
            Ok((_, adapter)) => Kept::Whole(adapter),
            Err(error) => Kept::Damaged(error.to_string()),
        },
    }
}

fn seal(folder: &Path) -> Seal {
    Seal::at(folder.join("SHA256SUMS"))
}
