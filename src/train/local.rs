//! Local training behind the actors' port.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{LocalTrainer, LocalTraining, PortError, PortResult, TrainTask},
    protocol::{ChatRow, hex},
};
use sha2::{Digest, Sha256};

use super::{SftSettings, TrainStreams, train_sft};
use crate::{lora::LoraConfig, model::ChatModel};

/// Fine-tunes the global adapter on a client's rows.
pub struct SftTrainer {
    /// The base model.
    pub model: Arc<ChatModel>,
    /// The adapter's size and place.
    pub lora: LoraConfig,
    /// The optimizer's settings.
    pub settings: SftSettings,
    /// Tokens after which a row is cut.
    pub max_length: usize,
    /// What all random streams come from.
    pub seed: u64,
}

impl LocalTrainer for SftTrainer {
    fn train(&self, task: &TrainTask, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<LocalTraining> {
        let started = Instant::now();
        let tokenized = self.model.tokenize(rows, self.max_length)?;
        if tokenized.is_empty() {
            let problem = format!("none of its {} rows has a response within {} tokens", rows.len(), self.max_length);
            return Err(PortError::Failed(problem));
        }
        let streams = TrainStreams::of(self.seed, task.round, Some(task.client));
        let outcome = train_sft(
            &self.model.base,
            &self.lora,
            &task.global,
            &tokenized,
            &self.settings,
            streams,
            cancel,
            &mut |_| {},
        )?;
        Ok(LocalTraining {
            mean_loss: outcome.mean_loss(),
            steps: outcome.steps as u32,
            tokens: outcome.tokens,
            adapter: outcome.adapter,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// Remembers local trainings, so that variants of a scenario do what they share once.
///
/// Local training is a function of its arguments (invariant D-1), so a remembered result is the result.
pub struct SharedTrainings {
    done: Mutex<HashMap<[u8; 32], LocalTraining>>,
    capacity: usize,
}

impl SharedTrainings {
    /// Remembers up to `capacity` trainings; later ones are not remembered.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { done: Mutex::new(HashMap::new()), capacity })
    }
}

/// A trainer that looks first whether the same training has been done already.
pub struct RememberingTrainer {
    /// Who trains what has not been done.
    pub inner: SftTrainer,
    /// What has been done.
    pub shared: Arc<SharedTrainings>,
}

impl RememberingTrainer {
    fn key(&self, task: &TrainTask, rows: &[ChatRow]) -> [u8; 32] {
        let SftTrainer { model, lora, settings, max_length, seed } = &self.inner;
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&(&model.sha256, lora, settings, max_length, seed)).unwrap_or_default());
        hash.update(format!("{}/{}/{}", task.client, task.round, task.global.sha256()));
        for row in rows {
            hash.update(row.digest().0);
        }
        hash.finalize().into()
    }
}

impl LocalTrainer for RememberingTrainer {
    fn train(&self, task: &TrainTask, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<LocalTraining> {
        let key = self.key(task, rows);
        let lock = || self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = lock().get(&key) {
            tracing::debug!(client = %task.client, round = %task.round, key = hex(&key[..4]), "training reused");
            return Ok(done.clone());
        }
        let training = self.inner.train(task, rows, cancel)?;
        let mut done = lock();
        if done.len() < self.shared.capacity {
            done.insert(key, training.clone());
        }
        Ok(training)
    }
}
