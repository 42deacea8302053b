//! Constitutional AI behind the actors' port: generate, then fine-tune.

use std::sync::Arc;

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult, Realigner, Realignment, RealignmentReport},
    protocol::{Adapter, ChatRow, RoundId},
    streams::{Purpose, stream},
};
use rand::seq::{IndexedRandom, SliceRandom};

use super::{Constitution, Dialogue, Revisions, revisions::Speaker};
use crate::{
    lora::{LoraConfig, LoraRef},
    model::{ChatModel, Decoding},
    train::{SftSettings, TrainStreams, train_sft},
};

/// Revisions below which fine-tuning on them would teach more of their accidents than of their manners.
const FEWEST_REVISIONS: usize = 4;

/// How the CAI generator works.
#[derive(Clone, Debug)]
pub struct CaiSettings {
    /// What all random streams come from.
    pub seed: u64,
    /// Red prompts a realignment.
    pub red_prompts: usize,
    /// How answers, critiques and revisions are decoded.
    pub decoding: Decoding,
    /// Share of benign rows mixed in.
    pub benign_share: f64,
    /// Tokens after which a row is cut.
    pub max_length: usize,
    /// Fine-tuning on revisions.
    pub training: SftSettings,
}

/// Realigns the global adapter on the server.
pub struct CaiGenerator {
    /// The base model.
    pub model: Arc<ChatModel>,
    /// The adapter's size and place.
    pub lora: LoraConfig,
    /// Principles to criticise and revise by.
    pub constitution: Constitution,
    /// Red prompts to draw from.
    pub red_prompts: Vec<String>,
    /// Benign rows to mix in.
    pub benign: Vec<ChatRow>,
    /// Who judges revisions, if anybody does.
    pub guard: Option<Arc<dyn GuardModel>>,
    /// How it works.
    pub settings: CaiSettings,
}

impl Realigner for CaiGenerator {
    fn realign(&self, round: RoundId, global: &Adapter, cancel: &CancelFlag) -> PortResult<Realignment> {
        let revisions = self.generate(round, global, cancel)?;
        let kept = revisions.kept.len();
        if kept < FEWEST_REVISIONS {
            let problem = format!(
                "only {kept} of {} revisions survived ({:?} discarded), fewer than {FEWEST_REVISIONS}: not realigned",
                self.settings.red_prompts, revisions.discarded
            );
            return Err(PortError::Failed(problem));
        }
        let rows = self.training_rows(round, &revisions.kept);
        let tokenized = self.model.tokenize(&rows, self.settings.max_length)?;
        let streams = TrainStreams::of(self.settings.seed, round, None);
        let outcome = train_sft(
            &self.model.base,
            &self.lora,
            global,
            &tokenized,
            &self.settings.training,
            streams,
            cancel,
            &mut |_| {},
        )?;
        let report = RealignmentReport {
            red_prompts: self.settings.red_prompts.min(self.red_prompts.len()) as u64,
            revisions: kept as u64,
            discarded: revisions.discarded,
            generated_tokens: revisions.generated_tokens,
            steps: outcome.steps as u64,
            train_tokens: outcome.tokens,
            mean_loss: Some(outcome.mean_loss()).filter(|loss| loss.is_finite()),
        };
        Ok(Realignment { adapter: outcome.adapter, report })
    }
}

impl CaiGenerator {
    /// The three turns on this round's red prompts.
    ///
    /// # Errors
    ///
    /// [`PortError`] if generation or the guard fails.
    pub fn generate(&self, round: RoundId, global: &Adapter, cancel: &CancelFlag) -> PortResult<Revisions> {
        let mut rng = stream(self.settings.seed, Purpose::RedPrompts, round, None);
        let prompts: Vec<String> = self.red_prompts.sample(&mut rng, self.settings.red_prompts).cloned().collect();
        let speaker = Speaker {
            model: &self.model,
            adapter: LoraRef { config: &self.lora, adapter: global },
            decoding: self.settings.decoding,
            seed: self.settings.seed,
            round,
            cancel,
        };
        speaker.revise(&prompts, &self.constitution, self.guard.as_ref())
    }

    /// Revisions as answers to their red prompts, with benign rows mixed in.
    fn training_rows(&self, round: RoundId, dialogues: &[Dialogue]) -> Vec<ChatRow> {
        let mut rows: Vec<_> =
            dialogues.iter().map(|dialogue| ChatRow::single_turn(&dialogue.prompt, &dialogue.revision)).collect();
        let share = self.settings.benign_share;
        let benign = (rows.len() as f64 * share / (1.0 - share)).round() as usize;
        let mut rng = stream(self.settings.seed, Purpose::Rows, round, None);
        rows.extend(self.benign.sample(&mut rng, benign).cloned());
        rows.shuffle(&mut rng);
        rows
    }
}
