//! A strategy of one's own: the median of the clients' updates, number by number, which a few liars cannot move far.
//!
//! `cargo run --release --example own_strategy -- scenarios/quickstart.toml runs/median`

use std::{error::Error, sync::Arc};

use fedward::{
    Experiment, Outcome,
    actors::{
        ports::{ClientUpdate, PortError, PortResult, Strategy},
        protocol::{Adapter, GlobalModel, RoundId},
    },
};

struct Median;

impl Strategy for Median {
    fn name(&self) -> &'static str {
        "median"
    }

    fn aggregate(&mut self, _: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let median = |place: usize| {
            let mut numbers: Vec<f32> = updates.iter().map(|update| update.adapter.values()[place]).collect();
            numbers.sort_by(f32::total_cmp);
            let middle = numbers.len() / 2;
            if numbers.len() % 2 == 1 { numbers[middle] } else { f32::midpoint(numbers[middle - 1], numbers[middle]) }
        };
        let layout = global.trainable().layout();
        let values = (0..layout.len()).map(median).collect();
        let next = Adapter::new(Arc::clone(layout), values).map_err(|error| PortError::Failed(error.to_string()))?;
        Ok(global.with_trainable(next))
    }
}

pub(crate) fn run(scenario: &str, out: &str, sets: &[String]) -> Result<Outcome, Box<dyn Error>> {
    // The name belongs to the run: under another one it is not resumed.
    let experiment = Experiment::from_file(scenario).sets(sets).out(out).ports("median 1", |_, ports| {
        ports.strategy = Arc::new(|| Box::new(Median));
    });
    Ok(experiment.run()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, out, sets @ ..] = arguments.as_slice() else {
        return Err("usage: own_strategy SCENARIO OUT [KEY=VALUE …]".into());
    };
    println!("{}", run(scenario, out, sets)?.comparison());
    Ok(())
}
