//! The two trainings of a realignment: supervised on revisions, then on preferences for revisions over answers.

use std::time::Instant;

use fedward_actors::{
    ports::{Cost, PortResult, PreferenceReport},
    protocol::{Adapter, ChatRow, RoundId},
    streams::{Purpose, stream},
};
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use super::{CaiGenerator, generator::Work};
use crate::{
    data::PreferencePair,
    train::{DpoSettings, DpoStep, Flops, SftSettings, StepReport, TokenizedPair, TrainStreams, train_dpo, train_sft},
};

/// How much a realignment trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// The given number of steps.
    #[default]
    Light,
    /// As many steps as see everything once.
    Full,
}

impl Effort {
    /// Steps of `batch_size` items out of `items`.
    pub fn steps(self, steps: usize, items: usize, batch_size: usize) -> usize {
        match self {
            Self::Light => steps,
            Self::Full => items.div_ceil(batch_size.max(1)),
        }
    }
}

/// What supervised fine-tuning gives.
pub(super) struct Tuned {
    pub(super) adapter: Adapter,
    pub(super) steps: u64,
    pub(super) mean_loss: f64,
    pub(super) train_tokens: u64,
    pub(super) cost: Cost,
}

/// What training on preferences gives.
pub(super) struct Preferred {
    pub(super) adapter: Adapter,
    pub(super) report: PreferenceReport,
    pub(super) train_tokens: u64,
    pub(super) cost: Cost,
}

impl CaiGenerator {
    /// Fine-tunes on answers to red prompts, with benign rows mixed in: so many steps, or else as many as are configured.
    pub(super) fn tune(
        &self,
        work: Work<'_>,
        start: &Adapter,
        answers: Vec<ChatRow>,
        steps: Option<usize>,
    ) -> PortResult<Tuned> {
        let Work { round, cancel, .. } = work;
        let start = work.on(start);
        let started = Instant::now();
        let rows = self.with_benign_rows(round, answers);
        let rows = self.model.tokenize_up_to(self.settings.sft.end, &rows, self.settings.max_length)?;
        let configured = &self.settings.sft;
        let of_effort = || self.settings.effort.steps(configured.steps, rows.len(), configured.batch_size);
        let steps = steps.unwrap_or_else(of_effort);
        let settings = SftSettings { steps, ..configured.clone() };
        let streams = TrainStreams::of(self.settings.seed, round, None);
        self.progress.part("fine-tuning");
        let mut on_step = |step: &StepReport| self.progress.step(step.step as u64, steps as u64);
        let done = train_sft(&self.model.base, start, self.dropout, &rows, &settings, streams, cancel, &mut on_step)?;
        let flops = Flops::of(&self.model.base, start).training(done.tokens);
        Ok(Tuned {
            mean_loss: done.mean_loss(),
            steps: done.steps as u64,
            train_tokens: done.tokens,
            cost: Cost { seconds: started.elapsed().as_secs_f64(), tokens: done.tokens, flops },
            adapter: done.adapter,
        })
    }

    /// How many benign rows are mixed in with so many answers.
    pub(super) fn benign_rows_beside(&self, answers: usize) -> usize {
        let share = self.settings.benign_share;
        (answers as f64 * share / (1.0 - share)).round() as usize
    }

    fn with_benign_rows(&self, round: RoundId, mut rows: Vec<ChatRow>) -> Vec<ChatRow> {
        let benign = self.benign_rows_beside(rows.len());
        let mut rng = stream(self.settings.seed, Purpose::Rows, round, None);
        rows.extend(self.benign.sample(&mut rng, benign).cloned());
        rows.shuffle(&mut rng);
        rows
    }

    /// Pairs as token ids; those whose sides are the same within the length are left out.
    pub(super) fn tokenized_pairs(&self, pairs: &[PreferencePair]) -> PortResult<Vec<TokenizedPair>> {
        let tokenized = pairs.iter().map(|pair| TokenizedPair::of(&self.model, pair, self.settings.max_length));
        Ok(tokenized.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Trains on preferences; the reference is `start`.
    pub(super) fn prefer(&self, work: Work<'_>, start: &Adapter, pairs: &[TokenizedPair]) -> PortResult<Preferred> {
        let Work { round, cancel, .. } = work;
        let start = work.on(start);
        let started = Instant::now();
        let configured = &self.settings.dpo;
        let steps = self.settings.effort.steps(configured.steps, pairs.len(), configured.batch_size);
        let settings = DpoSettings { steps, ..configured.clone() };
        let streams = TrainStreams::of_preferences(self.settings.seed, round);
        self.progress.part("training on preferences");
        let mut on_step = |step: &DpoStep| self.progress.step(step.step as u64, steps as u64);
        let done = train_dpo(&self.model.base, start, pairs, &settings, streams, cancel, &mut on_step)?;
        let last = done.steps.last();
        let report = PreferenceReport {
            pairs: pairs.len() as u64,
            steps: done.steps.len() as u64,
            mean_loss: done.mean(|step| step.loss),
            reward_margin: last.map_or(0.0, |step| step.margin),
            reward_accuracy: last.map_or(0.0, |step| step.accuracy),
        };
        let flops = Flops::of(&self.model.base, start);
        let cost = Cost {
            seconds: started.elapsed().as_secs_f64(),
            tokens: done.tokens + done.reference_tokens,
            flops: flops.training(done.tokens) + flops.forward(done.reference_tokens),
        };
        Ok(Preferred { adapter: done.adapter, report, train_tokens: done.tokens, cost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_effort_sees_everything_once() {
        assert_eq!(Effort::Full.steps(3, 17, 8), 3);
        assert_eq!(Effort::Full.steps(3, 3, 8), 1);
        assert_eq!(Effort::Light.steps(3, 1_000, 8), 3);
    }
}
