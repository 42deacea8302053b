//! An attack of one's own: clients of even numbers train as they are asked, and send the opposite of what they learnt.
//!
//! `cargo run --release --example own_attack -- scenarios/quickstart.toml runs/opposite`

use std::{error::Error, sync::Arc};

use fedward::{
    Experiment, Outcome,
    actors::{
        CancelFlag,
        ports::{Adversary, ClientUpdate, PortError, PortResult},
        protocol::{Adapter, ClientId, RoundId},
        records::ClientRole,
    },
};

struct Opposite;

impl Adversary for Opposite {
    fn role(&self, client: ClientId) -> ClientRole {
        if client.0.is_multiple_of(2) { ClientRole::Malicious } else { ClientRole::Honest }
    }

    fn forge(
        &self,
        _: RoundId,
        global: &Adapter,
        updates: &[ClientUpdate],
        _: &CancelFlag,
    ) -> PortResult<Vec<(ClientId, Adapter)>> {
        let own = updates.iter().filter(|update| self.role(update.client) == ClientRole::Malicious);
        let forged = own.map(|update| {
            let numbers = global.values().iter().zip(update.adapter.values());
            let values = numbers.map(|(global, local)| global - (local - global)).collect();
            let adapter = Adapter::new(Arc::clone(global.layout()), values);
            Ok((update.client, adapter.map_err(|error| PortError::Failed(error.to_string()))?))
        });
        forged.collect()
    }
}

pub(crate) fn run(scenario: &str, out: &str, sets: &[String]) -> Result<Outcome, Box<dyn Error>> {
    let experiment = Experiment::from_file(scenario).sets(sets).out(out).ports("opposite 1", |_, ports| {
        ports.adversary = Some(Arc::new(Opposite));
    });
    Ok(experiment.run()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, out, sets @ ..] = arguments.as_slice() else {
        return Err("usage: own_attack SCENARIO OUT [KEY=VALUE …]".into());
    };
    println!("{}", run(scenario, out, sets)?.comparison());
    Ok(())
}
