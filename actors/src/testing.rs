//! Fake ports: a federation without a model, to test the round and to measure what orchestration costs.
//!
//! Every fake is deterministic in what it computes and misbehaves on demand. A [`Rehearsal`] holds one of each.

mod clients;
mod defences;
mod memory;
mod rehearsal;
mod server;
mod store;
mod strategies;
pub mod swarm;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

pub use clients::{FakeRows, FakeTrainer, TrainerConduct};
pub use defences::{FakeGuard, FakeScreen};
pub use memory::{PushedMean, RememberingClients};
pub use rehearsal::Rehearsal;
pub use server::{FakeBenchmarks, FakeRealigner};
pub use store::{EventLog, MemoryStore, Stored};
pub use strategies::{Momentum, WeightedMean};

use crate::{
    cancel::CancelFlag,
    ports::{PortError, PortResult},
    protocol::{Adapter, AdapterLayout},
};

/// How often a fake that waits looks at its cancel flag.
const POLL: Duration = Duration::from_millis(1);

/// How a fake port behaves in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Does its work.
    Honest,
    /// Does its work after this long.
    Slow(Duration),
    /// Gives an error.
    Fails,
    /// Panics.
    Panics,
    /// Never ends, but heeds its cancel flag.
    Hangs,
    /// Heeds not even its cancel flag, for this long.
    Deaf(Duration),
    /// Gives a value that is not finite: a trainer and a strategy an adapter, a guard a probability.
    NotFinite,
    /// Gives something of the wrong shape: a trainer an adapter of another layout, a guard too few verdicts.
    WrongShape,
}

impl Conduct {
    /// Waits, fails or panics, as the conduct asks.
    fn act(self, cancel: &CancelFlag) -> PortResult<()> {
        match self {
            Self::Honest | Self::NotFinite | Self::WrongShape => {}
            Self::Slow(delay) | Self::Deaf(delay) => thread::sleep(delay),
            Self::Fails => return Err(PortError::Failed("rehearsed failure".to_owned())),
            // Without the panic hook: a rehearsed panic should not fill the terminal.
            Self::Panics => std::panic::resume_unwind(Box::new("rehearsed panic")),
            Self::Hangs => {
                while !cancel.is_cancelled() {
                    thread::sleep(POLL);
                }
            }
        }
        if cancel.is_cancelled() { Err(PortError::Cancelled) } else { Ok(()) }
    }
}

/// An adapter layout of one target: 8 numbers.
pub fn tiny_layout() -> Arc<AdapterLayout> {
    layout_of_rank(1)
}

/// An adapter layout of one target of 4 by 4, with the given rank.
pub fn layout_of_rank(rank: usize) -> Arc<AdapterLayout> {
    let name = |matrix| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{matrix}.weight");
    Arc::new(AdapterLayout::new([(name('A'), [rank, 4]), (name('B'), [4, rank])]))
}

fn adapter(layout: &Arc<AdapterLayout>, value: impl FnMut(usize) -> f32) -> Adapter {
    let values = (0..layout.len()).map(value).collect();
    Adapter::new(Arc::clone(layout), values).unwrap_or_else(|_| Adapter::zeros(Arc::clone(layout)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
