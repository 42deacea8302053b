//! The numbered invariants of the crate, each with a test named after it, against a federation of fakes.

mod attacks;
mod faults;
mod guard;
mod memory;
mod processes;
mod ranks;
mod rounds;
mod sameness;
mod server;
mod swarm;
mod time;

use crate::records::{ClientOutcome, ClientRecord, DropReason};

fn outcomes(clients: &[ClientRecord]) -> Vec<(u32, ClientOutcome)> {
    clients.iter().map(|record| (record.client.0, record.outcome.clone())).collect()
}

fn dropped(reason: DropReason) -> ClientOutcome {
    ClientOutcome::Dropped(reason)
}
