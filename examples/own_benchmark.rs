//! A benchmark of one's own: whether the model finds that two and two are rather four than five.
//!
//! `cargo run --release --example own_benchmark -- scenarios/quickstart.toml runs/sums`

use std::error::Error;

use fedward::{
    Experiment, Outcome,
    actors::{
        ports::{BenchmarkScore, PortResult},
        protocol::ChatRow,
    },
    eval::{Benchmark, Measurement, Subject},
};

struct Sums;

impl Benchmark for Sums {
    fn measure(&self, subject: &Subject<'_>) -> PortResult<Measurement> {
        // Each with a right answer, and then with a wrong one.
        let sums =
            ["4", "5"].map(|said| ("2 + 2 = ?", said)).into_iter().chain(["7", "9"].map(|said| ("3 + 4 = ?", said)));
        let rows: Vec<_> = sums.map(|(asked, said)| ChatRow::single_turn(asked, said)).collect();
        let rows = subject.model.tokenize(&rows, 64)?;
        let scores = subject.model.score(subject.adapter, &rows, subject.cancel, subject.progress)?;
        let pairs = scores.chunks(2);
        let n = pairs.len() as u64;
        let right = pairs.filter(|pair| pair[0].log_likelihood > pair[1].log_likelihood).count();
        // Tables have columns for accuracy, refusal_rate and guard_safe_rate; records hold whatever there is.
        let values = [("accuracy".to_owned(), right as f64 / n as f64)].into();
        let score = BenchmarkScore { n, items: None, values };
        Ok(Measurement { name: "sums".to_owned(), score, findings: Vec::new(), warnings: Vec::new() })
    }
}

pub(crate) fn run(scenario: &str, out: &str, sets: &[String]) -> Result<Outcome, Box<dyn Error>> {
    Ok(Experiment::from_file(scenario).sets(sets).out(out).benchmark("sums 1", Sums).run()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, out, sets @ ..] = arguments.as_slice() else {
        return Err("usage: own_benchmark SCENARIO OUT [KEY=VALUE …]".into());
    };
    println!("{}", run(scenario, out, sets)?.comparison());
    Ok(())
}
