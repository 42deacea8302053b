//! Direct Preference Optimization (Rafailov et al., 2023) on pairs of responses.

use fedward_actors::{CancelFlag, protocol::Adapter};
use serde::Serialize;

use super::{
    batches::Batches,
    optimizer::AdamSettings,
    schedule::LrSchedule,
    sft::TrainStreams,
    shards::Shards,
    trainer::{AdapterTrainer, TrainerSettings},
};
use crate::{
    data::PreferencePair,
    lora::LoraRef,
    model::{
        BaseModel, ChatModel, ModelError, Portions, Result, TokenizedRow, Work, device::compute_threads,
        score_side_by_side,
    },
};

/// Two responses to one prompt as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedPair {
    /// The response to prefer.
    pub chosen: TokenizedRow,
    /// The other one.
    pub rejected: TokenizedRow,
}

impl TokenizedPair {
    /// A pair as token ids, each side cut to `max_length` tokens; `None` if a side then has no response, or both are
    /// the same.
    ///
    /// # Errors
    ///
    /// What the tokenizer complains of.
    pub fn of(model: &ChatModel, pair: &PreferencePair, max_length: usize) -> Result<Option<Self>> {
        let side = |row| model.row_ids(row, max_length);
        let sides = side(&pair.chosen)?.zip(side(&pair.rejected)?);
        Ok(sides.filter(|(chosen, rejected)| chosen != rejected).map(|(chosen, rejected)| Self { chosen, rejected }))
    }

    /// Tokens of both rows.
    pub const fn tokens(&self) -> usize {
        self.chosen.ids.len() + self.rejected.ids.len()
    }
}

/// How an adapter is trained on preferences.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DpoSettings {
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs a step; all pairs where there are fewer.
    pub batch_size: usize,
    /// Highest learning rate of the schedule.
    pub learning_rate: f64,
    /// β: how strongly the policy is held to its reference.
    pub beta: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are scaled down to it.
    pub max_grad_norm: Option<f64>,
    /// How the learning rate moves.
    pub schedule: LrSchedule,
    /// Most tokens computed in one pass, as [`SftSettings::pass_tokens`](super::SftSettings::pass_tokens), but each row's counted
    /// whole; a pair is never split.
    pub pass_tokens: Option<usize>,
    /// As [`TrainerSettings::checkpoint_activations`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub checkpoint_activations: bool,
    /// As [`SftSettings::shards`](super::SftSettings::shards).
    pub shards: usize,
}

impl DpoSettings {
    /// `steps` steps at a constant learning rate with β = 0.1, without decay or clipping.
    pub fn new(steps: usize, batch_size: usize, learning_rate: f64) -> Self {
        Self {
            steps,
            batch_size,
            learning_rate,
            beta: 0.1,
            weight_decay: 0.0,
            max_grad_norm: None,
            schedule: LrSchedule::Constant,
            pass_tokens: None,
            checkpoint_activations: false,
            shards: 1,
        }
    }
}

/// What one step did. Rewards are DPO's implicit ones, `β · (log π − log π_ref)`, before the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpoStep {
    /// Counted from 1.
    pub step: usize,
    /// Mean over the batch's pairs.
    pub loss: f64,
    /// Reward of the chosen minus that of the rejected response, mean over the pairs.
    pub margin: f64,
    /// Share of the pairs whose chosen response has the higher reward.
    pub accuracy: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Of this step.
    pub learning_rate: f64,
}

/// What training on preferences gives.
#[derive(Clone, Debug, PartialEq)]
pub struct DpoOutcome {
    /// The adapter after the last step.
    pub adapter: Adapter,
    /// Each step.
    pub steps: Vec<DpoStep>,
    /// Tokens of all rows of all batches, both sides of each pair.
    pub tokens: u64,
    /// Tokens whose likelihood under the reference was computed, once a pair.
    pub reference_tokens: u64,
}

impl DpoOutcome {
    /// Mean over the steps of one of their numbers; 0 without any.
    pub fn mean(&self, number: fn(&DpoStep) -> f64) -> f64 {
        self.steps.iter().map(number).sum::<f64>() / self.steps.len().max(1) as f64
    }
}

