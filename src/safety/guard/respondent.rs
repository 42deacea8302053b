//! A causal language model that answers in Llama Guard's protocol.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{PortError, PortResult},
    protocol::{Adapter, ChatMessage, Hazard},
};

use super::{Answer, Phrasing, Respondent};
use crate::{
    lora::LoraRef,
    model::{ChatModel, ModelError, Questions},
};

/// Tokens of the longest answer: `unsafe` and all hazards.
const LONGEST_ANSWER: usize = 64;

/// A model, with an adapter or without, and how it is asked.
pub struct ChatRespondent {
    model: Arc<ChatModel>,
    adapter: Option<Adapter>,
    phrasing: Phrasing,
    max_length: usize,
    /// First tokens of `safe` and `unsafe`.
    words: [u32; 2],
    /// What the question lists.
    hazards: BTreeSet<Hazard>,
}

impl ChatRespondent {
    /// A Llama Guard checkpoint, which is asked in its own chat template.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if its template asks for no verdict: it is another kind of model.
    pub fn checkpoint(model: Arc<ChatModel>, max_length: usize) -> Result<Self, ModelError> {
        if !Phrasing::Own.asks_for_a_verdict(&model.tokenizer)? {
            let problem = "its chat template does not ask for \"safe\" or \"unsafe\", so it is no Llama Guard; \
                           fit a guard on it with fedward guard train";
            return Err(ModelError::invalid(Path::new(&model.name), problem));
        }
        Self::new(model, None, Phrasing::Own, max_length)
    }

    /// A model with an adapter that was fine-tuned for the protocol.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if the tokenizer cannot tell the two words apart.
    pub fn tuned(
        model: Arc<ChatModel>,
        adapter: Adapter,
        phrasing: Phrasing,
        max_length: usize,
    ) -> Result<Self, ModelError> {
        Self::new(model, Some(adapter), phrasing, max_length)
    }

    fn new(
        model: Arc<ChatModel>,
        adapter: Option<Adapter>,
        phrasing: Phrasing,
        max_length: usize,
    ) -> Result<Self, ModelError> {
        let words = first_tokens(&model)?;
        let max_length = max_length.min(model.context().saturating_sub(LONGEST_ANSWER));
        let hazards = phrasing.hazards(&model.tokenizer)?;
        Ok(Self { model, adapter, phrasing, max_length, words, hazards })
    }
}

/// First tokens of `safe` and `unsafe`, which must differ.
fn first_tokens(model: &ChatModel) -> Result<[u32; 2], ModelError> {
    let first = |word: &str| Ok::<_, ModelError>(model.tokenizer.encode_text(word)?.first().copied());
    match (first("safe")?, first("unsafe")?) {
        (Some(safe), Some(unsafe_)) if safe != unsafe_ => Ok([safe, unsafe_]),
        _ => {
            let problem =
                "its tokenizer begins \"safe\" and \"unsafe\" with the same token, so the first token tells nothing";
            Err(ModelError::invalid(Path::new(&model.name), problem))
        }
    }
}

impl Respondent for ChatRespondent {
    fn identity(&self) -> String {
        let adapter = self.adapter.as_ref().map(Adapter::sha256).unwrap_or_default();
        format!("{}/{adapter}/{:?}/{}", self.model.identity(), self.phrasing, self.max_length)
    }

    fn hazards(&self) -> BTreeSet<Hazard> {
        self.hazards.clone()
    }

    fn answers(&self, conversations: &[Vec<ChatMessage>], cancel: &CancelFlag) -> PortResult<Vec<Answer>> {
        let tokenizer = &self.model.tokenizer;
        let prompts = conversations
            .iter()
            .map(|conversation| self.phrasing.prompt(tokenizer, conversation, self.max_length))
            .collect::<Result<Vec<_>, _>>()
            .map_err(PortError::from)?;
        let (prompts, cut): (Vec<_>, Vec<_>) = prompts.into_iter().unzip();
        // Questions about a prompt and about a response may open differently.
        let openings = [1, 2].map(|turns| self.phrasing.opening(tokenizer, turns));
        let openings = openings.into_iter().collect::<Result<Vec<_>, _>>().map_err(PortError::from)?;
        let questions =
            Questions { prompts: &prompts, openings: &openings, words: self.words, longest_answer: LONGEST_ANSWER };
        let adapter = self.adapter.as_ref().map(LoraRef::from);
        let replies = self.model.answers(adapter, &questions, cancel).map_err(PortError::from)?;
        let answers = replies.into_iter().zip(cut).map(|(reply, is_cut)| {
            let [safe_probability, unsafe_probability] = reply.probabilities;
            Answer { safe_probability, unsafe_probability, text: reply.text, is_cut }
        });
        Ok(answers.collect())
    }
}
