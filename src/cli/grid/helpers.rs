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
use miette::{IntoDiagnostic, WrapErr};

use super::GridArgs;
use crate::{model::device, report::Console, store::open_own};

/// How long the others get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether one has ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The other processes, if there are any, numbered from 2. They end when this is dropped, or this process ends in whatever
/// way.
pub(super) struct Helpers(Vec<Helper>);

struct Helper {
    number: usize,
    /// It ends when its standard input does.
    process: Child,
    log: PathBuf,
}

impl Helpers {
    /// No others.
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Starts `count` processes and shares the threads with them. They tell what they do in `out/helper-<n>.log`.
    ///
    /// # Errors
    ///
    /// If a process cannot be started, or its log not be written.
    pub(super) fn start(args: &GridArgs, out: &Path, count: usize) -> miette::Result<Self> {
        let threads = device::share_threads(count + 1);
        let mut helpers = Self(Vec::with_capacity(count));
        for number in 2..count + 2 {
            let program =
                std::env::current_exe().into_diagnostic().wrap_err("finding this program to start it again")?;
            let log = out.join(format!("helper-{number}.log"));
            let mut command = Command::new(&program);
            command.arg("grid").args(["--metrics=off", "--is-helper"]).arg(format!("--threads={threads}"));
            command.args(args.allow_code_change.then_some("--allow-code-change"));
            command.args(args.sets.iter().map(|set| format!("--set={set}"))).arg("--out").arg(out);
            command.arg("--").arg(&args.file);
            let process = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(log_file(&log)?)
                .spawn()
                .into_diagnostic()
                .wrap_err_with(|| format!("starting {} once more", program.display()))?;
            helpers.0.push(Helper { number, process, log });
        }
        Ok(helpers)
    }

    /// Says which have failed, each once; their cells are free again.
    pub(super) fn tell_failures(&mut self, console: &Console) {
        self.0.retain_mut(|helper| {
            let Ok(Some(status)) = helper.process.try_wait() else { return true };
            if !status.success() {
                let (number, log) = (helper.number, helper.log.display());
                console.line(&format!(
                    "process {number} of this grid has ended ({status}), see {log}; going on without it"
                ));
            }
            false
        });
    }

    /// Waits until all have seen that nothing is left to do, but not for ever.
    pub(super) async fn finish(mut self, console: &Console) {
        let deadline = Instant::now() + PATIENCE;
        while !self.0.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            self.tell_failures(console);
        }
    }
}

impl Drop for Helpers {
    /// Lets go of those that are left, and ends by force what has not ended soon: whoever starts the grid again is not to
    /// find cells locked. A cell that is cut off goes on after its last stored round.
    fn drop(&mut self) {
        for helper in &mut self.0 {
            drop(helper.process.stdin.take());
        }
        let deadline = Instant::now() + PATIENCE;
        for helper in &mut self.0 {
            while matches!(helper.process.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            let _ = helper.process.kill();
            let _ = helper.process.wait();
        }
    }
}

/// What is told is added to what was told before: a failure stays to be read.
fn log_file(path: &Path) -> miette::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).into_diagnostic().wrap_err_with(|| folder.display().to_string())?;
    }
    open_own(OpenOptions::new().create(true).append(true), path)
        .into_diagnostic()
        .wrap_err_with(|| path.display().to_string())
}

/// Raises the flag when the process that has started this one lets go of it.
pub(super) fn end_with_parent(cancel: CancelFlag) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        cancel.cancel();
    });
}
