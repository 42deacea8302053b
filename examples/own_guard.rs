//! A guard of one's own: rows whose response begins as if it were glad to help are left out.
//!
//! `cargo run --release --example own_guard -- scenarios/quickstart.toml runs/words`

use std::{error::Error, sync::Arc};

use fedward::{
    Experiment, Outcome,
    actors::{
        CancelFlag,
        policy::RowGuard,
        ports::{GuardModel, PortResult},
        protocol::{ChatRow, Verdict},
    },
};

struct Words;

impl GuardModel for Words {
    fn version(&self) -> &'static str {
        "words 1"
    }

    fn assess(&self, rows: &[ChatRow], _: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let is_unsafe = |row: &ChatRow| row.response().is_some_and(|response| response.starts_with("Sure"));
        Ok(rows.iter().map(|row| Verdict::of_probability(f64::from(u8::from(is_unsafe(row))), 0.5)).collect())
    }
}

pub(crate) fn run(scenario: &str, out: &str, sets: &[String]) -> Result<Outcome, Box<dyn Error>> {
    let experiment = Experiment::from_file(scenario).sets(sets).out(out).ports("words 1", |_, ports| {
        ports.guard = Some(RowGuard::new(Arc::new(Words)));
    });
    Ok(experiment.run()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, out, sets @ ..] = arguments.as_slice() else {
        return Err("usage: own_guard SCENARIO OUT [KEY=VALUE …]".into());
    };
    println!("{}", run(scenario, out, sets)?.comparison());
    Ok(())
}
