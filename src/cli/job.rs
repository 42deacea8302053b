//! What `fedward run` and `fedward grid` share: the work that they do, and how it is told, watched and interrupted.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fedward_actors::cancel::CancelFlag;
use miette::{IntoDiagnostic, WrapErr, miette};
use tokio::signal::unix::{SignalKind, signal};

use super::Ending;
use crate::{
    report::Console,
    scenario::{self, GuardSection, Scenario, ScenarioFile},
    store::{CodeChange, FolderLock, RunDirectory, Unfinished},
    telemetry::{Exposure, Telemetry},
};

/// Where metrics are served unless somebody says otherwise.
const DEFAULT_METRICS: &str = "127.0.0.1:9464";

/// The code that computes, as manifests record it.
pub(super) const CODE: &str = env!("FEDWARD_CODE");

/// How long work gets to notice that it was cancelled before the program ends without it.
const GRACE: Duration = Duration::from_millis(1200);

/// All runs of a scenario file.
pub(super) struct Job {
    pub(super) file: ScenarioFile,
    pub(super) out: PathBuf,
    pub(super) resume: bool,
    pub(super) overwrite: bool,
    /// Whether runs may go on that another build has begun.
    pub(super) code_change: CodeChange,
    pub(super) console: Arc<Console>,
    pub(super) telemetry: Telemetry,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) cancel: CancelFlag,
    /// Taken away as soon as the first run begins.
    pub(super) stale: Mutex<Stale>,
}

/// What an earlier command has completed where this one begins afresh: beside new runs it would pass for one of them.
#[derive(Default)]
pub(super) struct Stale {
    pub(super) runs: Vec<PathBuf>,
    /// Made of those runs.
    pub(super) files: Vec<PathBuf>,
}

impl Stale {
    /// Takes it away, but for `own`, which whoever is going to run there sees to.
    fn clear(&self, own: &Path, unfinished: Unfinished, console: &Console) -> miette::Result<()> {
        let runs: Vec<_> = self.runs.iter().filter(|run| *run != own && RunDirectory::is_at(run)).collect();
        // All or none.
        let _locks: Vec<_> =
            runs.iter().map(|run| FolderLock::take(run)).collect::<Result<_, _>>().into_diagnostic()?;
        for run in runs {
            console.line(&format!("{}: an earlier run gives way, to be run again", run.display()));
            RunDirectory::create(run, unfinished).into_diagnostic()?;
        }
        for file in self.files.iter().filter(|file| file.exists()) {
            std::fs::remove_file(file).into_diagnostic().wrap_err_with(|| file.display().to_string())?;
        }
        Ok(())
    }
}

impl Job {
    /// Takes away what is stale as the run at `own` begins, once.
    pub(super) fn clear_stale(&self, own: &Path) -> miette::Result<()> {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        stale.clear(own, self.unfinished(), &self.console)
    }

    /// Returns the guard that judges responses in all runs.
    pub(super) fn judge(&self) -> Option<GuardSection> {
        self.file.judge()
    }

    /// What becomes of runs that have not completed. Nothing is lost of one to be resumed that has stored no round.
    pub(super) fn unfinished(&self) -> Unfinished {
        if self.overwrite || self.resume { Unfinished::Replace } else { Unfinished::Keep }
    }

    /// Refuses a place that holds something that is to stay, before anything is computed.
    pub(super) fn refuse_what_is_taken(&self, scenario: &Scenario, out: &Path) -> miette::Result<()> {
        if self.resume && RunDirectory::is_at(out) {
            let recorded = scenario.recorded().into_diagnostic()?;
            let check = |run: RunDirectory| run.check_resumable(&recorded, CODE, self.code_change);
            RunDirectory::open(out).and_then(check).into_diagnostic()
        } else {
            RunDirectory::check_place(out, self.unfinished()).into_diagnostic()
        }
    }

    /// Says what is going to be done and what is taken for granted.
    pub(super) fn announce(&self) {
        let Some(scenario) = self.file.scenarios.first() else { return };
        self.console.line(&scenario.question);
        let headline: Vec<_> = scenario::headline(&self.file.scenarios)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        self.console.line(&headline.join(" · "));
        if let Some(address) = self.metrics {
            self.console.line(&format!("metrics: http://{address}/metrics"));
        }
        let mut assumptions: Vec<_> = self.file.scenarios.iter().flat_map(|scenario| &scenario.assumptions).collect();
        assumptions.sort();
        assumptions.dedup();
        for assumption in assumptions {
            self.console.line(&format!("assumed: {assumption}"));
        }
    }
}

/// Works until it is done or Ctrl-C or SIGTERM ends it.
pub(super) fn until_interrupted(
    console: &Console,
    telemetry: &Telemetry,
    cancel: &CancelFlag,
    how_to_go_on: &str,
    work: impl Future<Output = miette::Result<Ending>> + Send + 'static,
) -> miette::Result<Ending> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().into_diagnostic()?;
    let ending = runtime.block_on(async move {
        let mut work = tokio::spawn(work);
        tokio::select! {
            ended = &mut work => ended.into_diagnostic()?,
            asked = asked_to_end(cancel) => {
                asked?;
                cancel.cancel();
                // The job writes its summary once the federation has let go; work deep inside libtorch is left behind.
                match tokio::time::timeout(GRACE, work).await {
                    Ok(ended) => ended.into_diagnostic()?,
                    Err(_) => Ok(Ending::Interrupted),
                }
            }
        }
    });
    console.finish();
    if matches!(ending, Ok(Ending::Done)) && !cancel.is_cancelled() {
        runtime.block_on(until_scraped(telemetry));
    }
    if matches!(ending, Ok(Ending::Interrupted)) {
        tell!("interrupted; every finished round is stored, {how_to_go_on} goes on from there");
        // Blocking threads may still be inside libtorch: they end with the process.
        std::process::exit(i32::from(super::INTERRUPTED));
    }
    ending
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
pub(super) fn install_telemetry(
    address: Option<&str>,
    console: &Console,
) -> miette::Result<(Telemetry, Option<SocketAddr>)> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn runs_of_an_earlier_command_do_not_stand_beside_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let runs = vec![at("own"), at("other"), at("new")];
        for run in &runs[..2] {
            let directory = RunDirectory::create(run, Unfinished::Keep).unwrap();
            directory.write_manifest(&json!({"scenario": {}, "versions": {"fedward": "1"}})).unwrap();
        }
        std::fs::write(at("comparison.json"), "[]").unwrap();
        std::fs::write(at("other/notes.txt"), "mine").unwrap();
        let stale = Stale { runs, files: vec![at("comparison.json"), at("report.html")] };
        stale.clear(&at("own"), Unfinished::Keep, &Console::new()).unwrap();
        assert!(RunDirectory::is_at(&at("own")) && !RunDirectory::is_at(&at("other")));
        assert!(!at("comparison.json").exists() && !at("new").exists());
        assert_eq!(std::fs::read_to_string(at("other/notes.txt")).unwrap(), "mine");
    }
}
