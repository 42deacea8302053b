//! Every metric, declared once, and what turns the events of a run into them.
//!
//! [`table`] lists the metrics; [`RunObserver`] records them, one function for one event; [`Telemetry`] serves them to
//! Prometheus while the program runs and renders them for the run's directory. Nothing else in the program records metrics.

mod events;
mod metric;
mod server;
pub mod table;

use std::{fs, io, net::SocketAddr, sync::Arc, thread, time::Duration};

pub use events::{RunInfo, RunObserver};
pub use metric::{Counter, Declaration, Gauge, Histogram, Kind, Unit};
use metrics::{KeyName, Recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::sync::{oneshot, watch};

/// Who may reach the metrics' address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Programs on this machine: other addresses are refused.
    Loopback,
    /// Whoever reaches the address. The metrics have no password, so somebody must have asked for it. Requests must name an
    /// address in their `Host`: the one that is listened on, or any where all are; names are refused, but for `localhost`.
    Any,
}

/// Why metrics cannot be collected or served.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address can be reached from elsewhere.
    #[error(
        "metrics address {0} can be reached from other machines, and the metrics have no password: use 127.0.0.1:{port}",
        port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot serve metrics on {address}; is another run using it?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The thread that serves the metrics cannot be started.
    #[error("cannot start the thread that serves metrics")]
    Thread(#[source] io::Error),
    /// A declaration in [`table`] is wrong: a histogram without buckets.
    #[error("a metric is declared wrongly: {0}")]
    Declaration(#[source] BuildError),
}

/// The metrics of this process. A clone is another handle to the same metrics.
#[derive(Clone)]
pub struct Telemetry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    /// `None` if nothing is served.
    server: Option<Arc<Server>>,
}

/// The thread that serves metrics; it ends with this.
struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    scrapes: watch::Receiver<server::Scrapes>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Whoever is being answered gets the whole answer.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Telemetry {
    /// Collects metrics without serving them: for [`Telemetry::render`] at the end of a run.
    ///
    /// # Errors
    ///
    /// [`TelemetryError::Declaration`] only.
    pub fn new() -> Result<Self, TelemetryError> {
        let recorder = builder()?.build_recorder();
        for metric in table::ALL {
            describe(&recorder, metric);
        }
        let handle = recorder.handle();
        let telemetry = Self { recorder: Arc::new(recorder), handle, server: None };
        telemetry.update_memory();
        Ok(telemetry)
    }

    /// Collects metrics and serves them over HTTP at `address`, from a thread of its own: work in the rest of the program
    /// delays no scrape.
    ///
    /// # Errors
    ///
    /// [`TelemetryError::NotLoopback`] unless `exposure` allows it, [`TelemetryError::Listen`] if the address is taken.
    pub fn install(address: SocketAddr, exposure: Exposure) -> Result<Self, TelemetryError> {
        if exposure == Exposure::Loopback && !address.ip().is_loopback() {
            return Err(TelemetryError::NotLoopback(address));
        }
        let telemetry = Self::new()?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TelemetryError::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            server::bind(address).map_err(|source| TelemetryError::Listen { address, source })?
        };
        let (stop, stopped) = oneshot::channel();
        let (scraped, scrapes) = watch::channel(server::Scrapes::default());
        let served = telemetry.clone();
        let thread = thread::Builder::new()
            .name("fedward-metrics".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        () = server::serve(listener, served.handle.clone(), scraped, stopped) => {}
                        () = served.watch_memory() => {}
                    }
                });
            })
            .map_err(TelemetryError::Thread)?;
        let server = Server { stop: Some(stop), thread: Some(thread), scrapes };
        Ok(Self { server: Some(Arc::new(server)), ..telemetry })
    }

    /// Prometheus reads at intervals, so what happened since it last did is lost with this process unless it reads once
    /// more: how long that may take, and what returns when it has read or is late. `None` where nobody reads.
    pub fn next_scrape(&self) -> Option<(Duration, impl Future<Output = ()> + use<>)> {
        server::next(self.server.as_ref()?.scrapes.clone())
    }

    /// What listens to one run.
    pub fn observer(&self, info: &RunInfo) -> RunObserver {
        RunObserver::new(self.clone(), info)
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        self.update_memory();
        self.handle.render()
    }

    /// The metrics of one run and of the process in Prometheus's text format, without those of other variants.
    pub fn render_variant(&self, variant: &str) -> String {
        let escaped = variant.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        let own = format!("variant=\"{escaped}\"");
        let mut page = String::new();
        for line in self.render().lines().filter(|line| variant_label(line).is_none_or(|label| label.starts_with(&own)))
        {
            page.push_str(line);
            page.push('\n');
        }
        page
    }

    fn recorder(&self) -> &PrometheusRecorder {
        &self.recorder
    }

    /// Counts the values that histograms have gathered, which they otherwise keep until somebody scrapes.
    fn settle(&self) {
        self.handle.run_upkeep();
        self.update_memory();
    }

    async fn watch_memory(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.update_memory();
        }
    }

    fn update_memory(&self) {
        if let Some(memory) = ProcessMemory::read() {
            table::PROCESS_RESIDENT.set(self.recorder(), [], memory.resident_bytes as f64);
            table::PROCESS_PEAK.set(self.recorder(), [], memory.peak_bytes as f64);
        }
    }
}

/// A series from its label `variant` on, if it has one. In the values of other labels quotes are escaped.
fn variant_label(line: &str) -> Option<&str> {
    let series = (!line.starts_with('#')).then_some(line)?;
    let start = ["{variant=\"", ",variant=\""].iter().find_map(|label| series.find(label))?;
    series.get(start + 1..)
}

/// The memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Bytes held now.
    pub resident_bytes: u64,
    /// Most bytes ever held.
    pub peak_bytes: u64,
}

impl ProcessMemory {
    /// Asks the system; `None` where there is no `/proc/self/status`.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Self { resident_bytes: bytes("VmRSS:")?, peak_bytes: bytes("VmHWM:")? })
    }
}

fn builder() -> Result<PrometheusBuilder, TelemetryError> {
    let mut builder = PrometheusBuilder::new();
    for metric in table::ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
                .map_err(TelemetryError::Declaration)?;
        }
    }
    Ok(builder)
}

fn describe(recorder: &impl Recorder, metric: &Declaration) {
    let name = KeyName::from_const_str(metric.name);
    match metric.kind {
        Kind::Counter => recorder.describe_counter(name, None, metric.help.into()),
        Kind::Gauge => recorder.describe_gauge(name, None, metric.help.into()),
        Kind::Histogram(_) => recorder.describe_histogram(name, None, metric.help.into()),
    }
}

#[cfg(test)]
mod tests;
