//! A benchmark of one's own: how likely the model finds that two and two are four.
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
        let rows = [("2 + 2 = ?", "4"), ("3 + 4 = ?", "7")].map(|(asked, said)| ChatRow::single_turn(asked, said));
        let rows = subject.model.tokenize(&rows, 64)?;
        let scores = subject.model.score(subject.adapter, &rows, subject.cancel, subject.progress)?;
        let mean = scores.iter().map(|score| score.log_likelihood).sum::<f64>() / scores.len() as f64;
        let values = [("log_likelihood".to_owned(), mean)].into();
        let score = BenchmarkScore { n: scores.len() as u64, items: None, values };
        Ok(Measurement { name: "sums", score, findings: Vec::new(), warnings: Vec::new() })
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
