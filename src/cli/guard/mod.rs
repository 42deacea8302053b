//! `fedward guard`: guards fitted and measured outside of runs.

mod eval;
mod open;
mod rows;
mod table;
mod train;

use clap::{Args, Subcommand};
pub(super) use open::GuardArgs as OpenGuardArgs;

use super::Ending;

#[derive(Debug, Args)]
pub(super) struct GuardArgs {
    #[command(subcommand)]
    command: GuardCommand,
}

#[derive(Debug, Subcommand)]
enum GuardCommand {
    /// Fit a guard to labelled rows: heads on a frozen model's hidden states, or an adapter that answers as Llama Guard does
    Train(train::TrainArgs),
    /// Measure a guard on labelled rows that it was not fitted on
    Eval(eval::EvalArgs),
}

pub(super) fn guard(args: &GuardArgs) -> miette::Result<Ending> {
    match &args.command {
        GuardCommand::Train(args) => train::train(args),
        GuardCommand::Eval(args) => eval::eval(args),
    }
}
