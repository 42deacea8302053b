//! Continuing prompts.

pub(crate) mod answering;
mod batch;
mod picking;
mod room;

use fedward_actors::CancelFlag;
use rand_chacha::ChaCha8Rng;

use self::{
    batch::{Batch, Row},
    picking::Picker,
    room::Room,
};
use super::{BaseModel, Result, Work, transformer::Transformer};
use crate::lora::LoraRef;

/// How prompts are continued.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationSettings {
    /// Longest continuation, in tokens. It also ends where the model's context ends.
    pub max_new_tokens: usize,
    /// 0 takes the most likely token; higher values draw, the flatter the higher.
    pub temperature: f64,
    /// Draw from the most likely tokens whose probabilities add up to this.
    pub top_p: f64,
    /// Draw from this many most likely tokens.
    pub top_k: Option<usize>,
    /// Most prompts continued side by side; fewer where their keys and values would take too much memory.
    pub batch_size: usize,
    /// Tokens that end a continuation.
    pub stop_ids: Vec<u32>,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model closed it with a stop token.
    Stop,
    /// It became as long as allowed.
    Length,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Its tokens, without prompt and stop token.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Continues each prompt, in the order of the prompts.
///
/// `rng_of` gives each prompt a random stream of its own, so what is drawn does not depend on which prompts share a
/// batch, but for rounding: in bf16 a prompt is rounded otherwise alone than in company. `on_done` hears how many prompts are finished.
///
/// # Errors
///
/// [`ModelError::Unusable`] if a prompt is empty, too long or holds an unknown token, if a setting is out of range or
/// the adapter does not fit; [`ModelError::Cancelled`] soon after the flag is raised.
///
/// [`ModelError::Unusable`]: super::ModelError::Unusable
/// [`ModelError::Cancelled`]: super::ModelError::Cancelled
pub fn generate(
    model: &BaseModel,
    adapter: Option<LoraRef>,
    prompts: &[Vec<u32>],
    settings: &GenerationSettings,
    rng_of: &dyn Fn(usize) -> ChaCha8Rng,
    cancel: &CancelFlag,
    on_done: &mut dyn FnMut(usize),
) -> Result<Vec<Generated>> {
    let picker = Picker::new(settings)?;
    model.compute(Work::Generation, || {
        let model = Transformer::new(model, adapter, cancel)?;
        model.check_rows(prompts.iter().map(Vec::as_slice))?;
        let mut results: Vec<Option<Generated>> = prompts.iter().map(|_| None).collect();
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| prompts[prompt].len());
        let mut finished = 0;
        let room = Room::new(&model, settings);
        for members in room.cut(&order, |prompt| prompts[prompt].len()) {
            let rows = members.iter().map(|&prompt| Row::new(prompt, &prompts[prompt], rng_of(prompt))).collect();
            let batch = Batch { model: &model, picker: &picker, settings, room, rows, prompts, opening: None };
            batch.run(None, &mut |row| {
                results[row.prompt] = Some(Generated { ids: row.ids, finish_reason: row.finished });
                finished += 1;
                on_done(finished);
            })?;
        }
        // Each batch finishes all of its rows, so nothing is missing here.
        Ok(results.into_iter().flatten().collect())
    })
}

impl BaseModel {
    /// Logits of the token after `ids`.
    ///
    /// # Shapes
    ///
    /// → `[vocab_size]`
    ///
    /// # Errors
    ///
    /// As [`generate`].
    pub fn next_token_logits(&self, adapter: Option<LoraRef>, ids: &[u32], cancel: &CancelFlag) -> Result<Vec<f32>> {
        self.compute(Work::Reading, || {
            let model = Transformer::new(self, adapter, cancel)?;
            model.check_rows([ids])?;
            let packed = model.pack(&[ids], false)?;
            let hidden = model.forward(&packed, None)?;
            let last = hidden.f_narrow(0, ids.len() as i64 - 1, 1)?;
            Ok(Vec::try_from(model.logits(&model.final_norm(&last)?.0)?.f_squeeze_dim(0)?)?)
        })
    }
}
