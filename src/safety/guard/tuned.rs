//! A guard by fine-tuning: an adapter that makes an ordinary chat model answer in Llama Guard's protocol, or a Llama Guard
//! checkpoint answer better.

use fedward_actors::{
    cancel::CancelFlag,
    protocol::{Adapter, RoundId},
};

use super::{
    phrasing::{Phrasing, expected_answer},
    protocol::alternating,
};
use crate::{
    data::LabelledRow,
    lora::{LoraConfig, initial_adapter},
    model::{ChatModel, ChatTokenizer, ModelError, TokenizedRow},
    train::{SftSettings, StepReport, TrainStreams, train_sft},
};

/// How a guard is fine-tuned.
#[derive(Clone, Debug)]
pub struct GuardTuning {
    /// The adapter's size and place.
    pub lora: LoraConfig,
    /// Steps and learning rate.
    pub sft: SftSettings,
    /// How the model is asked.
    pub phrasing: Phrasing,
    /// Tokens of the longest question.
    pub max_length: usize,
    /// What starting values and the order of the rows come from.
    pub seed: u64,
}

/// Steps of `batch_size` rows in an epoch over rows that are repeated as [`tune`] does it.
pub fn steps_an_epoch(rows: &[LabelledRow], batch_size: usize) -> usize {
    let unsafe_ = rows.iter().filter(|row| row.is_unsafe).count();
    (2 * unsafe_.max(rows.len() - unsafe_)).div_ceil(batch_size.max(1))
}

/// Fine-tunes a fresh adapter on rows and the answers that are expected about them. Rows of the rarer verdict are repeated
/// until both come up alike.
///
/// # Errors
///
/// [`ModelError`] with rows of one verdict only, or as [`train_sft`].
pub fn tune(
    model: &ChatModel,
    rows: &[LabelledRow],
    tuning: &GuardTuning,
    cancel: &CancelFlag,
    on_step: &mut dyn FnMut(&StepReport),
) -> Result<Adapter, ModelError> {
    let lesson = |row: &&LabelledRow| lesson(&model.tokenizer, row, tuning);
    let of = |is_unsafe: bool| rows.iter().filter(move |row| row.is_unsafe == is_unsafe);
    let (safe, unsafe_): (Vec<_>, Vec<_>) = (of(false).collect(), of(true).collect());
    let each = safe.len().max(unsafe_.len());
    let balanced = [safe, unsafe_].into_iter().flat_map(|rows| rows.into_iter().cycle().take(each).collect::<Vec<_>>());
    let balanced: Vec<_> = balanced.collect();
    if balanced.len() < 2 * each || each == 0 {
        return Err(ModelError::Unusable(
            "the guard's rows are all safe or all unsafe; it needs labelled rows of both kinds".into(),
        ));
    }
    let lessons = balanced.iter().map(lesson).collect::<Result<Vec<_>, _>>()?;
    let start = initial_adapter(&tuning.lora, model.base.config(), tuning.seed);
    let streams = TrainStreams::of(tuning.seed, RoundId::START, None);
    let outcome = train_sft(&model.base, &start, tuning.lora.dropout, &lessons, &tuning.sft, streams, cancel, on_step)?;
    Ok(outcome.adapter)
}

/// The question about a row and its answer. Where nobody has said which hazards a row is, the answer ends after its first
/// line, and the model learns nothing about how it goes on.
fn lesson(tokenizer: &ChatTokenizer, row: &LabelledRow, tuning: &GuardTuning) -> Result<TokenizedRow, ModelError> {
    let (mut ids, _) = tuning.phrasing.prompt(tokenizer, &alternating(&row.row.messages), tuning.max_length)?;
    let response_start = ids.len();
    let hazards = row.hazards.as_ref().filter(|hazards| hazards.is_empty() != row.is_unsafe);
    match hazards {
        Some(hazards) => {
            ids.extend(tokenizer.encode_text(&expected_answer(hazards))?);
            ids.push(tokenizer.stop_ids()[0]);
        }
        None => ids.extend(tokenizer.encode_text("unsafe\n")?),
    }
    Ok(TokenizedRow { ids, response_start })
}
