//! The guard of a scenario: fitted once on the server's rows, kept for later runs.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::GuardModel,
    protocol::{ChatRow, RoundId},
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{
    DataPlan, Progress, SetupError,
    workshop::{cache_key, rows_key},
};
use crate::{
    data::{self, catalogue},
    model::ChatModel,
    safety::guard::{EmbeddedGuard, GuardReport, LogisticHead, Reading, RememberingGuard, fit},
    scenario::GuardSection,
    store::{read_json, write_json},
};

/// A guard with its own measurement.
pub struct FittedGuard {
    /// The guard.
    pub model: Arc<dyn GuardModel>,
    /// What it is worth on rows that it was not fitted on.
    pub report: GuardReport,
}

/// What is kept of a fitted guard.
#[derive(Serialize, Deserialize)]
struct Kept {
    head: LogisticHead,
    report: GuardReport,
}

/// Fits the guard of a scenario, or takes up the one that was fitted to the same rows before.
pub(super) fn fitted(
    section: &GuardSection,
    seed: u64,
    model: &Arc<ChatModel>,
    data: &DataPlan,
    cache: &Path,
    progress: &dyn Progress,
    cancel: &CancelFlag,
) -> Result<FittedGuard, SetupError> {
    let layers = section.layers.unwrap_or(model.base.config().num_hidden_layers.div_ceil(2));
    let reading = Reading { layers, max_length: section.max_length };
    let sources = training_rows(section.train_rows, seed, data)?;
    let rows = rows_key(sources.values().flatten());
    let key = cache_key(&(model.identity(), reading, section.threshold, seed, rows))?;
    let path = cache.join("guards").join(format!("{key}.json"));
    let kept: Kept = if path.exists() {
        read_json(&path)?
    } else {
        progress.stage("fitting the guard (kept for later runs)");
        let (head, report) = fit(model, &sources, reading, section.threshold, seed, cancel)?;
        let kept = Kept { head, report };
        write_json(&path, &kept)?;
        kept
    };
    let guard = EmbeddedGuard::new(Arc::clone(model), kept.head, reading, section.threshold);
    Ok(FittedGuard { model: Arc::new(RememberingGuard::new(guard)), report: kept.report })
}

/// Labelled rows by source, about `limit` in all: the server's own, and responses that people have judged.
fn training_rows(limit: usize, seed: u64, data: &DataPlan) -> Result<BTreeMap<String, Vec<ChatRow>>, SetupError> {
    let mut sources = BTreeMap::new();
    let goals = &data.server_goals;
    sources.insert("advbench openings".to_owned(), data::unsafe_rows(goals));
    sources.insert("refusals".to_owned(), data::refusal_rows(goals, seed));
    sources.insert("everyday rows".to_owned(), data.server_benign.clone());
    let scored = data::scored_rows(&catalogue::fetched("scored-responses")?)?;
    let scored = scored.into_iter().map(|scored| scored.row).collect();
    sources.insert("judged responses".to_owned(), scored);
    let each = limit / sources.len();
    let mut rng = stream(seed, Purpose::Guard, RoundId(1), None);
    for rows in sources.values_mut() {
        rows.shuffle(&mut rng);
        rows.truncate(each);
    }
    Ok(sources)
}
