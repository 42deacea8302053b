//! Strategies, one of them with a memory that it can lose.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use rayon::prelude::*;

use super::{Conduct, adapter};
use crate::{
    cancel::CancelFlag,
    ports::{ClientUpdate, PortError, PortResult, Strategy},
    protocol::{Adapter, GlobalModel, RoundId},
};

/// Numbers that one thread combines at a time.
const CHUNK: usize = 1 << 14;

/// The mean of the updates weighted by their examples, as FedAvg.
#[derive(Clone, Copy, Debug)]
pub struct WeightedMean;

impl Strategy for WeightedMean {
    fn name(&self) -> &'static str {
        "weighted mean"
    }

    fn aggregate(&mut self, _: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        Ok(global.with_trainable(weighted_mean(global.trainable(), updates)?))
    }
}

/// The mean of the updates weighted by their examples.
pub(super) fn weighted_mean(global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
    let total: f64 = updates.iter().map(|update| update.n_examples).sum();
    let mut mean = vec![0.0_f32; global.values().len()];
    mean.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, mean)| {
        let mut sums = vec![0.0_f64; mean.len()];
        for update in updates {
            let weight = update.n_examples / total;
            for (sum, &value) in sums.iter_mut().zip(&update.adapter.values()[chunk * CHUNK..]) {
                *sum += weight * f64::from(value);
            }
        }
        for (mean, sum) in mean.iter_mut().zip(sums) {
            *mean = sum as f32;
        }
    });
    Adapter::new(Arc::clone(global.layout()), mean).map_err(|error| PortError::Failed(error.to_string()))
}

/// The weighted mean with momentum .9 on its delta: a strategy that remembers, and misbehaves in given rounds.
pub struct Momentum {
    pub(super) memory: Vec<f32>,
    pub(super) conduct: Arc<dyn Fn(RoundId, u32) -> Conduct + Send + Sync>,
    pub(super) calls: Arc<AtomicU32>,
}

impl Strategy for Momentum {
    fn name(&self) -> &'static str {
        "momentum"
    }

    fn aggregate(&mut self, round: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let conduct = (self.conduct)(round, self.calls.fetch_add(1, Ordering::SeqCst) + 1);
        let start = global.trainable();
        let mean = weighted_mean(start, updates)?;
        self.memory.resize(mean.values().len(), 0.0);
        for ((momentum, &mean), &global) in self.memory.iter_mut().zip(mean.values()).zip(start.values()) {
            *momentum = 0.9 * *momentum + (mean - global);
        }
        // Misbehaves only now, with its memory already changed.
        conduct.act(&CancelFlag::new())?;
        Ok(global.with_trainable(adapter(start.layout(), |index| match conduct {
            Conduct::NotFinite => f32::INFINITY,
            _ => start.values()[index] + self.memory[index],
        })))
    }

    fn state(&self) -> Vec<u8> {
        self.memory.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        let (values, rest) = state.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(PortError::Failed(format!("expected a multiple of 4 bytes, found {}", state.len())));
        }
        self.memory = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Ok(())
    }
}
