//! Constitutional AI behind the actors' port: pairs of answer and revision, then training on them.

use std::{sync::Arc, time::Instant};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{Cost, GuardModel, PortResult, Realigner, Realignment, RealignmentCost, RealignmentReport},
    protocol::{Adapter, ChatMessage, ChatRow, GlobalModel, RoundId},
    streams::{Purpose, stream},
};
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use super::{
    Constitution, Effort, Screened, SelfSpeaker, Speaker,
    revisions::{Guidance, Judge, converse},
    screening::for_preferences,
};
use crate::{
    data::{PreferencePair, Revisions},
    lora::LoraRef,
    model::{ChatModel, Decoding},
    progress::Progress,
    train::{DpoSettings, SftSettings},
};

/// Revisions, or pairs, below which training on them would teach more of their accidents than of their manners. A part
/// that is planned with fewer wants all that was planned.
const FEWEST: usize = 4;

/// Which answers are criticised and revised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Revise {
    /// All, as in huggingface/llm-swarm. An answer that refuses already is then "rejected" for a revision.
    All,
    /// All but those that the guard is sure to be safe, which are fine-tuned on as they are and make no pair.
    Unsafe {
        /// The probability of harm below which it is.
        surely_safe: f64,
    },
}

/// When the constitution's examples are shown to whoever speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Examples {
    /// Before critiques and revisions are asked for: the first answer, which DPO rejects, is the model's own.
    #[default]
    LaterTurns,
    /// In front of all three turns, as in huggingface/llm-swarm.
    AllTurns,
    /// Not at all.
    Never,
}

/// How the CAI generator works.
#[derive(Clone, Debug)]
pub struct CaiSettings {
    /// What all random streams come from.
    pub seed: u64,
    /// Red prompts a realignment.
    pub red_prompts: usize,
    /// How answers, critiques and revisions are decoded.
    pub decoding: Decoding,
    /// Which answers are criticised and revised.
    pub revise: Revise,
    /// When the constitution's examples are shown.
    pub examples: Examples,
    /// Share of the revisions that supervised fine-tuning sees; the rest makes preference pairs.
    pub sft_share: f64,
    /// Share of benign rows mixed into supervised fine-tuning.
    pub benign_share: f64,
    /// Tokens after which a row is cut.
    pub max_length: usize,
    /// Whether trainings take their number of steps or an epoch.
    pub effort: Effort,
    /// Fine-tuning on revisions.
    pub sft: SftSettings,
    /// Training on preferences.
    pub dpo: DpoSettings,
}

/// What answers and revisions come from.
pub enum Material {
    /// They are made in each realignment.
    RedPrompts {
        /// Red prompts to draw from.
        prompts: Vec<Vec<ChatMessage>>,
        /// Principles to criticise and revise by.
        constitution: Constitution,
        /// Who speaks instead of the model itself, if anybody does.
        teacher: Option<Arc<dyn Speaker>>,
    },
    /// They were made before.
    Prepared(Revisions),
    /// None are made: red prompts get fixed refusals, a control ([`super::Method::Refusals`]).
    Refusals {
        /// Red prompts to draw from.
        prompts: Vec<Vec<ChatMessage>>,
    },
}

/// Realigns the global adapter on the server.
pub struct CaiGenerator {
    /// The base model.
    pub model: Arc<ChatModel>,
    /// The share of A's inputs that fine-tuning zeroes.
    pub dropout: f64,
    /// What answers and revisions come from.
    pub material: Material,
    /// Benign rows to mix in.
    pub benign: Vec<ChatRow>,
    /// Who judges revisions, if anybody does.
    pub guard: Option<Arc<dyn GuardModel>>,
    /// How it works.
    pub settings: CaiSettings,
    /// Hears how far a realignment is.
    pub progress: Arc<dyn Progress>,
}

/// Pairs of answer and revision for one realignment, and what they cost.
#[derive(Clone, Debug, Default)]
pub struct Harvest {
    /// Red prompts asked, or prepared pairs and answers looked at.
    pub asked: usize,
    /// What is worth training on.
    pub screened: Screened,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// What all that cost.
    pub cost: Cost,
}

