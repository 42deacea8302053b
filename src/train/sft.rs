//! Supervised fine-tuning on the responses of chat rows.

use fedward_actors::{
    CancelFlag,
    protocol::{Adapter, AdapterLayout, AdapterTensor, ClientId, Factor, RoundId},
    streams::{Purpose, stream},
};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    batches::Batches,
    optimizer::AdamSettings,
    schedule::LrSchedule,
    shards::{Shards, Weighed},
    trainer::{AdapterTrainer, TrainerSettings},
};
use crate::{
    lora::LoraRef,
    model::{BaseModel, ModelError, Portions, Result, RowEnd, TokenizedRow, Work},
};

/// How an adapter is fine-tuned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SftSettings {
    /// Optimizer steps.
    pub steps: usize,
    /// Rows a step; all rows where there are fewer.
    pub batch_size: usize,
    /// Highest learning rate of the schedule.
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are scaled down to it.
    pub max_grad_norm: Option<f64>,
    /// How the learning rate moves.
    pub schedule: LrSchedule,
    /// Strength μ of FedProx's pull to the start (Li et al., 2020): the loss gains μ/2 · ‖w − start‖².
    pub proximal_mu: f64,
    /// SCAFFOLD's `c − c_i` (Karimireddy et al., 2020), subtracted times the learning rate after each step; one number
    /// for each of the adapter's.
    #[serde(skip)]
    pub drift_correction: Option<std::sync::Arc<Vec<f32>>>,
    /// The factor of each product that stays as it is.
    #[serde(skip)]
    pub fixed: Option<Factor>,
    /// Compute the tokens that a batch's rows all begin with once.
    pub share_prefix: bool,
    /// Most tokens computed in one pass, a shared prefix counted once where it is surely computed once;
    /// [`Portions::training_tokens`] where nothing is said. A larger batch is split, and its gradient stays the same but for
    /// rounding. Bounds memory: the default model keeps about 0.8 MB a token in `f32` with adapters on q and v, 1.1 MB with
    /// all.
    pub pass_tokens: Option<usize>,
    /// As [`TrainerSettings::checkpoint_activations`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub checkpoint_activations: bool,
    /// Where the response of a row ends.
    #[serde(skip_serializing_if = "ends_with_token")]
    pub end: RowEnd,
    /// Parts that a batch is cut into and that are computed side by side on a CPU; a property of the result, which differs by
    /// rounding from one number to another. A GPU computes a batch whole.
    pub shards: usize,
}

/// A setting that is as it was before there was one does not tell runs apart.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn ends_with_token(end: &RowEnd) -> bool {
    *end == RowEnd::Token
}

impl SftSettings {
    /// `steps` steps at a constant learning rate, without decay, clipping or corrections.
    pub fn new(steps: usize, batch_size: usize, learning_rate: f64) -> Self {
        Self {
            steps,
            batch_size,
            learning_rate,
            weight_decay: 0.0,
            max_grad_norm: None,
            schedule: LrSchedule::Constant,
            proximal_mu: 0.0,
            drift_correction: None,
            fixed: None,
            share_prefix: true,
            pass_tokens: None,
            checkpoint_activations: false,
            end: RowEnd::Token,
            shards: 1,
        }
    }

    /// The learning rates of all steps, added up.
    pub fn learning_rate_sum(&self) -> f64 {
        (0..self.steps).map(|step| self.learning_rate * self.schedule.factor(step, self.steps)).sum()
    }
}

/// Rows to fine-tune on, and how much the loss of each counts.
#[derive(Clone, Copy, Debug)]
pub struct SftRows<'a> {
    rows: &'a [TokenizedRow],
    /// One a row; `None` where every row counts once.
    weights: Option<&'a [f64]>,
}

impl<'a> SftRows<'a> {
    /// Rows of which each has a weight of its own, 0 or above.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] if there is not one usable weight a row.
    pub fn weighted(rows: &'a [TokenizedRow], weights: &'a [f64]) -> Result<Self> {
        let problem = if rows.len() != weights.len() {
            format!("there are {} weights for {} rows", weights.len(), rows.len())
        } else if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            format!("a row's weight is {weight}; it must be 0 or above")
        } else {
            return Ok(Self { rows, weights: Some(weights) });
        };
        Err(ModelError::Unusable(problem))
    }

    fn row(&self, index: usize) -> Weighed<'a> {
        Weighed { row: &self.rows[index], weight: self.weights.map_or(1.0, |weights| weights[index]) }
    }
}

