//! `fedward prepare`: what a scenario needs before its first round, made and kept.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use fedward_actors::cancel::CancelFlag;
use miette::IntoDiagnostic;

use super::Ending;
use crate::{progress::Progress, report::Console, scenario, wiring::Workshop};

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// The scenario file
    scenario: PathBuf,
    /// Override a key, for example --set seed=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

/// Makes starting adapters and guards of all variants, unless they are kept from before, and says what guards are worth.
pub(super) fn prepare(args: &PrepareArgs) -> miette::Result<Ending> {
    let file = scenario::load(&args.scenario, &args.sets).into_diagnostic()?;
    let console = Arc::new(Console::new());
    if let Some(aside) = file.grid_left_aside() {
        console.line(&aside);
    }
    let judge = file.judge();
    let progress = Arc::clone(&console) as Arc<dyn Progress>;
    let mut workshop = Workshop::new();
    let cancel = CancelFlag::new();
    for scenario in &file.scenarios {
        let prepared = workshop.prepare(scenario, judge.as_ref(), &progress, &cancel).into_diagnostic()?;
        if let Some(description) = prepared.guard.and_then(|guard| workshop.description_once(&guard)) {
            console.line(&description);
        }
        if let Some(description) = prepared.judge.and_then(|judge| workshop.description_once(&judge)) {
            console.line(&format!("judge of responses: {description}"));
        }
    }
    console.finish();
    tell!("{} is prepared", args.scenario.display());
    Ok(Ending::Done)
}
