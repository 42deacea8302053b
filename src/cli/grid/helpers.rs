//! Processes that work on cells of a grid beside this one. They share nothing but the folder, whose locks keep them apart:
//! what ends one of them, the end of memory for one, leaves its cell to the others.

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use fedward_actors::cancel::CancelFlag;
use miette::{IntoDiagnostic, WrapErr};

use super::GridArgs;
use crate::report::Console;

/// The other processes, numbered from 2. They end when this is dropped, or this process ends in whatever way.
pub(super) struct Helpers(Vec<Helper>);

struct Helper {
    number: usize,
    /// It ends when its standard input does.
    process: Child,
    log: PathBuf,
}

impl Helpers {
    /// Starts `count` processes that compute on `threads` threads each and tell what they do in `out/helper-<n>.log`.
    ///
    /// # Errors
    ///
    /// If a process cannot be started, or its log not be made.
    pub(super) fn start(args: &GridArgs, out: &Path, count: usize, threads: NonZeroUsize) -> miette::Result<Self> {
        let program = std::env::current_exe().into_diagnostic().wrap_err("finding this program to start it again")?;
        let mut helpers = Vec::with_capacity(count);
        for number in 2..count + 2 {
            let log = out.join(format!("helper-{number}.log"));
            let told = File::create(&log).into_diagnostic().wrap_err_with(|| log.display().to_string())?;
            let mut command = Command::new(&program);
            command.arg("grid").arg(&args.file).arg("--out").arg(out).args(["--metrics", "off", "--is-helper"]);
            command.arg("--threads").arg(threads.to_string());
            for set in &args.sets {
                command.arg("--set").arg(set);
            }
            let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(told);
            let process = command.spawn().into_diagnostic().wrap_err("starting another process for the grid")?;
            helpers.push(Helper { number, process, log });
        }
        Ok(Self(helpers))
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
}

/// Raises the flag when the process that has started this one lets go of it.
pub(super) fn end_with_parent(cancel: CancelFlag) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        cancel.cancel();
    });
}
