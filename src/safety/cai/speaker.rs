//! Who answers, criticises and revises.

use fedward_actors::{
    cancel::CancelFlag,
    ports::PortResult,
    protocol::{ChatMessage, ClientId, RoundId},
    streams::{Purpose, stream},
};

use crate::{
    lora::LoraRef,
    model::{Asked, ChatModel, Decoding, Reply},
    progress::Progress,
    train::Flops,
};

/// Turns of a dialogue: answer, critique, revision.
pub(super) const TURNS: u32 = 3;

/// Gives the next turn of conversations.
pub trait Speaker: Send + Sync {
    /// One reply a conversation, in their order, `None` for one that gets none. `turn` counts from 0: answer, critique,
    /// revision. `progress` hears how many have ended.
    ///
    /// # Errors
    ///
    /// [`PortError`](fedward_actors::ports::PortError) if there are no replies, or the flag was raised.
    fn reply(
        &self,
        conversations: &[Vec<ChatMessage>],
        turn: u32,
        round: RoundId,
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> PortResult<Vec<Option<Reply>>>;

    /// Floating-point operations of reading `tokens` tokens here; 0 where it is computed elsewhere.
    fn flops(&self, tokens: u64) -> f64;
}

/// The model itself with the global adapter.
pub struct SelfSpeaker<'a> {
    /// The base model.
    pub model: &'a ChatModel,
    /// The global adapter.
    pub adapter: LoraRef<'a>,
    /// How it speaks.
    pub decoding: Decoding,
    /// What all random streams come from.
    pub seed: u64,
}

impl Speaker for SelfSpeaker<'_> {
    fn reply(
        &self,
        conversations: &[Vec<ChatMessage>],
        turn: u32,
        round: RoundId,
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> PortResult<Vec<Option<Reply>>> {
        // A stream a turn and prompt: the "client" of this purpose numbers prompts, three turns apart.
        let rng_of = |index: usize| {
            let id = ClientId(TURNS * index as u32 + turn);
            stream(self.seed, Purpose::Sampling, round, Some(id))
        };
        let asked = Asked { adapter: Some(self.adapter), conversations, decoding: self.decoding, rng_of: &rng_of };
        let replies = self.model.reply(asked, cancel, progress)?;
        Ok(replies.into_iter().map(Some).collect())
    }

    fn flops(&self, tokens: u64) -> f64 {
        Flops::of(&self.model.base, self.adapter).forward(tokens)
    }
}
