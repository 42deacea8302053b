//! Local training behind the actors' port.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{LocalTrainer, LocalTraining, PortError, PortResult, TrainTask},
    protocol::{TrainRows, hex},
};
use sha2::{Digest, Sha256};

use super::{RoundSchedule, SftRows, SftSettings, TrainStreams, train_sft};
use crate::model::{ModelError, Replicas, TokenizedRow};

/// Fine-tunes the global adapter on a client's rows.
pub struct SftTrainer {
    /// The base model, on each device that clients train on.
    pub models: Arc<Replicas>,
    /// The share of A's inputs that training zeroes.
    pub dropout: f64,
    /// The optimizer's settings.
    pub settings: SftSettings,
    /// How the learning rate moves over rounds.
    pub lr_over_rounds: RoundSchedule,
    /// The rounds of the run.
    pub rounds: u32,
    /// Tokens after which a row is cut.
    pub max_length: usize,
    /// What all random streams come from.
    pub seed: u64,
}

impl LocalTrainer for SftTrainer {
    fn train(&self, task: &TrainTask, rows: &TrainRows, cancel: &CancelFlag) -> PortResult<LocalTraining> {
        let started = Instant::now();
        let (tokenized, weights) = self.usable(rows)?;
        let n_examples: f64 = weights.iter().sum();
        if n_examples <= 0.0 {
            let (count, longest) = (rows.rows().len(), self.max_length);
            let problem = format!("none of its {count} rows has any weight and a response within {longest} tokens");
            return Err(PortError::Failed(problem));
        }
        let streams = TrainStreams::of(self.seed, task.round, Some(task.client));
        let settings = SftSettings {
            learning_rate: self.lr_over_rounds.learning_rate(self.settings.learning_rate, task.round, self.rounds),
            proximal_mu: task.correction.proximal_mu,
            drift_correction: task.correction.drift.clone(),
            fixed: task.correction.fixed,
            ..self.settings.clone()
        };
        let rows = SftRows::weighted(&tokenized, &weights)?;
        let outcome = train_sft(
            &self.models.borrow().base,
            &task.global,
            self.dropout,
            rows,
            &settings,
            streams,
            cancel,
            &mut |_| {},
        )?;
        Ok(LocalTraining {
            n_examples,
            mean_loss: outcome.mean_loss(),
            learning_rate_sum: settings.learning_rate_sum(),
            steps: outcome.steps as u32,
            tokens: outcome.tokens,
            adapter: outcome.adapter,
            seconds: started.elapsed().as_secs_f64(),
            reused: false,
        })
    }
}

impl SftTrainer {
    /// The rows that there is something to learn from, with their weights: those with a response that begins within the
    /// first `max_length` tokens.
    fn usable(&self, rows: &TrainRows) -> Result<(Vec<TokenizedRow>, Vec<f64>), ModelError> {
        let (mut tokenized, mut weights) = (Vec::new(), Vec::new());
        for (row, weight) in rows.iter() {
            if let Some(row) = self.models.first().row_ids_up_to(self.settings.end, row, self.max_length)? {
                tokenized.push(row);
                weights.push(weight);
            }
        }
        Ok((tokenized, weights))
    }
}

/// Remembers local trainings, so that variants of a scenario do what they share once.
///
/// Local training is a function of its arguments (invariant D-1), so a remembered result is the result.
pub struct SharedTrainings {
    done: Mutex<HashMap<[u8; 32], LocalTraining>>,
    most_bytes: u64,
}

impl SharedTrainings {
    /// Remembers trainings until their adapters take `most_bytes` bytes (invariant M-1). Later ones are not remembered:
    /// what variants share is their first rounds.
    pub fn new(most_bytes: u64) -> Arc<Self> {
        Arc::new(Self { done: Mutex::new(HashMap::new()), most_bytes })
    }

    /// Forgets all of them: what comes now shares none.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn find(&self, key: &[u8; 32]) -> Option<LocalTraining> {
        self.lock().get(key).cloned()
    }

    fn remember(&self, key: [u8; 32], training: &LocalTraining) {
        let mut done = self.lock();
        let held: u64 = done.values().map(|training| training.adapter.size_bytes()).sum();
        if held + training.adapter.size_bytes() <= self.most_bytes {
            done.insert(key, training.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], LocalTraining>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trainer that looks first whether the same training has been done already.
///
/// What it takes up is marked as reused and cost no time, so that speeds rest on work that was done.
pub struct RememberingTrainer {
    /// Who trains what has not been done.
    inner: Box<dyn LocalTrainer>,
    /// What its results depend on beside task and rows.
    identity: [u8; 32],
    /// What has been done.
    shared: Arc<SharedTrainings>,
}

impl RememberingTrainer {
    /// `inner`, asked only for what is not among the `shared` trainings.
    pub fn new(inner: SftTrainer, shared: Arc<SharedTrainings>) -> Self {
        let SftTrainer { models, dropout, settings, lr_over_rounds, rounds, max_length, seed } = &inner;
        let of_run = (settings, lr_over_rounds, rounds, max_length, seed);
        let depends_on = serde_json::to_vec(&(models.first().identity(), dropout, of_run)).unwrap_or_default();
        Self { identity: Sha256::digest(depends_on).into(), inner: Box::new(inner), shared }
    }

    fn key(&self, task: &TrainTask, rows: &TrainRows) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.identity);
        hash.update(format!("{}/{}/{}", task.client, task.round, task.global.sha256()));
        hash.update(task.global.trainable().layout().scaling().to_le_bytes());
        hash.update(task.correction.proximal_mu.to_le_bytes());
        hash.update([task.correction.fixed.map_or(2, |factor| factor as u8)]);
        for drift in task.correction.drift.iter().flat_map(|drift| drift.iter()) {
            hash.update(drift.to_le_bytes());
        }
        for (row, weight) in rows.iter() {
            hash.update(row.digest().0);
            hash.update(weight.to_le_bytes());
        }
        hash.finalize().into()
    }
}

