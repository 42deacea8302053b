//! The guard of a command.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use fedward_actors::policy::Assessed;
use miette::IntoDiagnostic;

use crate::{
    model::ChatModel,
    report::Console,
    safety::guard::{ChatRespondent, GuardFile, ProtocolGuard, SafetyGuard},
    scenario::ModelSection,
    wiring::Workshop,
};

/// Tokens of the longest question to a Llama Guard checkpoint.
const LLAMA_GUARD_MAX_LENGTH: usize = 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct GuardArgs {
    /// A directory that fedward guard train has made, or a Llama Guard checkpoint
    #[arg(long = "guard", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// A row is called unsafe unless the probability that it is safe exceeds 1 less this [default: what the guard was made with, 0.5 for a checkpoint]
    #[arg(long = "guard-threshold", value_name = "P", requires = "directory")]
    pub threshold: Option<f64>,
}

/// A guard, the model that it computes with, and what its directory says if it was fitted here.
pub(in crate::cli) struct OpenedGuard {
    pub(in crate::cli) guard: Arc<dyn SafetyGuard>,
    pub(super) model: Arc<ChatModel>,
    pub(super) file: Option<GuardFile>,
}

impl OpenedGuard {
    /// What of a row the guard reads.
    pub(in crate::cli) fn reads(&self) -> Assessed {
        self.file.as_ref().map_or(Assessed::Both, |file| file.assess)
    }
}

impl GuardArgs {
    /// Opens the guard; `section` says on which device and in which numbers it is computed. `None` if none is named.
    pub(in crate::cli) fn open(
        &self,
        section: &ModelSection,
        console: &Console,
    ) -> miette::Result<Option<OpenedGuard>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        if let Some(threshold) = self.threshold.filter(|threshold| !(0.0..=1.0).contains(threshold)) {
            miette::bail!("--guard-threshold: found {threshold}; allowed: from 0 to 1");
        }
        let load =
            |base: String| Workshop::new().model(&ModelSection { base, ..section.clone() }, console).into_diagnostic();
        if directory.join("config.json").is_file() {
            let model = load(directory.display().to_string())?;
            let respondent =
                ChatRespondent::checkpoint(Arc::clone(&model), LLAMA_GUARD_MAX_LENGTH).into_diagnostic()?;
            let guard = Arc::new(ProtocolGuard::new(respondent, self.threshold.unwrap_or(0.5)));
            return Ok(Some(OpenedGuard { guard, model, file: None }));
        }
        let file = GuardFile::read(directory).into_diagnostic()?;
        let model = load(file.base_model.clone())?;
        let threshold = self.threshold.unwrap_or(file.threshold);
        let guard = file.open(directory, Arc::clone(&model), threshold).into_diagnostic()?;
        Ok(Some(OpenedGuard { guard, model, file: Some(file) }))
    }
}
