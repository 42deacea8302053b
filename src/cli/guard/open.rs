//! The guard of a command.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use fedward_actors::{cancel::CancelFlag, policy::Assessed};
use miette::IntoDiagnostic;

use crate::{
    endpoint::{ChatEndpoint, EndpointSettings},
    report::Console,
    safety::guard::{
        ChatRespondent, EndpointRespondent, GuardFile, GuardProgram, ProgramGuard, ProtocolGuard, SafetyGuard,
        program_problem,
    },
    scenario::ModelSection,
    wiring::Workshop,
};

/// Tokens of the longest question to a Llama Guard checkpoint.
const LLAMA_GUARD_MAX_LENGTH: usize = 1024;

/// Of a guard that says none.
const THRESHOLD: f64 = 0.5;

#[derive(Debug, Args)]
pub(in crate::cli) struct GuardArgs {
    /// A directory that fedward guard train has made, or a Llama Guard checkpoint
    #[arg(long = "guard", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// A program of your own in its place, with its arguments in one text: it is sent a line of JSON per row and answers with one
    #[arg(long = "guard-program", value_name = "COMMAND", conflicts_with = "directory")]
    pub program: Option<String>,
    /// Seconds that the program may take for a row
    #[arg(long = "guard-timeout", value_name = "SECONDS", default_value_t = 60, requires = "program")]
    pub timeout: u64,
    /// A Llama Guard behind an OpenAI-compatible endpoint in its place: the base URL, up to and with /v1. Rows are sent there
    #[arg(long = "guard-endpoint", value_name = "URL", conflicts_with_all = ["directory", "program"], requires = "endpoint_model")]
    pub endpoint: Option<String>,
    /// The model's name at the endpoint
    #[arg(long = "guard-endpoint-model", value_name = "MODEL", requires = "endpoint")]
    pub endpoint_model: Option<String>,
    /// The environment variable that holds the endpoint's key
    #[arg(long = "guard-endpoint-key-env", value_name = "VARIABLE", requires = "endpoint")]
    pub endpoint_key_env: Option<String>,
    /// A row is called unsafe unless the probability that it is safe exceeds 1 less this [default: what the guard was made with, 0.5 for any other]
    #[arg(long = "guard-threshold", value_name = "P", conflicts_with = "endpoint")]
    pub threshold: Option<f64>,
}

/// A guard, and what its directory says if it was fitted here.
pub(in crate::cli) struct OpenedGuard {
    pub(in crate::cli) guard: Arc<dyn SafetyGuard>,
    /// Threads that may ask it side by side.
    pub(super) threads: usize,
    pub(super) file: Option<GuardFile>,
}

impl OpenedGuard {
    /// What of a row the guard reads.
    pub(in crate::cli) fn reads(&self) -> Assessed {
        self.file.as_ref().map_or(Assessed::Both, |file| file.assess)
    }

    /// A guard that computes elsewhere.
    fn elsewhere(guard: impl SafetyGuard) -> Self {
        Self { guard: Arc::new(guard), threads: 1, file: None }
    }
}

impl GuardArgs {
    /// What the guard is called.
    pub(super) fn name(&self) -> Option<String> {
        let directory = self.directory.as_ref().map(|directory| directory.display().to_string());
        directory.or_else(|| self.program.clone()).or_else(|| self.endpoint.clone())
    }

    /// Opens the guard; `section` says on which device and in which numbers it is computed. `None` if none is named.
    pub(in crate::cli) fn open(
        &self,
        section: &ModelSection,
        console: &Console,
    ) -> miette::Result<Option<OpenedGuard>> {
        if let Some(threshold) = self.threshold.filter(|threshold| !(0.0..=1.0).contains(threshold)) {
            miette::bail!("--guard-threshold: found {threshold}; allowed: from 0 to 1");
        }
        if let Some(program) = &self.program {
            return self.program(program).map(Some);
        }
        if let (Some(url), Some(model)) = (&self.endpoint, &self.endpoint_model) {
            let settings =
                EndpointSettings { api_key_env: self.endpoint_key_env.clone(), ..EndpointSettings::new(url, model) };
            let endpoint = ChatEndpoint::new(settings).into_diagnostic()?;
            endpoint.greet(&CancelFlag::new()).into_diagnostic()?;
            let guard = ProtocolGuard::new(EndpointRespondent::new(endpoint), THRESHOLD);
            return Ok(Some(OpenedGuard::elsewhere(guard)));
        }
        let Some(directory) = &self.directory else {
            if self.threshold.is_some() {
                miette::bail!(
                    "--guard-threshold is set, but there is no guard; name one by --guard or --guard-program"
                );
            }
            return Ok(None);
        };
        self.directory(directory, section, console).map(Some)
    }

    fn program(&self, program: &str) -> miette::Result<OpenedGuard> {
        let (command, folder): (Vec<_>, _) =
            (program.split_whitespace().map(str::to_owned).collect(), PathBuf::from("."));
        if let Some(problem) = program_problem(&command, &folder) {
            miette::bail!("--guard-program: {problem}");
        }
        let timeout = Duration::from_secs(self.timeout.max(1));
        let guard = ProgramGuard::new(GuardProgram { command, folder, timeout }, self.threshold.unwrap_or(THRESHOLD));
        Ok(OpenedGuard::elsewhere(guard))
    }

    fn directory(&self, directory: &Path, section: &ModelSection, console: &Console) -> miette::Result<OpenedGuard> {
        let load =
            |base: String| Workshop::new().model(&ModelSection { base, ..section.clone() }, console).into_diagnostic();
        if directory.join("config.json").is_file() {
            let model = load(directory.display().to_string())?;
            let threads = model.threads;
            let respondent = ChatRespondent::checkpoint(model, LLAMA_GUARD_MAX_LENGTH).into_diagnostic()?;
            let guard = Arc::new(ProtocolGuard::new(respondent, self.threshold.unwrap_or(THRESHOLD)));
            return Ok(OpenedGuard { guard, threads, file: None });
        }
        let file = GuardFile::read(directory).into_diagnostic()?;
        let model = load(file.base_model.clone())?;
        let threads = model.threads;
        let threshold = self.threshold.unwrap_or(file.threshold);
        let guard = file.open(directory, model, threshold).into_diagnostic()?;
        Ok(OpenedGuard { guard, threads, file: Some(file) })
    }
}
