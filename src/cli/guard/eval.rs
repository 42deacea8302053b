//! `fedward guard eval`.

use std::time::Instant;

use clap::Args;
use fedward_actors::{cancel::CancelFlag, policy::Assessed};
use miette::{IntoDiagnostic, miette};
use serde_json::{Value, json};

use super::{
    open::GuardArgs,
    rows::{RowsArgs, assessed, viewed},
    table::tables,
};
use crate::{
    cli::{Ending, model_args::PlaceArgs, print_json},
    progress::Progress,
    report::Console,
    safety::guard::{Measurement, SafetyGuard, assess, part_read, shown},
};

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    guard: GuardArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    rows: RowsArgs,
    /// What of each row the guard is shown: query, response or both [default: what it was fitted on, both for a checkpoint]
    #[arg(long, value_name = "PART", value_parser = assessed)]
    assess: Option<Assessed>,
}

/// Prints one line of JSON about the guard on all rows, by source, by hazard and by threshold; tables on stderr.
pub(super) fn eval(args: &EvalArgs) -> miette::Result<Ending> {
    let console = Console::new();
    let rows = args.rows.load()?;
    let opened = args.guard.open(&args.place.section(), &console)?;
    let opened =
        opened.ok_or_else(|| {
            miette!("--guard is missing: the directory of the guard that is to be measured (or --guard-program, --guard-endpoint)")
        })?;
    let n_given = rows.len();
    let rows = match &opened.file {
        Some(file) => file.without_fitted(rows),
        None => rows,
    };
    if rows.is_empty() {
        miette::bail!("the guard was fitted on all {n_given} rows, so none is left to measure it with");
    }
    let part = args.part(opened.reads())?;
    let rows = viewed(part, rows);
    console.stage(&format!("assessing {} rows, {} of each", rows.len(), part_read(part)));
    let begun = Instant::now();
    let verdicts = assess(opened.guard.as_ref(), &rows, opened.threads, &CancelFlag::new()).into_diagnostic()?;
    let seconds = begun.elapsed().as_secs_f64();
    let measured = Measurement::of(&rows, &verdicts);
    console.finish();
    let mut line = serde_json::to_value(measured.all).into_diagnostic()?;
    line["guard"] = json!(args.guard.name());
    line["version"] = json!(opened.guard.version());
    line["assess"] = json!(part);
    line["left_out_as_fitted_on"] = json!(n_given - rows.len());
    tell!("{}", tables(&measured));
    if n_given > rows.len() {
        tell!("{} rows were left out: the guard was fitted on them", n_given - rows.len());
    }
    add_tally(&mut line, opened.guard.as_ref());
    line["by_source"] = json!(measured.by_source);
    line["by_hazard"] = serde_json::to_value(&measured.by_hazard).into_diagnostic()?;
    line["curve"] = json!(measured.curve);
    line["seconds"] = json!(seconds);
    print_json(&line)?;
    Ok(Ending::Done)
}

impl EvalArgs {
    /// What of each row is shown to a guard that reads that much.
    fn part(&self, reads: Assessed) -> miette::Result<Assessed> {
        match self.assess {
            Some(part) if reads != Assessed::Both && part != reads => {
                Err(miette!("--assess: the guard was fitted on {}, and reads nothing else", part_read(reads)))
            }
            part => Ok(part.unwrap_or(reads)),
        }
    }
}

/// How the answers of a guard that answers in words went.
fn add_tally(line: &mut Value, guard: &dyn SafetyGuard) {
    let Some(tally) = guard.tally() else { return };
    line["malformed"] = json!(tally.malformed);
    line["cut"] = json!(tally.cut);
    line["mean_mass_outside"] = json!(tally.mean_mass_outside());
    tell!(
        "{} of {} answers malformed (called unsafe), {} rows read in part, mean probability of neither word {}",
        tally.malformed,
        tally.answers,
        tally.cut,
        shown(tally.mean_mass_outside(), 4)
    );
}
