//! All variants of a scenario file, one after another, compared at the end.

use std::path::PathBuf;

use super::{Context, ExperimentError, PAGE, SingleRun, write_page};
use crate::{
    report::{Summary, comparison},
    store::{FolderLock, RunDirectory, write_json},
};

/// What the runs of a scenario came to, beside their folders.
pub(super) const COMPARISON: &str = "comparison.json";

/// What an experiment came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The question that its scenario poses.
    pub question: String,
    /// What each variant came to, in the order of the file.
    pub runs: Vec<Summary>,
    /// Where everything is.
    pub out: PathBuf,
}

impl Outcome {
    /// The runs side by side, as a terminal shows them.
    pub fn comparison(&self) -> String {
        comparison(&self.runs)
    }
}

/// Runs all variants.
pub(super) async fn run(context: &Context) -> Result<Outcome, ExperimentError> {
    // A folder that holds something else is refused before a lock is laid into it.
    let known = FolderLock::take_if_known(&context.out)?;
    refuse_what_is_taken(context)?;
    let _lock = known.map_or_else(|| FolderLock::take(&context.out), Ok)?;
    context.announce();
    let (mut shared, mut runs) = (context.shared(), Vec::new());
    for scenario in &context.file.scenarios {
        let out = context.out.join(&scenario.variant);
        // A run or grid elsewhere may have this variant's folder for its own.
        let _lock = if out == context.out { None } else { Some(FolderLock::take(&out)?) };
        let single = SingleRun { context, scenario, out: &out, label: scenario.label().to_owned() };
        if let Some((evaluations, summary)) = single.completed()? {
            context.progress.line(&format!("{}: is complete, not run again", out.display()));
            shared.evaluations.extend(evaluations);
            runs.push(summary);
            continue;
        }
        runs.push(single.run(&mut shared).await?);
    }
    if context.file.has_variants() {
        write_json(&context.out.join(COMPARISON), &runs)?;
        let variants = context.file.scenarios.iter().map(|scenario| context.out.join(&scenario.variant));
        write_page(&context.out, &variants.collect::<Vec<_>>())?;
    }
    let question = context.file.scenarios.first().map_or(String::new(), |scenario| scenario.question.clone());
    Ok(Outcome { question, runs, out: context.out.clone() })
}

/// Refuses places that hold something that is to stay, before anything is computed for any variant.
fn refuse_what_is_taken(context: &Context) -> Result<(), ExperimentError> {
    let runs: Vec<_> = context.file.scenarios.iter().map(|scenario| context.out.join(&scenario.variant)).collect();
    for (scenario, path) in context.file.scenarios.iter().zip(&runs) {
        context.refuse_what_is_taken(scenario, path)?;
    }
    let is_theirs = |name: &&str| context.out.join(name).exists() && !runs.iter().any(|run| RunDirectory::is_at(run));
    match [COMPARISON, PAGE].iter().find(|name| context.file.has_variants() && is_theirs(name)) {
        None => Ok(()),
        Some(name) => Err(ExperimentError::Other(format!(
            "{} is there, but no run of this scenario beside it; choose another --out",
            context.out.join(name).display()
        ))),
    }
}