/// DPO's loss of one pair, `−log σ(z)`, and `−∂loss/∂z = σ(−z)`.
///
/// `z = β · ((log π(chosen) − log π_ref(chosen)) − (log π(rejected) − log π_ref(rejected)))` is the reward margin, each
/// likelihood the sum over the response's tokens (Rafailov et al., 2023, equation 7).
pub fn dpo_loss(margin: f64) -> (f64, f64) {
    // log(1 + exp(−z)) without overflow on either side.
    let loss = (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
    (loss, 1.0 / (1.0 + margin.exp()))
}

/// Trains the trainable adapter of `start` to prefer the chosen responses; the reference is `start` itself. There is no dropout
/// here, as in TRL: it would set policy and reference apart before anything is learnt.
///
/// Each step takes the next `batch_size` pairs of a shuffle, which is drawn anew whenever it runs out. Likelihoods under
/// the reference are computed once, before the first step, and only of pairs that a step will see. The same arguments
/// give the same bytes on the CPU.
///
/// # Errors
///
/// [`ModelError::Unusable`] if pairs, adapter or settings cannot be used; [`ModelError::Cancelled`] soon after the flag
/// was raised.
pub fn train_dpo<'s>(
    model: &BaseModel,
    start: impl Into<LoraRef<'s>>,
    pairs: &[TokenizedPair],
    settings: &DpoSettings,
    streams: TrainStreams,
    cancel: &CancelFlag,
    on_step: &mut dyn FnMut(&DpoStep),
) -> Result<DpoOutcome> {
    check(pairs, settings)?;
    let start: LoraRef<'_> = start.into();
    let mut batches = Batches::new(pairs.len(), settings.batch_size, streams.order);
    let batches: Vec<Vec<usize>> = (0..settings.steps).map(|_| batches.next_batch()).collect();
    let (references, reference_tokens) = reference_margins(model, start, pairs, &batches, settings, cancel)?;
    let pass_tokens = settings.pass_tokens.unwrap_or(Portions::on(model.device()).training_tokens);
    let training = || {
        let shards = settings.shards.clamp(1, settings.batch_size);
        let no_dropout = (0.0, &streams.dropout);
        let mut shards = Shards::new(shards, model, start, trainer_settings(settings), no_dropout, cancel)?;
        let mut steps = Vec::with_capacity(settings.steps);
        let mut tokens = 0;
        for (index, batch) in batches.iter().enumerate() {
            if cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            let batch: Vec<Judged<'_>> =
                batch.iter().map(|&pair| Judged { pair: &pairs[pair], reference: references[pair] }).collect();
            let margins = accumulate_mean_loss(&mut shards, &batch, settings.beta, pass_tokens)?;
            let learning_rate = settings.learning_rate * settings.schedule.factor(index, settings.steps);
            let grad_norm = shards.first.step(learning_rate)?;
            shards.share_values()?;
            tokens += batch.iter().map(|judged| judged.pair.tokens() as u64).sum::<u64>();
            let step = step_report(index + 1, &margins, grad_norm, learning_rate);
            on_step(&step);
            steps.push(step);
        }
        Ok(DpoOutcome { adapter: shards.first.adapter()?, steps, tokens, reference_tokens })
    };
    model.compute(Work::Training { pass_tokens }, training)
}

fn trainer_settings(settings: &DpoSettings) -> TrainerSettings {
    TrainerSettings {
        adam: AdamSettings { weight_decay: settings.weight_decay, ..AdamSettings::default() },
        max_grad_norm: settings.max_grad_norm,
        share_prefix: true,
        checkpoint_activations: settings.checkpoint_activations,
    }
}

fn check(pairs: &[TokenizedPair], settings: &DpoSettings) -> Result<()> {
    let problem = if pairs.is_empty() {
        "there are no pairs to train on".into()
    } else if settings.batch_size == 0 {
        "batch_size is 0; it must be at least 1".into()
    } else if !(settings.learning_rate.is_finite() && settings.learning_rate >= 0.0) {
        format!("learning_rate is {}; it must be 0 or above", settings.learning_rate)
    } else if !(settings.beta.is_finite() && settings.beta > 0.0) {
        format!("beta is {}; it must be above 0", settings.beta)
    } else {
        return Ok(());
    };
    Err(ModelError::Unusable(problem))
}

/// A pair with what the reference says of it.
#[derive(Clone, Copy)]
struct Judged<'a> {
    pair: &'a TokenizedPair,
    /// `log π_ref(chosen) − log π_ref(rejected)`.
    reference: f64,
}