impl<'a> From<&'a [TokenizedRow]> for SftRows<'a> {
    fn from(rows: &'a [TokenizedRow]) -> Self {
        Self { rows, weights: None }
    }
}

impl<'a> From<&'a Vec<TokenizedRow>> for SftRows<'a> {
    fn from(rows: &'a Vec<TokenizedRow>) -> Self {
        rows.as_slice().into()
    }
}

/// The random streams of one training.
#[derive(Clone, Debug)]
pub struct TrainStreams {
    /// Decides the order of the rows.
    pub order: ChaCha8Rng,
    /// Decides what dropout zeroes.
    pub dropout: ChaCha8Rng,
}

impl TrainStreams {
    /// The streams of a client's training in a round, or with `None` of the server's.
    pub fn of(seed: u64, round: RoundId, client: Option<ClientId>) -> Self {
        Self {
            order: stream(seed, Purpose::BatchOrder, round, client),
            dropout: stream(seed, Purpose::Dropout, round, client),
        }
    }

    /// The streams of the server's training on preferences in a round.
    pub fn of_preferences(seed: u64, round: RoundId) -> Self {
        // The "client" of this purpose tells order and dropout apart.
        let part = |part| stream(seed, Purpose::Preferences, round, Some(ClientId(part)));
        Self { order: part(0), dropout: part(1) }
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Counted from 1.
    pub step: usize,
    /// Mean over the batch's response tokens, each times the weight of its row, before the step.
    pub loss: f64,
    /// Tokens of the batch's rows.
    pub tokens: usize,
    /// Before clipping.
    pub grad_norm: f64,
    /// Of this step.
    pub learning_rate: f64,
}

/// What fine-tuning gives.
#[derive(Clone, Debug, PartialEq)]
pub struct SftOutcome {
    /// The adapter after the last step.
    pub adapter: Adapter,
    /// Optimizer steps done.
    pub steps: usize,
    /// Tokens of all rows of all batches, shared prefixes counted for each row.
    pub tokens: u64,
    /// The loss of each step.
    pub losses: Vec<f64>,
}

impl SftOutcome {
    /// Mean loss over the steps; 0 without any.
    pub fn mean_loss(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64
    }
}

/// Fine-tunes the trainable adapter of `start` on the responses of `rows`, with the share `dropout` of A's inputs zeroed.
///
/// Each step takes the next `batch_size` rows of a shuffle, which is drawn anew whenever it runs out, and lowers
///
/// `Σ w_i · −log π(response_i) / Σ n_i`
///
/// over the batch, with `w_i` the weight of a row and `n_i` its response tokens: a row of weight w pulls w times as hard as
/// one of weight 1. The same arguments give the same bytes on the CPU.
///
/// # Errors
///
/// [`ModelError::Unusable`] if rows, adapter or settings cannot be used; [`ModelError::Cancelled`] soon after the flag
/// was raised.
#[expect(clippy::too_many_arguments, reason = "all that the result depends on, and who hears of it")]
pub fn train_sft<'r, 's>(
    model: &BaseModel,
    start: impl Into<LoraRef<'s>>,
    dropout: f64,
    rows: impl Into<SftRows<'r>>,
    settings: &SftSettings,
    streams: TrainStreams,
    cancel: &CancelFlag,
    on_step: &mut dyn FnMut(&StepReport),
) -> Result<SftOutcome> {
    let (rows, start): (SftRows<'_>, LoraRef<'_>) = (rows.into(), start.into());
    check(rows.rows, settings, start.trainable)?;
    let pass_tokens = settings.pass_tokens.unwrap_or(Portions::on(model.device()).training_tokens);
    let training = || {
        let shards = settings.shards.clamp(1, settings.batch_size);
        let dropout = (dropout, &streams.dropout);
        let mut shards = Shards::new(shards, model, start, trainer_settings(settings), dropout, cancel)?;
        let corrections = Corrections::new(&mut shards.first, settings)?;
        let mut batches = Batches::new(rows.rows.len(), settings.batch_size, streams.order);
        let mut tokens = 0;
        let mut losses = Vec::with_capacity(settings.steps);
        for step in 0..settings.steps {
            if cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            let batch: Vec<Weighed<'_>> = batches.next_batch().into_iter().map(|row| rows.row(row)).collect();
            let loss = shards.accumulate_mean_loss(&batch, pass_tokens)?;
            let learning_rate = settings.learning_rate * settings.schedule.factor(step, settings.steps);
            corrections.before_step(&mut shards.first)?;
            let grad_norm = shards.first.step(learning_rate)?;
            corrections.after_step(&mut shards.first, learning_rate)?;
            shards.share_values()?;
            let batch_tokens = batch.iter().map(|weighed| weighed.row.ids.len()).sum();
            tokens += batch_tokens as u64;
            losses.push(loss);
            on_step(&StepReport { step: step + 1, loss, tokens: batch_tokens, grad_norm, learning_rate });
        }
        Ok(SftOutcome { adapter: shards.first.adapter()?, steps: settings.steps, tokens, losses })
    };
    model.compute(Work::Training { pass_tokens }, training)
}

fn trainer_settings(settings: &SftSettings) -> TrainerSettings {
    TrainerSettings {
        adam: AdamSettings { weight_decay: settings.weight_decay, ..AdamSettings::default() },
        max_grad_norm: settings.max_grad_norm,
        share_prefix: settings.share_prefix,
        checkpoint_activations: settings.checkpoint_activations,
    }
}

fn check(rows: &[TokenizedRow], settings: &SftSettings, start: &Adapter) -> Result<()> {
    let problem = if rows.is_empty() {
        "there are no rows to train on".into()
    } else if settings.batch_size == 0 {
        "batch_size is 0; it must be at least 1".into()
    } else if !(settings.learning_rate.is_finite() && settings.learning_rate >= 0.0) {
        format!("learning_rate is {}; it must be 0 or above", settings.learning_rate)
    } else if settings.drift_correction.as_ref().is_some_and(|drift| drift.len() != start.values().len()) {
        "the drift correction and the adapter differ in length".into()
    } else {
        return Ok(());
    };
    Err(ModelError::Unusable(problem))
}

/// What federated algorithms add to plain fine-tuning.
struct Corrections {
    /// FedProx: strength and start.
    proximal: Option<(f64, tch::Tensor)>,
    /// SCAFFOLD: `c − c_i`.
    drift: Option<tch::Tensor>,
    /// FFA-LoRA: which numbers stay, and the values that they have.
    fixed: Option<(tch::Tensor, tch::Tensor)>,
}

impl Corrections {
    fn new(trainer: &mut AdapterTrainer, settings: &SftSettings) -> Result<Self> {
        let values = trainer.values_mut();
        let proximal = (settings.proximal_mu != 0.0)
            .then(|| Ok::<_, ModelError>((settings.proximal_mu, values.f_mul_scalar(1.0)?)))
            .transpose()?;
        let drift = settings
            .drift_correction
            .as_ref()
            .map(|drift| Ok::<_, ModelError>(tch::Tensor::f_from_slice(drift)?.f_to_device(values.device())?))
            .transpose()?;
        let fixed = settings
            .fixed
            .map(|factor| {
                let is_fixed = is_fixed(trainer.layout(), factor);
                let values = trainer.values_mut();
                let mask = tch::Tensor::f_from_slice(&is_fixed)?.f_to_device(values.device())?;
                Ok::<_, ModelError>((mask, values.f_mul_scalar(1.0)?))
            })
            .transpose()?;
        Ok(Self { proximal, drift, fixed })
    }

