//! The command line. Machine-readable output goes to stdout, what people read goes to stderr.

mod cai;
mod check;
mod environment;
mod eval;
mod fetch;
mod generate;
mod grid;
mod guard;
mod model_args;
mod outputs;
mod overlap;
mod prepare;
mod report;
mod run;
mod score;
mod session;
mod tune;

use std::{
    io::{IsTerminal, Write},
    num::NonZeroUsize,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use fedward_native::processor::fail_writes_beyond_limit;
use miette::IntoDiagnostic;
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use self::environment::Environment;
use crate::{
    model::{ModelError, device},
    report::Console,
};

/// Simulates the federated fine-tuning of language models when part of the clients' data is harmful, and measures what
/// defences buy.
#[derive(Debug, Parser)]
#[command(name = "fedward", version, propagate_version = true)]
struct Cli {
    /// Threads that compute, unless a scenario says federation.slots; results on the CPU do not depend on it [default: one a core,
    /// two a CUDA device; or what the variable `FEDWARD_THREADS` says]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario: all its variants, from the same start
    Run(run::RunArgs),
    /// Run each variant of a file with each of its strategies and seeds, and compare: the paper's tables
    Grid(grid::GridArgs),
    /// Make what a scenario needs before its first round: starting adapter and guard
    Prepare(prepare::PrepareArgs),
    /// Validate a scenario and print what it resolves to, or check the invariants of a run
    Check(check::CheckArgs),
    /// Fine-tune one adapter on given rows, without a federation
    Tune(tune::TuneArgs),
    /// Prepare a data set of Constitutional AI, or print the constitution
    Cai(cai::CaiArgs),
    /// Fit a guard to labelled rows, or measure one
    Guard(guard::GuardArgs),
    /// Add the log-likelihood of the response to each row
    Score(score::ScoreArgs),
    /// Add a model's response to each prompt
    Generate(generate::GenerateArgs),
    /// Measure a model and an adapter on benchmarks
    Eval(eval::EvalArgs),
    /// Put one run, or several side by side, on a page with plots
    Report(report::ReportArgs),
    /// Fetch models and data sets of the catalogue, or list them
    Fetch(fetch::FetchArgs),
}

/// Exit status after Ctrl-C, as shells expect it.
const INTERRUPTED: u8 = 130;

/// How a command ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Done,
    Interrupted,
}

/// The program: parses the command line, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    fail_writes_beyond_limit();
    restart_with_settings();
    let environment = match Environment::read() {
        Ok(environment) => environment,
        Err(error) => return failed(&error),
    };
    init_log(environment.log);
    device::init_backend();
    if let Some(most) = cli.threads.or(environment.threads) {
        device::limit_threads(most);
    }
    match run_command(cli.command) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => failed(&error),
    }
}

fn run_command(command: Command) -> miette::Result<Ending> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Grid(args) => grid::grid(&args),
        Command::Prepare(args) => prepare::prepare(&args),
        Command::Check(args) => check::check(&args),
        Command::Tune(args) => tune::tune(&args),
        Command::Cai(args) => cai::cai(&args),
        Command::Guard(args) => guard::guard(&args),
        Command::Score(args) => score::score(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Eval(args) => eval::eval(&args),
        Command::Report(args) => report::report(&args),
        Command::Fetch(args) => fetch::fetch(&args),
    }
}

/// Prints what went wrong, with its causes.
fn failed(error: &miette::Report) -> ExitCode {
    let mut told = error.to_string();
    tell!("fedward: {told}");
    // Many errors say themselves what caused them.
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            tell!("  because {cause}");
            told.push_str(&cause);
        }
    }
    ExitCode::FAILURE
}

/// Logs to stderr what `filter` lets through.
fn init_log(filter: EnvFilter) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time().with_target(false);
    // A log that cannot be written is not written about: that would panic.
    let lines = lines.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false);
    // At this level the HTTP client prints requests byte by byte: keys and prompts.
    let is_wire = |metadata: &Metadata<'_>| metadata.target().starts_with("ureq") && *metadata.level() == Level::TRACE;
    tracing_subscriber::registry().with(filter).with(filter_fn(move |metadata| !is_wire(metadata))).with(lines).init();
}

/// Starts the program anew with settings that libraries read when they are loaded, before `main`, unless they are set.
///
/// - `OMP_WAIT_POLICY=passive`: libtorch's OpenMP threads otherwise spin while they wait, and take the cores of clients that
///   train side by side.
/// - `MALLOC_ARENA_MAX`: glibc gives threads up to eight heaps a core, and an adapter that one thread makes and another drops
///   leaves a hole in one of them: a round of 100 updates then takes up to 60% more memory than its updates.
fn restart_with_settings() {
    use std::os::unix::process::CommandExt;
    let arenas = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(CORES_AN_ARENA).to_string();
    let settings = [("OMP_WAIT_POLICY", "passive"), ("MALLOC_ARENA_MAX", arenas.as_str())];
    let missing: Vec<_> = settings.into_iter().filter(|(variable, _)| std::env::var_os(variable).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    // Returns only if it fails, and then it is slower and takes more memory, but is not wrong.
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(missing).exec();
    tracing::debug!(%error, "could not start anew");
}

/// Cores that share a heap of glibc's: small allocations do not come there, so they seldom wait for one another.
const CORES_AN_ARENA: usize = 8;

/// Prints one line of JSON on stdout.
fn print_json(value: &serde_json::Value) -> miette::Result<()> {
    print_line(value)
}

/// As [`print_json`], where results are handed on as they come.
fn print_result(line: impl std::fmt::Display, console: &Console) -> Result<(), ModelError> {
    console.aside(|| write_line(line)).map_err(ModelError::io("standard output".as_ref()))
}

/// One line on stdout; a reader that has gone away is an error, not a panic.
fn print_line(line: impl std::fmt::Display) -> miette::Result<()> {
    write_line(line).into_diagnostic()
}

fn write_line(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}
