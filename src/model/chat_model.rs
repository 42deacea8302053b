//! A base model with its tokenizer: what everything that speaks to a model holds.

use std::path::Path;

use fedward_actors::{
    cancel::CancelFlag,
    protocol::{ChatMessage, ChatRow},
};
use rand_chacha::ChaCha8Rng;

use super::{
    BaseModel, ChatTokenizer, Checkpoint, Features, ModelError, NumberFormat, Portions, RowEnd, TokenizedRow,
    generation::{
        FinishReason, Generated, GenerationSettings,
        answering::{self, Answered, Questions},
        generate,
    },
    parallel,
    scoring::{RowScore, score},
};
use crate::{
    lora::LoraRef,
    progress::{Counter, Progress},
};

/// How many of `prompts` are decoded together. Results do not depend on how many threads there are, so this does not.
fn prompts_a_batch(prompts: usize, device: tch::Device) -> usize {
    let (least, most) = Portions::on(device).prompts;
    prompts.div_ceil(2).clamp(least, most)
}

/// A frozen base model and its tokenizer.
pub struct ChatModel {
    /// The name that it was asked for under.
    pub name: String,
    /// SHA-256 of its files.
    pub sha256: String,
    /// The frozen weights.
    pub base: BaseModel,
    /// Text to tokens and back.
    pub tokenizer: ChatTokenizer,
    /// Threads that work side by side where there is no other client to fill the machine.
    pub threads: usize,
}

/// A model's reply to a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it says.
    pub text: String,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// Its length.
    pub tokens: usize,
    /// Length of the prompt that it continues, as the template renders it.
    pub prompt_tokens: usize,
}

/// How replies are decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// Longest reply, in tokens.
    pub max_new_tokens: usize,
    /// 0 is greedy.
    pub temperature: f64,
    /// Draw from the fewest tokens that are together as likely as this; 1 draws from all.
    pub top_p: f64,
    /// Draw from this many tokens at most.
    pub top_k: Option<usize>,
}

impl Decoding {
    /// At a temperature, from all tokens.
    pub const fn new(max_new_tokens: usize, temperature: f64) -> Self {
        Self { max_new_tokens, temperature, top_p: 1.0, top_k: None }
    }
}

/// All that replies depend on, beside the model.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// What is on top of the base model.
    pub adapter: Option<LoraRef<'a>>,
    /// What is replied to.
    pub conversations: &'a [Vec<ChatMessage>],
    /// How.
    pub decoding: Decoding,
    /// The random stream of each conversation's reply.
    pub rng_of: &'a (dyn Fn(usize) -> ChaCha8Rng + Sync),
}

impl ChatModel {
    /// Loads a `.gguf` file or a Hugging Face directory.
    ///
    /// # Errors
    ///
    /// [`ModelError`] says what is missing or wrong.
    pub fn open(
        name: &str,
        path: &Path,
        device: tch::Device,
        format: impl Into<NumberFormat>,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(path)?;
        let sha256 = checkpoint.sha256()?;
        let base = BaseModel::load(checkpoint.config, checkpoint.weights.as_ref(), device, format)?;
        Ok(Self { name: name.to_owned(), sha256, base, tokenizer: checkpoint.tokenizer, threads: threads.max(1) })
    }

    /// Names what results depend on: weights, numbers and device.
    pub fn identity(&self) -> String {
        let quantization = self.base.quantization().map_or(String::new(), |kind| format!("/{kind:?}"));
        format!("{}/{:?}/{:?}{quantization}", self.sha256, self.base.precision(), self.base.device())
    }

