//! `fedward cai`: a CAI data set prepared beforehand, and the constitution that it is made by.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, Subcommand};
use fedward_actors::{
    cancel::CancelFlag,
    protocol::{ChatMessage, ChatRow, Role, RoundId},
};
use miette::{IntoDiagnostic, miette};
use serde_json::{Value, json};

use super::{Ending, outputs::OutFile, print_json, print_line};
use crate::{
    progress::Progress,
    report::Console,
    safety::cai::{Constitution, Harvest, Screened},
    scenario::{self, Scenario},
    wiring::{Workshop, cai_generator},
};

#[derive(Debug, Args)]
pub(super) struct CaiArgs {
    #[command(subcommand)]
    command: CaiCommand,
}

#[derive(Debug, Subcommand)]
enum CaiCommand {
    /// Make answers, critiques and revisions with a scenario's starting adapter, and write them as preference pairs and answers
    Generate(GenerateArgs),
    /// Print the constitution that is used where a scenario names none, to copy and change
    Constitution,
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// The scenario file: model, starting adapter, guard and [cai] are its
    scenario: PathBuf,
    /// The variant whose [cai] and guard count; the first with Constitutional AI where none is named
    #[arg(long)]
    variant: Option<String>,
    /// Override a key, for example --set seed=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Where pairs are written, as JSON lines with prompt, chosen and rejected (null where an answer needs no revision);
    /// `cai.data` takes the file
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn cai(args: &CaiArgs) -> miette::Result<Ending> {
    match &args.command {
        CaiCommand::Generate(args) => generate(args),
        CaiCommand::Constitution => {
            print_line(serde_json::to_string_pretty(&Constitution::default()).into_diagnostic()?)?;
            Ok(Ending::Done)
        }
    }
}

/// Writes pairs, prints one line of JSON about them on stdout and the counts for people on stderr.
fn generate(args: &GenerateArgs) -> miette::Result<Ending> {
    let file = scenario::load(&args.scenario, &args.sets).into_diagnostic()?;
    let scenario = chosen(&file.scenarios, args)?;
    if scenario.cai.as_ref().is_some_and(|cai| cai.data.is_some()) {
        return Err(miette!("cai.data is set: its pairs are made already"));
    }
    let mut out = OutFile::new(&args.out)?;
    let console = Arc::new(Console::new());
    let progress: Arc<dyn Progress> = Arc::clone(&console) as _;
    let cancel = CancelFlag::new();
    let prepared = Workshop::new().prepare(scenario, None, &progress, &cancel).into_diagnostic()?;
    let guard = prepared.guard.as_ref().map(|guard| Arc::clone(&guard.model) as _);
    let generator = cai_generator(scenario, &prepared, guard).into_diagnostic()?;
    let generator = generator.ok_or_else(|| miette!("the scenario has no Constitutional AI"))?;
    console.stage("making preference pairs");
    let mut harvest = generator.harvest(RoundId::START, &prepared.start.into(), &cancel).into_diagnostic()?;
    console.finish();
    let alone = harvest.screened.take_same();
    let lines = lines(&harvest.screened, &alone);
    if !lines.is_empty() {
        out.add(&lines)?;
    }
    tell(&args.out, &harvest, alone.len())
}

fn chosen<'a>(scenarios: &'a [Scenario], args: &GenerateArgs) -> miette::Result<&'a Scenario> {
    let found = match &args.variant {
        Some(name) => scenarios.iter().find(|scenario| scenario.variant == *name),
        None => scenarios.iter().find(|scenario| scenario.cai.is_some()),
    };
    found.filter(|scenario| scenario.cai.is_some()).ok_or_else(|| {
        let with: Vec<_> =
            scenarios.iter().filter(|scenario| scenario.cai.is_some()).map(|scenario| &scenario.variant).collect();
        miette!(
            "{}: variants with Constitutional AI are {with:?}; name one with --variant, or set cai.schedule",
            args.scenario.display()
        )
    })
}

/// Pairs, then what is good without one: answers, and revisions that nothing is preferred to.
fn lines(made: &Screened, alone: &[ChatRow]) -> String {
    let pairs = made.pairs.iter().map(|pair| (&pair.chosen, pair.rejected.response()));
    let mut text = String::new();
    for (chosen, rejected) in pairs.chain(made.good_answers.iter().chain(alone).map(|row| (row, None))) {
        let line = json!({
            "prompt": prompt_value(chosen.prompt()),
            "chosen": chosen.response(),
            "rejected": rejected,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text
}

/// A single user turn as its text, anything else as turns.
fn prompt_value(prompt: &[ChatMessage]) -> Value {
    match prompt {
        [ChatMessage { role: Role::User, content }] => json!(content),
        turns => json!(turns),
    }
}

fn tell(path: &Path, harvest: &Harvest, alone: usize) -> miette::Result<Ending> {
    let pairs = harvest.screened.pairs.len();
    let discarded = &harvest.screened.discarded;
    let reasons: Vec<_> = discarded.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let reasons = if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") };
    let kept = harvest.screened.good_answers.len();
    tell!(
        "{}: {pairs} pairs of {} red prompts; {kept} answers need no revision, {alone} revisions are like their answers \
         (both to fine-tune on); discarded: {reasons}",
        path.display(),
        harvest.asked
    );
    print_json(&json!({
        "pairs": pairs,
        "red_prompts": harvest.asked,
        "good_answers": kept,
        "same": alone,
        "discarded": discarded,
        "generated_tokens": harvest.generated_tokens,
        "cost": harvest.cost,
        "out": path,
    }))?;
    if pairs + kept + alone == 0 {
        return Err(miette!("{} is not written: nothing was good or became so", path.display()));
    }
    if pairs == 0 {
        tell!("there is nothing to learn preferences from; cai.revise = \"all\" revises good answers, too");
    }
    Ok(Ending::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{PreferencePair, Revisions, load_revisions};

    #[test]
    fn what_is_written_is_read_as_it_was_made() {
        let pair = PreferencePair::single_turn("How?", "Ask a doctor.", "Guess.");
        let same = PreferencePair::single_turn("Why?", "I do not know.", "I do not know. ");
        let unanswered = PreferencePair::single_turn("When?", "At noon.", " ");
        let mut polite = ChatRow::single_turn("Who?", "Nobody.");
        polite.messages.insert(0, ChatMessage::new(Role::System, "Be short."));
        let pairs = vec![pair.clone(), same.clone(), unanswered.clone()];
        let mut made = Screened { pairs, good_answers: vec![polite.clone()], ..Screened::default() };
        let alone = made.take_same();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        std::fs::write(&path, lines(&made, &alone)).unwrap();
        let good_answers = vec![polite, same.chosen, unanswered.chosen];
        let read: Revisions = load_revisions(&path).unwrap().into_iter().collect();
        assert_eq!(read, Revisions { pairs: vec![pair], good_answers });
    }
}
