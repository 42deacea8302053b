//! What `fedward run` and `fedward grid` share: how an experiment is told, watched and interrupted.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fedward_actors::cancel::CancelFlag;
use miette::{IntoDiagnostic, miette};
use tokio::signal::unix::{SignalKind, signal};

use super::Ending;
use crate::{
    Experiment, ExperimentError,
    progress::Progress,
    report::Console,
    telemetry::{Exposure, Telemetry},
};

/// Where metrics are served unless somebody says otherwise.
const DEFAULT_METRICS: &str = "127.0.0.1:9464";

/// How long work gets to notice that it was cancelled before the program ends without it.
const GRACE: Duration = Duration::from_millis(1200);

/// Somebody at a terminal, or a script, who started an experiment.
pub(super) struct Session {
    pub(super) console: Arc<Console>,
    pub(super) telemetry: Telemetry,
    pub(super) cancel: CancelFlag,
}

impl Session {
    /// Has a session's console and metrics follow an experiment. `address` is where metrics are to be served, or "off".
    pub(super) fn of(
        experiment: Experiment,
        console: Arc<Console>,
        address: Option<&str>,
    ) -> miette::Result<(Self, Experiment)> {
        let (telemetry, metrics) = install_telemetry(address, &console)?;
        let cancel = CancelFlag::new();
        let experiment = experiment
            .progress(Arc::clone(&console) as Arc<dyn Progress>)
            .observer(Arc::clone(&console) as _)
            .telemetry(telemetry.clone(), metrics)
            .cancel(cancel.clone());
        Ok((Self { console, telemetry, cancel }, experiment))
    }

    /// Works until it is done or Ctrl-C or SIGTERM ends it, and has `tell` say what it came to.
    pub(super) fn work<T: Send + 'static>(
        &self,
        how_to_go_on: &str,
        work: impl Future<Output = Result<T, ExperimentError>> + Send + 'static,
        tell: impl FnOnce(T),
    ) -> miette::Result<Ending> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().into_diagnostic()?;
        let cancel = &self.cancel;
        let ended = runtime.block_on(async move {
            let mut work = tokio::spawn(work);
            tokio::select! {
                ended = &mut work => ended.into_diagnostic(),
                asked = asked_to_end(cancel) => {
                    asked?;
                    cancel.cancel();
                    // The experiment writes its summary once the federation has let go; work deep inside libtorch is left behind.
                    match tokio::time::timeout(GRACE, work).await {
                        Ok(ended) => ended.into_diagnostic(),
                        Err(_) => Ok(Err(ExperimentError::Interrupted)),
                    }
                }
            }
        });
        self.console.finish();
        match ended? {
            Ok(done) => tell(done),
            Err(ExperimentError::Interrupted) => {
                tell!("interrupted; every finished round is stored, {how_to_go_on} goes on from there");
                // Blocking threads may still be inside libtorch: they end with the process.
                runtime.shutdown_background();
                return Ok(Ending::Interrupted);
            }
            Err(error) => return Err(error).into_diagnostic(),
        }
        if !self.cancel.is_cancelled() {
            runtime.block_on(until_scraped(&self.telemetry));
        }
        Ok(Ending::Done)
    }
}

/// Lets a Prometheus that is watching read what the last round did; Ctrl-C ends that, too.
async fn until_scraped(telemetry: &Telemetry) {
    let Some((longest, scrape)) = telemetry.next_scrape() else { return };
    tell!(
        "Prometheus reads the metrics once more, in {:.0} s at most; Ctrl-C ends at once",
        longest.as_secs_f64().ceil()
    );
    tokio::select! {
        () = scrape => {}
        _ = signalled() => {}
    }
}

/// Waits for a signal to end, or until somebody else raises the flag.
async fn asked_to_end(cancel: &CancelFlag) -> miette::Result<()> {
    tokio::select! {
        signal = signalled() => signal.into_diagnostic(),
        () = cancel.cancelled() => Ok(()),
    }
}

/// Waits for Ctrl-C or SIGTERM, which schedulers of clusters and containers send.
async fn signalled() -> std::io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal,
        _ = terminated.recv() => Ok(()),
    }
}

/// Metrics, and where they are served.
fn install_telemetry(address: Option<&str>, console: &Console) -> miette::Result<(Telemetry, Option<SocketAddr>)> {
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