/// One realignment's round, what is frozen beneath the adapter that it trains, and what ends it early.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) round: RoundId,
    pub(super) frozen: &'a [Arc<Adapter>],
    pub(super) cancel: &'a CancelFlag,
}

impl<'a> Work<'a> {
    /// The adapter on top of what is frozen.
    pub(super) const fn on(self, trainable: &'a Adapter) -> LoraRef<'a> {
        LoraRef { frozen: self.frozen, trainable }
    }
}

impl Realigner for CaiGenerator {
    fn realign(&self, round: RoundId, global: &GlobalModel, cancel: &CancelFlag) -> PortResult<Realignment> {
        if let Material::Refusals { prompts } = &self.material {
            return self.refuse(round, global, prompts, cancel);
        }
        let harvest = self.harvest(round, global, cancel)?;
        let Screened { pairs, good_answers, .. } = &harvest.screened;
        let kept = pairs.len() + good_answers.len();
        let mut done = Realignment {
            adapter: global.trainable().clone(),
            report: RealignmentReport {
                red_prompts: harvest.asked as u64,
                revisions: pairs.len() as u64,
                good_answers: good_answers.len() as u64,
                generated_tokens: harvest.generated_tokens,
                cost: RealignmentCost { generate: harvest.cost, ..RealignmentCost::default() },
                ..RealignmentReport::default()
            },
            warnings: Vec::new(),
        };
        if kept < FEWEST.min(harvest.asked) {
            done.warnings.push(too_few(kept, &harvest));
            done.report.discarded = harvest.screened.discarded;
            return Ok(done);
        }
        let work = Work { round, frozen: global.frozen(), cancel };
        let (answers, preferences) = harvest.screened.divide(self.settings.sft_share);
        if !answers.is_empty() {
            self.add_tuning(work, answers, None, &mut done)?;
        }
        self.add_preferences(work, preferences, &mut done)?;
        if done.report.steps == 0 {
            done.warnings.push("not realigned".into());
        }
        Ok(done)
    }
}

impl CaiGenerator {
    /// Pairs of answer and revision for this round.
    ///
    /// # Errors
    ///
    /// [`fedward_actors::ports::PortError`] if generation or the guard fails.
    pub fn harvest(&self, round: RoundId, global: &GlobalModel, cancel: &CancelFlag) -> PortResult<Harvest> {
        let started = Instant::now();
        let mut harvest = match &self.material {
            Material::RedPrompts { prompts, constitution, teacher } => {
                let adapter = LoraRef::from(global);
                let CaiSettings { seed, decoding, .. } = self.settings;
                let itself = SelfSpeaker { model: &self.model, adapter, decoding, seed };
                let speaker = teacher.as_deref().unwrap_or(&itself);
                self.talk(speaker, prompts, constitution, round, cancel)?
            }
            Material::Prepared(Revisions { pairs, good_answers }) => Harvest {
                asked: pairs.len() + good_answers.len(),
                screened: Screened {
                    pairs: self.in_fixed_order(pairs),
                    good_answers: good_answers.clone(),
                    ..Screened::default()
                },
                ..Harvest::default()
            },
            Material::Refusals { prompts } => {
                let good_answers = self.refusals(round, prompts);
                let screened = Screened { good_answers, ..Screened::default() };
                return Ok(Harvest { asked: screened.good_answers.len(), screened, ..Harvest::default() });
            }
        };
        if let Some(guard) = &self.guard {
            self.progress.part("verdicts on revisions");
            harvest.screened.drop_unsafe(guard, cancel, self.progress.as_ref())?;
        }
        harvest.cost.seconds = started.elapsed().as_secs_f64();
        Ok(harvest)
    }