    /// Replies to conversations, in their order. `progress` hears how many are done.
    ///
    /// # Errors
    ///
    /// [`ModelError::Cancelled`], or what the tokenizer or libtorch complain of.
    pub fn reply(
        &self,
        asked: Asked<'_>,
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> Result<Vec<Reply>, ModelError> {
        let mut replies = Vec::with_capacity(asked.conversations.len());
        self.reply_each(asked, cancel, progress, &mut |reply| {
            replies.push(reply);
            Ok(())
        })?;
        Ok(replies)
    }

    /// As [`ChatModel::reply`], but hands on each reply as soon as all before it are there.
    ///
    /// # Errors
    ///
    /// As [`ChatModel::reply`], or that of `take`.
    pub fn reply_each(
        &self,
        Asked { adapter, conversations, decoding, rng_of }: Asked<'_>,
        cancel: &CancelFlag,
        progress: &dyn Progress,
        take: &mut (dyn FnMut(Reply) -> Result<(), ModelError> + Send),
    ) -> Result<(), ModelError> {
        let prompts = self.prompts(conversations)?;
        let batch_size = prompts_a_batch(prompts.len(), self.base.device());
        let settings = GenerationSettings {
            max_new_tokens: decoding.max_new_tokens,
            temperature: decoding.temperature,
            top_p: decoding.top_p,
            top_k: decoding.top_k,
            batch_size,
            stop_ids: self.tokenizer.stop_ids().to_vec(),
        };
        let finished = Counter::new(progress, prompts.len());
        let to_reply = |(prompt, generated): (&Vec<u32>, Generated)| {
            Ok(Reply {
                text: self.tokenizer.decode(&generated.ids)?,
                finish_reason: generated.finish_reason,
                tokens: generated.ids.len(),
                prompt_tokens: prompt.len(),
            })
        };
        let work = |first: usize, chunk: &[Vec<u32>]| {
            let rng = |index: usize| rng_of(first + index);
            let done = generate(&self.base, adapter, chunk, &settings, &rng, cancel, &mut |_| finished.add(1))?;
            chunk.iter().zip(done).map(to_reply).collect()
        };
        parallel::each_by_chunks(&prompts, batch_size, self.threads, work, take)
    }

    /// The tokens of prompts. One cannot be cut: what it asks may be at its end.
    fn prompts(&self, conversations: &[Vec<ChatMessage>]) -> Result<Vec<Vec<u32>>, ModelError> {
        let context = self.context();
        let prompt = |(index, messages): (usize, &Vec<ChatMessage>)| {
            let refused = |problem: String| ModelError::Prompt { index, of: conversations.len(), problem };
            let ids = self.tokenizer.prompt_ids(messages).map_err(|error| refused(error.to_string()))?;
            if ids.len() >= context {
                let found = ids.len();
                return Err(refused(format!(
                    "found {found} tokens, and the model reads {context}, its answer included; shorten it or leave it out"
                )));
            }
            Ok(ids)
        };
        conversations.iter().enumerate().map(prompt).collect()
    }

    /// Answers of a few tokens to prompts, in their order, and how likely each begins with given tokens. On the CPU an answer
    /// depends on its prompt alone, to the last bit.
    ///
    /// # Errors
    ///
    /// [`ModelError::Cancelled`], or what the tokenizer or libtorch complain of.
    pub(crate) fn answers(
        &self,
        adapter: Option<LoraRef<'_>>,
        questions: &Questions<'_>,
        cancel: &CancelFlag,
    ) -> Result<Vec<Answered>, ModelError> {
        answering::answer(&self.base, &self.tokenizer, adapter, questions, cancel)
    }

    /// Log-likelihoods of the rows' responses, in their order. `progress` hears how many are done.
    ///
    /// # Errors
    ///
    /// [`ModelError::Cancelled`], or what libtorch complains of.
    pub fn score(
        &self,
        adapter: Option<LoraRef<'_>>,
        rows: &[TokenizedRow],
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> Result<Vec<RowScore>, ModelError> {
        let mut scores = Vec::with_capacity(rows.len());
        self.score_each(adapter, rows, cancel, progress, &mut |score| {
            scores.push(score);
            Ok(())
        })?;
        Ok(scores)
    }

    /// As [`ChatModel::score`], but hands on each score as soon as all before it are there.
    ///
    /// # Errors
    ///
    /// As [`ChatModel::score`], or that of `take`.
    pub fn score_each(
        &self,
        adapter: Option<LoraRef<'_>>,
        rows: &[TokenizedRow],
        cancel: &CancelFlag,
        progress: &dyn Progress,
        take: &mut (dyn FnMut(RowScore) -> Result<(), ModelError> + Send),
    ) -> Result<(), ModelError> {
        let finished = Counter::new(progress, rows.len());
        let chunk = Portions::on(self.base.device()).scored_rows;
        let work = |_, chunk: &[TokenizedRow]| {
            let scores = score(&self.base, adapter, chunk, cancel)?;
            finished.add(chunk.len());
            Ok(scores)
        };
        parallel::each_by_chunks(rows, chunk, self.threads, work, take)
    }

    /// Mean hidden state of each row after `layers` blocks, on up to `threads` threads; rows are cut to `max_length`
    /// tokens. A row's features depend on it alone, to the last bit.
    ///
    /// # Errors
    ///
    /// [`ModelError::Cancelled`], or what the tokenizer or libtorch complain of.
    pub fn features(
        &self,
        rows: &[ChatRow],
        layers: usize,
        max_length: usize,
        threads: usize,
        cancel: &CancelFlag,
    ) -> Result<Vec<Features>, ModelError> {
        let mut ids: Vec<_> =
            rows.iter().map(|row| self.tokenizer.conversation_ids(&row.messages)).collect::<Result<_, ModelError>>()?;
        let max_length = max_length.min(self.context());
        let is_cut: Vec<_> = ids.iter().map(|ids| ids.len() > max_length).collect();
        for ids in &mut ids {
            ids.truncate(max_length);
        }
        let chunk = Portions::on(self.base.device()).scored_rows;
        let means = parallel::by_chunks(&ids, chunk, threads, |_, chunk| {
            super::features::mean_hidden(&self.base, None, chunk, layers, cancel)
        })?;
        Ok(means.into_iter().zip(is_cut).map(|(mean, is_cut)| Features { mean, is_cut }).collect())
    }

    /// A row as token ids, cut after `max_length` tokens or where the model's context ends; `None` if it has no response, or
    /// none of it fits.
    ///
    /// # Errors
    ///
    /// What the tokenizer complains of.
    pub fn row_ids(&self, row: &ChatRow, max_length: usize) -> Result<Option<TokenizedRow>, ModelError> {
        self.row_ids_up_to(RowEnd::Token, row, max_length)
    }

    /// As [`ChatModel::row_ids`], of a row that ends as `end` says.
    ///
    /// # Errors
    ///
    /// What the tokenizer complains of.
    pub fn row_ids_up_to(
        &self,
        end: RowEnd,
        row: &ChatRow,
        max_length: usize,
    ) -> Result<Option<TokenizedRow>, ModelError> {
        self.tokenizer.row_ids_up_to(end, row, max_length.min(self.context()))
    }

    /// As [`ChatModel::row_ids`], of rows; those without a response that fits are left out.
    ///
    /// # Errors
    ///
    /// What the tokenizer complains of.
    pub fn tokenize(&self, rows: &[ChatRow], max_length: usize) -> Result<Vec<TokenizedRow>, ModelError> {
        self.tokenize_up_to(RowEnd::Token, rows, max_length)
    }

    /// As [`ChatModel::tokenize`], of rows that end as `end` says.
    ///
    /// # Errors
    ///
    /// What the tokenizer complains of.
    pub fn tokenize_up_to(
        &self,
        end: RowEnd,
        rows: &[ChatRow],
        max_length: usize,
    ) -> Result<Vec<TokenizedRow>, ModelError> {
        let tokenized: Result<Vec<_>, _> = rows.iter().map(|row| self.row_ids_up_to(end, row, max_length)).collect();
        Ok(tokenized?.into_iter().flatten().collect())
    }

    /// Most tokens that the model reads, an answer included.
    pub fn context(&self) -> usize {
        self.base.config().max_position_embeddings
    }
}