/// For each pair `log π_ref(chosen) − log π_ref(rejected)`, 0 for pairs that no batch holds; and the tokens computed.
fn reference_margins(
    model: &BaseModel,
    reference: LoraRef<'_>,
    pairs: &[TokenizedPair],
    batches: &[Vec<usize>],
    settings: &DpoSettings,
    cancel: &CancelFlag,
) -> Result<(Vec<f64>, u64)> {
    let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
    seen.sort_unstable();
    seen.dedup();
    let rows: Vec<TokenizedRow> =
        seen.iter().flat_map(|&pair| [pairs[pair].chosen.clone(), pairs[pair].rejected.clone()]).collect();
    let threads = settings.shards.min(compute_threads(model.device()));
    let scores = score_side_by_side(model, Some(reference), &rows, threads, cancel)?;
    let mut margins = vec![0.0; pairs.len()];
    for (&pair, sides) in seen.iter().zip(scores.chunks(2)) {
        if let [chosen, rejected] = sides {
            margins[pair] = chosen.log_likelihood - rejected.log_likelihood;
        }
    }
    Ok((margins, rows.iter().map(|row| row.ids.len() as u64).sum()))
}

/// Accumulates the gradient of the mean loss over a batch, and returns the reward margin of each pair.
fn accumulate_mean_loss(
    shards: &mut Shards<'_>,
    batch: &[Judged<'_>],
    beta: f64,
    pass_tokens: usize,
) -> Result<Vec<f64>> {
    let weight = 1.0 / batch.len() as f64;
    let parts = shards.each_part(batch, |trainer, part| accumulate(trainer, part, weight, beta, pass_tokens))?;
    Ok(parts.concat())
}

/// Accumulates the gradient of a part, pass by pass, and returns its reward margins.
fn accumulate(
    trainer: &mut AdapterTrainer<'_>,
    mut rest: &[Judged<'_>],
    weight: f64,
    beta: f64,
    pass_tokens: usize,
) -> Result<Vec<f64>> {
    let mut margins = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|judged| {
            tokens += judged.pair.tokens();
            tokens <= pass_tokens
        });
        let (pass, later) = rest.split_at(fitting.count().max(1));
        let rows: Vec<&TokenizedRow> =
            pass.iter().flat_map(|judged| [&judged.pair.chosen, &judged.pair.rejected]).collect();
        trainer.accumulate(&rows, &mut |scores| {
            let mut weights = Vec::with_capacity(scores.len());
            for (judged, sides) in pass.iter().zip(scores.chunks(2)) {
                let [chosen, rejected] = sides else { continue };
                let margin = beta * (chosen.log_likelihood - rejected.log_likelihood - judged.reference);
                let (_, slope) = dpo_loss(margin);
                let pull = weight * beta * slope;
                weights.extend([pull, -pull]);
                margins.push(margin);
            }
            weights
        })?;
        rest = later;
    }
    Ok(margins)
}

fn step_report(step: usize, margins: &[f64], grad_norm: f64, learning_rate: f64) -> DpoStep {
    let n = margins.len().max(1) as f64;
    DpoStep {
        step,
        loss: margins.iter().map(|&margin| dpo_loss(margin).0).sum::<f64>() / n,
        margin: margins.iter().sum::<f64>() / n,
        accuracy: margins.iter().filter(|&&margin| margin > 0.0).count() as f64 / n,
        grad_norm,
        learning_rate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_exact_on_both_sides_and_far_out() {
        // −log σ(z) and σ(−z) as numpy gives them in long double.
        for (margin, loss, slope) in [
            (0.0, std::f64::consts::LN_2, 0.5),
            (1.5, 0.201_413_277_982_752_4, 0.182_425_523_806_356_34),
            (-1.5, 1.701_413_277_982_752_4, 0.817_574_476_193_643_7),
            (40.0, 4.248_354_255_291_589e-18, 4.248_354_255_291_589e-18),
            (-800.0, 800.0, 1.0),
        ] {
            let (found_loss, found_slope) = dpo_loss(margin);
            assert!((found_loss - loss).abs() <= 1e-14 * loss, "{margin}: {found_loss}");
            assert!((found_slope - slope).abs() <= 1e-14 * slope, "{margin}: {found_slope}");
        }
    }

    #[test]
    fn a_step_counts_pairs_that_are_ranked_right() {
        let step = step_report(1, &[1.0, -1.0, 0.5, 0.0], 2.0, 0.1);
        assert!((step.margin - 0.125).abs() < 1e-12 && (step.accuracy - 0.5).abs() < 1e-12);
    }
}
