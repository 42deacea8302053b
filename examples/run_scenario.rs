//! Runs a scenario from a program of one's own, and follows its rounds.
//!
//! `cargo run --release --example run_scenario -- scenarios/quickstart.toml runs/mine federation.rounds=1`

use std::{error::Error, sync::Arc};

use fedward::{
    Experiment, Outcome,
    actors::{ports::Observer, records::RoundEvent},
};

/// Tells of each round as it ends.
struct Rounds;

impl Observer for Rounds {
    fn observe(&self, event: &RoundEvent) {
        if let RoundEvent::RoundFinished(record) = event {
            println!("{}: {}, {} updates", record.round, record.outcome.name(), record.accepted);
        }
    }
}

pub(crate) fn run(scenario: &str, out: &str, sets: &[String]) -> Result<Outcome, Box<dyn Error>> {
    Ok(Experiment::from_file(scenario).sets(sets).out(out).observer(Arc::new(Rounds)).run()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, out, sets @ ..] = arguments.as_slice() else {
        return Err("usage: run_scenario SCENARIO OUT [KEY=VALUE …]".into());
    };
    println!("{}", run(scenario, out, sets)?.comparison());
    Ok(())
}
