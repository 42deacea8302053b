//! A batch cut into a fixed number of parts, which are computed side by side.

use fedward_actors::CancelFlag;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::trainer::{AdapterTrainer, TrainerSettings};
use crate::{
    lora::LoraRef,
    model::{BaseModel, ModelError, Result, RowScore, TokenizedRow, device, within_memory},
};

/// Parts of a batch where one training has the machine to itself: the server's, and those of the command line.
pub const LONE_SHARDS: usize = 2;

/// A row of a batch, and how much its loss counts.
#[derive(Clone, Copy)]
pub(super) struct Weighed<'a> {
    pub(super) row: &'a TokenizedRow,
    pub(super) weight: f64,
}

/// One trainer a part. The number of parts belongs to the computation and not to the machine: gradients are added in
/// the order of the parts, so a result does not depend on how many cores there are.
pub(super) struct Shards<'a> {
    /// Keeps the adapter and its optimizer.
    pub(super) first: AdapterTrainer<'a>,
    others: Vec<AdapterTrainer<'a>>,
    /// Parts are computed one after another: this process has one thread.
    in_turn: bool,
}

impl<'a> Shards<'a> {
    pub(super) fn new(
        count: usize,
        model: &'a BaseModel,
        start: LoraRef<'_>,
        settings: TrainerSettings,
        (dropout, rng): (f64, &ChaCha8Rng),
        cancel: &'a CancelFlag,
    ) -> Result<Self> {
        let trainer = |index: usize| {
            let mut rng = rng.clone();
            rng.set_stream(index as u64);
            AdapterTrainer::new(model, start, settings, dropout, rng, cancel)
        };
        let in_turn = device::compute_threads(model.device()) == 1;
        // Parts would only make a GPU's operations smaller.
        let count = if model.device() == Device::Cpu { count } else { 1 };
        Ok(Self { first: trainer(0)?, others: (1..count).map(trainer).collect::<Result<_>>()?, in_turn })
    }

    /// Accumulates the gradient of the mean loss over all response tokens of a batch, each times the weight of its row, and
    /// returns that loss.
    ///
    /// The mean is over the tokens, whatever they weigh: divided by their weights, a batch of nothing but light rows would
    /// pull as hard as any other.
    pub(super) fn accumulate_mean_loss(&mut self, batch: &[Weighed<'_>], pass_tokens: usize) -> Result<f64> {
        let total: usize = batch.iter().map(|weighed| predicted(weighed.row)).sum();
        if total == 0 {
            return Err(ModelError::Unusable(
                "no row of a batch has a response token to learn from; are responses truncated away?".into(),
            ));
        }
        let token_weight = 1.0 / total as f64;
        let batch = balanced(batch, 1 + self.others.len());
        let sums = self.each_part(&batch, |trainer, part| accumulate(trainer, part, token_weight, pass_tokens))?;
        Ok(-sums.iter().sum::<f64>() * token_weight)
    }

    /// Lets every trainer work on its part of a batch, side by side, and adds up the gradients that they accumulate.
    /// Returns what the parts return, in their order.
    pub(super) fn each_part<T: Sync, R: Send>(
        &mut self,
        batch: &[T],
        work: impl Fn(&mut AdapterTrainer<'_>, &[T]) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let mut parts = batch.chunks(batch.len().div_ceil(1 + self.others.len()).max(1));
        let own = parts.next().unwrap_or_default();
        let work = |trainer: &mut AdapterTrainer<'_>, part: &[T]| within_memory(|| work(trainer, part));
        let work = &work;
        let others = self.others.iter_mut().zip(parts);
        let mut results;
        if self.in_turn {
            results = vec![work(&mut self.first, own)];
            results.extend(others.map(|(trainer, part)| work(trainer, part)));
        } else {
            results = std::thread::scope(|scope| {
                let running: Vec<_> = others.map(|(trainer, part)| scope.spawn(move || work(trainer, part))).collect();
                let mut results = vec![work(&mut self.first, own)];
                // A panic in a part is a bug, and goes on as one.
                results.extend(
                    running.into_iter().map(|part| part.join().unwrap_or_else(|bug| std::panic::resume_unwind(bug))),
                );
                results
            });
        }
        for other in &mut self.others {
            let grads = other.grads_mut();
            let _ = self.first.grads_mut().f_add_(grads)?;
            let _ = grads.f_zero_()?;
        }
        results.into_iter().collect()
    }

    /// Gives every part the adapter as it stands.
    pub(super) fn share_values(&mut self) -> Result<()> {
        if self.others.is_empty() {
            return Ok(());
        }
        let values: Tensor = self.first.values_mut().shallow_clone();
        for other in &mut self.others {
            other.values_mut().f_copy_(&values)?;
        }
        Ok(())
    }
}

/// The rows of a batch in an order that gives each part about as many tokens: the parts wait for one another.
fn balanced<'r>(batch: &[Weighed<'r>], parts: usize) -> Vec<Weighed<'r>> {
    let rooms: Vec<usize> = batch.chunks(batch.len().div_ceil(parts).max(1)).map(<[_]>::len).collect();
    let mut longest_first = batch.to_vec();
    longest_first.sort_by_key(|weighed| std::cmp::Reverse(weighed.row.ids.len()));
    let mut rows: Vec<Vec<Weighed>> = vec![Vec::new(); rooms.len()];
    let mut tokens = vec![0; rooms.len()];
    for weighed in longest_first {
        let with_room = (0..rooms.len()).filter(|&part| rows[part].len() < rooms[part]);
        let Some(part) = with_room.min_by_key(|&part| tokens[part]) else { break };
        tokens[part] += weighed.row.ids.len();
        rows[part].push(weighed);
    }
    rows.concat()
}

/// Accumulates the gradient of a part, pass by pass, and returns the weighted sum of its log-likelihoods.
fn accumulate(
    trainer: &mut AdapterTrainer<'_>,
    mut rest: &[Weighed<'_>],
    token_weight: f64,
    pass_tokens: usize,
) -> Result<f64> {
    let ids: Vec<&[u32]> = rest.iter().map(|weighed| weighed.row.ids.as_slice()).collect();
    let prefix = trainer.counted_once(&ids);
    let mut sum = 0.0;
    while !rest.is_empty() {
        let mut tokens = prefix;
        let fitting = rest.iter().take_while(|weighed| {
            tokens += weighed.row.ids.len() - prefix;
            tokens <= pass_tokens
        });
        let (pass, later) = rest.split_at(fitting.count().max(1));
        let rows: Vec<&TokenizedRow> = pass.iter().map(|weighed| weighed.row).collect();
        let mut weights_of = |_: &[RowScore]| pass.iter().map(|weighed| token_weight * weighed.weight).collect();
        let scores = trainer.accumulate(&rows, &mut weights_of)?;
        sum += scores.iter().zip(pass).map(|(score, weighed)| weighed.weight * score.log_likelihood).sum::<f64>();
        rest = later;
    }
    Ok(sum)
}

/// Tokens of a row that something predicts.
fn predicted(row: &TokenizedRow) -> usize {
    row.ids.len().saturating_sub(row.response_start.max(1))
}