    /// The three turns on this round's red prompts.
    fn talk(
        &self,
        speaker: &dyn Speaker,
        prompts: &[Vec<ChatMessage>],
        constitution: &Constitution,
        round: RoundId,
        cancel: &CancelFlag,
    ) -> PortResult<Harvest> {
        let seed = self.settings.seed;
        let prompts = self.drawn(round, prompts);
        let judge = match (self.settings.revise, self.guard.as_deref()) {
            (Revise::Unsafe { surely_safe }, Some(guard)) => Some(Judge { guard, surely_safe }),
            _ => None,
        };
        let guidance = Guidance { constitution, examples: self.settings.examples };
        let talks = converse(speaker, &prompts, guidance, judge, (seed, round), cancel, self.progress.as_ref())?;
        let cost = Cost { tokens: talks.read_tokens, flops: speaker.flops(talks.read_tokens), ..Cost::default() };
        Ok(Harvest {
            asked: prompts.len(),
            screened: Screened::of_dialogues(&talks),
            generated_tokens: talks.generated_tokens,
            cost,
        })
    }

    /// The red prompts of a round.
    pub(super) fn drawn(&self, round: RoundId, prompts: &[Vec<ChatMessage>]) -> Vec<Vec<ChatMessage>> {
        let mut rng = stream(self.settings.seed, Purpose::RedPrompts, round, None);
        prompts.sample(&mut rng, self.settings.red_prompts).cloned().collect()
    }

    /// Prepared pairs, shuffled alike in every round, so that a pair stays on its side of the division.
    fn in_fixed_order(&self, pairs: &[PreferencePair]) -> Vec<PreferencePair> {
        let mut pairs = pairs.to_vec();
        pairs.shuffle(&mut stream(self.settings.seed, Purpose::RedPrompts, RoundId::START, None));
        pairs
    }

    /// Fine-tunes on answers: as many steps as are configured, unless they are given.
    pub(super) fn add_tuning(
        &self,
        work: Work<'_>,
        answers: Vec<ChatRow>,
        steps: Option<usize>,
        done: &mut Realignment,
    ) -> PortResult<()> {
        let tuned = self.tune(work, &done.adapter, answers, steps)?;
        done.report.steps += tuned.steps;
        done.report.train_tokens += tuned.train_tokens;
        done.report.mean_loss = Some(tuned.mean_loss).filter(|loss| loss.is_finite());
        done.report.cost.sft = tuned.cost;
        done.adapter = tuned.adapter;
        Ok(())
    }

    /// Trains on those preferences that say something; a warning if that is too few.
    fn add_preferences(&self, work: Work<'_>, mut preferences: Screened, done: &mut Realignment) -> PortResult<()> {
        // Of all that was asked: answers that need no revision, or did not survive, leave too few pairs, too.
        let planned = for_preferences(done.report.red_prompts as usize, self.settings.sft_share);
        preferences.drop_same();
        let pairs = self.tokenized_pairs(&preferences.pairs)?;
        done.report.discarded = preferences.discarded;
        if pairs.len() < FEWEST.min(planned) {
            let found = pairs.len();
            done.warnings.push(format!(
                "no training on preferences: {found} of {planned} pairs of answer and revision are left, too few to learn from \
                 ({} answers needed no revision)",
                done.report.good_answers
            ));
            return Ok(());
        }
        if pairs.is_empty() {
            return Ok(());
        }
        let preferred = self.prefer(work, &done.adapter, &pairs)?;
        done.report.steps += preferred.report.steps;
        done.report.train_tokens += preferred.train_tokens;
        done.report.preference = Some(preferred.report);
        done.report.cost.dpo = preferred.cost;
        done.adapter = preferred.adapter;
        Ok(())
    }
}

fn too_few(kept: usize, harvest: &Harvest) -> String {
    let discarded: Vec<_> =
        harvest.screened.discarded.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let discarded = discarded.join(", ");
    format!(
        "not realigned: {kept} of {} answers and revisions survived ({discarded}), too few to learn from; give it more red prompts, \
         longer replies or prepared pairs (cai.red_prompts, cai.max_new_tokens, cai.data)",
        harvest.asked
    )
}
