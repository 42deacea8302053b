//! Why an experiment ended early.

use std::path::Path;

use fedward_actors::{FederationError, ports::PortError};

use crate::{
    model::ModelError,
    report::{PageError, plots::PlotError},
    scenario::ScenarioError,
    store::StoreError,
    telemetry::TelemetryError,
    wiring::SetupError,
};

/// Why an experiment ended early. What was stored stays.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// Somebody raised the flag; every finished round is stored.
    #[error("interrupted; every finished round is stored")]
    Interrupted,
    /// The scenario file.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// What a run needs.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A run directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The federation.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// A benchmark.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The final adapter.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The report: a bug.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A plot: a bug.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// Metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// What cannot be written as JSON, or read from it.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A panic in work on another thread: a bug.
    #[error(transparent)]
    Join(#[from] tokio::task::JoinError),
    /// A file or process beside the run directory.
    #[error("{what}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// What went wrong in one of several runs.
    #[error("{run}")]
    Run {
        /// Which.
        run: String,
        /// What.
        source: Box<ExperimentError>,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl ExperimentError {
    /// Says which file an operating system's error is about.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let what = path.display().to_string();
        move |source| Self::Io { what, source }
    }
}
