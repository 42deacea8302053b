//! Processes that work on cells of a grid beside this one. They share nothing but the folder, whose locks keep them apart:
//! what ends one of them, memory that does not suffice for example, leaves its cell to the others.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fedward_actors::cancel::CancelFlag;

use super::ExperimentError;
use crate::{progress::Progress, store::open_own};

/// Makes the command that starts a worker: this program on the same grid and folder, as a worker.
pub type WorkerCommand = Box<dyn Fn() -> io::Result<Command> + Send>;

/// How long the others get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether one has ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The other processes, if there are any, numbered from 2. They end when this is dropped, or this process ends in whatever
/// way.
pub(super) struct Workers(Vec<Worker>);

struct Worker {
    number: usize,
    /// It ends when its standard input does.
    process: Child,
    log: PathBuf,
}

impl Workers {
    /// No others.
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Starts `count` processes. They tell what they do in `out/helper-<n>.log`.
    ///
    /// # Errors
    ///
    /// If a process cannot be started, or its log not be written.
    pub(super) fn start(command: &WorkerCommand, out: &Path, count: usize) -> Result<Self, ExperimentError> {
        let failed = |source| ExperimentError::Io { what: "starting this program once more".to_owned(), source };
        let mut workers = Self(Vec::with_capacity(count));
        for number in 2..count + 2 {
            let log = out.join(format!("helper-{number}.log"));
            let mut command = command().map_err(failed)?;
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log_file(&log)?);
            let process = command.spawn().map_err(failed)?;
            workers.0.push(Worker { number, process, log });
        }
        Ok(workers)
    }

    /// Says which have failed, each once; their cells are free again.
    pub(super) fn tell_failures(&mut self, progress: &dyn Progress) {
        self.0.retain_mut(|worker| {
            let Ok(Some(status)) = worker.process.try_wait() else { return true };
            if !status.success() {
                let (number, log) = (worker.number, worker.log.display());
                progress.line(&format!(
                    "process {number} of this grid has ended ({status}), see {log}; going on without it"
                ));
            }
            false
        });
    }

    /// Waits until all have seen that nothing is left to do, but not for ever.
    pub(super) async fn finish(mut self, progress: &dyn Progress) {
        let deadline = Instant::now() + PATIENCE;
        while !self.0.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            self.tell_failures(progress);
        }
    }
}

impl Drop for Workers {
    /// Lets go of those that are left, and ends by force what has not ended soon: whoever starts the grid again is not to
    /// find cells locked. A cell that is cut off goes on after its last stored round.
    fn drop(&mut self) {
        for worker in &mut self.0 {
            drop(worker.process.stdin.take());
        }
        let deadline = Instant::now() + PATIENCE;
        for worker in &mut self.0 {
            while matches!(worker.process.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            let _ = worker.process.kill();
            let _ = worker.process.wait();
        }
    }
}

/// What is told is added to what was told before: a failure stays to be read.
fn log_file(path: &Path) -> Result<File, ExperimentError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(ExperimentError::io(folder))?;
    }
    open_own(OpenOptions::new().create(true).append(true), path).map_err(ExperimentError::io(path))
}

/// In a worker: raises the flag when the process that has started it lets go of its standard input.
pub fn end_with_parent(cancel: CancelFlag) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        cancel.cancel();
    });
}
