//! Searches seeds for federations that violate an invariant.
//!
//! `cargo run --release -p fedward-actors --features testing --example swarm -- --seeds 1..10000`
//!
//! Each seed draws a federation, which is run, repeated with another number of slots and another order of replies, interrupted and
//! resumed, and checked for every invariant. Prints each failing seed with the command that repeats it; the exit status is then 1.
//! A seed that panics or hangs fails, too.

use std::{
    collections::BTreeMap,
    env,
    ops::RangeInclusive,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fedward_actors::{
    predicates::Invariant,
    testing::swarm::{Sabotage, Trial, try_seed_within},
};

const USAGE: &str =
    "usage: swarm [--seeds A..B | --seeds N] [--only INVARIANT] [--sabotage INVARIANT] [--seconds N] [--jobs N]
  --seeds A..B   seeds from A to B, both included [default: 1..1000]
  --only R-1     check this invariant alone
  --sabotage R-1 put in the deliberate bug that violates this invariant
  --seconds N    stop after N seconds
  --limit N      seconds after which a seed that has not ended fails [default: 60]
  --jobs N       number of threads [default: one per core]";

/// Interval between lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// Number of failing seeds that are printed in full; further ones are counted.
const SHOWN: usize = 10;

struct Arguments {
    seeds: RangeInclusive<u64>,
    only: Option<Invariant>,
    sabotage: Option<Invariant>,
    seconds: Option<u64>,
    limit: Duration,
    jobs: usize,
}

fn main() -> ExitCode {
    match parse(env::args().skip(1)) {
        Ok(arguments) => search(&arguments),
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let limit = Duration::from_mins(1);
    let mut parsed = Arguments { seeds: 1..=1000, only: None, sabotage: None, seconds: None, limit, jobs };
    let mut arguments = arguments;
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option}: expected a value, found none"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{option}: expected a number, found {text}"));
        let invariant = || {
            let numbers = Invariant::ALL.map(Invariant::number).join(", ");
            Invariant::of_number(&value).ok_or_else(|| format!("{option}: expected one of {numbers}, found {value}"))
        };
        match option.as_str() {
            "--seeds" => {
                let (first, last) = value.split_once("..").unwrap_or((&value, &value));
                parsed.seeds = number(first)?..=number(last.trim_start_matches('='))?;
                if parsed.seeds.is_empty() {
                    return Err(format!("{option}: expected the smaller seed first, found {value}"));
                }
            }
            "--only" => parsed.only = Some(invariant()?),
            "--sabotage" => parsed.sabotage = Some(invariant()?),
            "--seconds" => parsed.seconds = Some(number(&value)?),
            "--limit" => parsed.limit = Duration::from_secs(number(&value)?),
            "--jobs" => parsed.jobs = number(&value)?.max(1) as usize,
            _ => return Err(format!("{option}: no such option")),
        }
    }
    Ok(parsed)
}

/// Results of all threads so far.
#[derive(Default)]
struct Found {
    seeds: u64,
    rounds: u64,
    failed: Vec<u64>,
    violated: BTreeMap<Invariant, usize>,
}

fn search(arguments: &Arguments) -> ExitCode {
    let (begun, next, found) = (Instant::now(), AtomicU64::new(*arguments.seeds.start()), Mutex::new(Found::default()));
    let is_over = || arguments.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds));
    thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| work(arguments, &next, &found, is_over));
        }
        let mut told = Instant::now();
        while next.load(Ordering::SeqCst) <= *arguments.seeds.end() && !is_over() {
            thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                tell(&lock(&found), begun);
            }
        }
    });
    let found = lock(&found);
    tell(&found, begun);
    if found.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(arguments: &Arguments, next: &AtomicU64, found: &Mutex<Found>, is_over: impl Fn() -> bool) {
    let invariants = arguments.only.map_or_else(|| Invariant::ALL.to_vec(), |only| vec![only]);
    let sabotage = arguments.sabotage.map(Sabotage::of);
    while !is_over() {
        let seed = next.fetch_add(1, Ordering::SeqCst);
        if seed > *arguments.seeds.end() {
            break;
        }
        let trial = try_seed_within(seed, &invariants, sabotage, arguments.limit);
        let mut found = lock(found);
        found.seeds += 1;
        found.rounds += u64::from(trial.rounds);
        if !trial.is_clean() {
            found.failed.push(seed);
            if found.failed.len() <= SHOWN {
                show(&trial, arguments);
            }
        }
        for violation in trial.violations {
            *found.violated.entry(violation.invariant).or_default() += 1;
        }
    }
}

fn lock(found: &Mutex<Found>) -> std::sync::MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(found: &Found, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let violated: Vec<String> =
        found.violated.iter().map(|(invariant, times)| format!("{} {times}×", invariant.number())).collect();
    let violated = if violated.is_empty() { String::new() } else { format!(" ({})", violated.join(", ")) };
    println!(
        "{} seeds, {} rounds in {seconds:.1} s: {:.0} seeds/s; {} failed{violated}",
        found.seeds,
        found.rounds,
        found.seeds as f64 / seconds,
        found.failed.len()
    );
}

fn show(trial: &Trial, arguments: &Arguments) {
    let seed = trial.drawn.seed;
    println!("seed {seed} fails");
    for violation in &trial.violations {
        println!("  {violation}");
    }
    if let Some(failure) = &trial.failure {
        println!("  {failure}");
    }
    println!("  drawn: {:?}", trial.drawn);
    let option = |name: &str, invariant: Option<Invariant>| {
        invariant.map_or(String::new(), |invariant| format!(" --{name} {}", invariant.number()))
    };
    println!(
        "  again: cargo run --release -p fedward-actors --features testing --example swarm -- --seeds {seed}{}{}",
        option("only", arguments.only),
        option("sabotage", arguments.sabotage)
    );
}