    fn before_step(&self, trainer: &mut AdapterTrainer) -> Result<()> {
        if let Some((mu, start)) = &self.proximal {
            let pull = trainer.values_mut().f_sub(start)?.f_mul_scalar_(*mu)?;
            let _ = trainer.grads_mut().f_add_(&pull)?;
        }
        if let Some((mask, _)) = &self.fixed {
            let _ = trainer.grads_mut().f_masked_fill_(mask, 0.0)?;
        }
        Ok(())
    }

    fn after_step(&self, trainer: &mut AdapterTrainer, learning_rate: f64) -> Result<()> {
        if let Some(drift) = &self.drift {
            let _ = trainer.values_mut().f_sub_(&drift.f_mul_scalar(learning_rate)?)?;
        }
        if let Some((mask, start)) = &self.fixed {
            // Weight decay moves what has no gradient, too.
            let values = trainer.values_mut();
            let kept = start.f_where_self(mask, values)?;
            values.f_copy_(&kept)?;
        }
        Ok(())
    }
}

/// Which numbers of an adapter belong to a factor.
fn is_fixed(layout: &AdapterLayout, factor: Factor) -> Vec<bool> {
    let of = |tensor: &AdapterTensor| std::iter::repeat_n(Factor::of(tensor) == Some(factor), tensor.len());
    layout.tensors().iter().flat_map(of).collect()
}