impl LocalTrainer for RememberingTrainer {
    fn train(&self, task: &TrainTask, rows: &TrainRows, cancel: &CancelFlag) -> PortResult<LocalTraining> {
        let key = self.key(task, rows);
        if let Some(done) = self.shared.find(&key) {
            tracing::debug!(client = %task.client, round = %task.round, key = hex(&key[..4]), "training reused");
            return Ok(LocalTraining { seconds: 0.0, reused: true, ..done });
        }
        let training = self.inner.train(task, rows, cancel)?;
        self.shared.remember(key, &training);
        Ok(training)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use fedward_actors::{
        ports::LocalCorrection,
        protocol::{Adapter, AdapterLayout, ChatRow, ClientId, RoundId},
    };

    use super::*;

    /// Counts its calls, and gives the count as the adapter's value.
    #[derive(Default)]
    struct Counting(Arc<AtomicU64>);

    impl LocalTrainer for Counting {
        fn train(&self, task: &TrainTask, rows: &TrainRows, _: &CancelFlag) -> PortResult<LocalTraining> {
            let call = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            let layout = Arc::clone(task.global.trainable().layout());
            let adapter = Adapter::new(Arc::clone(&layout), vec![call as f32; layout.len()])
                .map_err(|error| PortError::Failed(error.to_string()))?;
            let tokens = rows.rows().len() as u64;
            Ok(LocalTraining {
                adapter,
                n_examples: rows.weight_sum(),
                steps: 1,
                tokens,
                learning_rate_sum: 0.1,
                mean_loss: 1.0,
                seconds: 2.5,
                reused: false,
            })
        }
    }

    fn task(client: u32, value: f32) -> TrainTask {
        let layout = Arc::new(AdapterLayout::new([("a".to_owned(), [1, 2])]));
        let global = Adapter::new(layout, vec![value; 2]).unwrap();
        let correction = LocalCorrection::default();
        TrainTask { client: ClientId(client), round: RoundId(1), global: global.into(), correction }
    }

    #[test]
    fn the_same_training_is_done_once_and_marked_when_it_is_taken_up() {
        let (calls, shared) = (Arc::new(AtomicU64::new(0)), SharedTrainings::new(1024));
        let trainer = |identity: u8| RememberingTrainer {
            inner: Box::new(Counting(Arc::clone(&calls))),
            identity: [identity; 32],
            shared: Arc::clone(&shared),
        };
        let rows = |response: &str| TrainRows::new([ChatRow::single_turn("question", response)].into());
        let (rows, others) = (rows("answer"), rows("another answer"));
        let lighter = TrainRows::weighted(rows.rows().into(), |_| 0.5);
        let train = |identity, task: &TrainTask, rows: &TrainRows| {
            trainer(identity).train(task, rows, &CancelFlag::new()).unwrap()
        };
        let first = train(1, &task(0, 0.5), &rows);
        assert!(!first.reused && first.seconds > 0.0);
        let again = train(1, &task(0, 0.5), &rows);
        assert_eq!(again, LocalTraining { reused: true, seconds: 0.0, ..first });
        let corrected = |proximal_mu, drift: Option<f32>| TrainTask {
            correction: LocalCorrection {
                proximal_mu,
                drift: drift.map(|drift| Arc::new(vec![drift; 2])),
                ..LocalCorrection::default()
            },
            ..task(0, 0.5)
        };
        // Another client, start, correction, row, weight or trainer is another training.
        for other in [
            train(1, &corrected(0.1, None), &rows),
            train(1, &corrected(0.0, Some(0.5)), &rows),
            train(1, &corrected(0.0, Some(0.25)), &rows),
            train(1, &task(1, 0.5), &rows),
            train(1, &task(0, 0.25), &rows),
            train(1, &task(0, 0.5), &others),
            train(1, &task(0, 0.5), &lighter),
            train(2, &task(0, 0.5), &rows),
        ] {
            assert!(!other.reused);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 9);
    }

    #[test]
    fn memory_for_trainings_is_bounded() {
        let shared = SharedTrainings::new(8);
        let training =
            Counting::default().train(&task(0, 0.5), &TrainRows::new([].into()), &CancelFlag::new()).unwrap();
        shared.remember([1; 32], &training);
        shared.remember([2; 32], &training);
        assert!(shared.find(&[1; 32]).is_some() && shared.find(&[2; 32]).is_none());
        shared.clear();
        shared.remember([2; 32], &training);
        assert!(shared.find(&[1; 32]).is_none() && shared.find(&[2; 32]).is_some());
    }
}
