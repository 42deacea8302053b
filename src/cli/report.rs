//! `fedward report`: runs on one page, side by side.

use std::path::PathBuf;

use clap::Args;
use miette::IntoDiagnostic;

use super::Ending;
use crate::{
    experiment::PAGE,
    report::{StoredRun, page},
    store::write_atomically,
};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Directories of runs, or folders with the variants of a scenario
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where the page is written [default: report.html in RUN; here if there are several]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Writes one page about all runs.
pub(super) fn report(args: &ReportArgs) -> miette::Result<Ending> {
    let runs = StoredRun::read_all(&args.runs).into_diagnostic()?;
    for run in &runs {
        if let Some(caveat) = run.caveat() {
            tell!("{}: {caveat}", run.path.display());
        }
    }
    let out = args.out.clone().unwrap_or_else(|| match args.runs.as_slice() {
        [only] => only.join(PAGE),
        _ => PathBuf::from(PAGE),
    });
    write_atomically(&out, page(&runs).into_diagnostic()?.as_bytes()).into_diagnostic()?;
    tell!("{} of {} runs", out.display(), runs.len());
    Ok(Ending::Done)
}
