//! Continuing prompts.

pub(crate) mod answering;

use fedward_actors::CancelFlag;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::{
    BaseModel, ModelError, Portions, Result,
    kv_cache::KvCache,
    rope::Rotations,
    sampling::Sampler,
    transformer::{Opening, Transformer},
};
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
    /// Prompts continued side by side.
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
/// batch. `on_done` hears how many prompts are finished.
///
/// # Errors
///
/// [`ModelError::Unusable`] if a prompt is empty, too long or holds an unknown token, if a setting is out of range or
/// the adapter does not fit; [`ModelError::Cancelled`] soon after the flag is raised.
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
    model.compute(|| {
        let model = Transformer::new(model, adapter, cancel)?;
        model.check_rows(prompts.iter().map(Vec::as_slice))?;
        let mut results: Vec<Option<Generated>> = prompts.iter().map(|_| None).collect();
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| prompts[prompt].len());
        let mut finished = 0;
        for members in order.chunks(settings.batch_size) {
            let rows = members.iter().map(|&prompt| Row::new(prompt, &prompts[prompt], rng_of(prompt))).collect();
            let batch = Batch { model: &model, picker: &picker, settings, rows, prompts, opening: None };
            batch.run(&mut |_, _| Ok(()), &mut |row| {
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
        self.compute(|| {
            let model = Transformer::new(self, adapter, cancel)?;
            model.check_rows([ids])?;
            let packed = model.pack(&[ids], false)?;
            let hidden = model.forward(&packed, None)?;
            let last = hidden.f_narrow(0, ids.len() as i64 - 1, 1)?;
            Ok(Vec::try_from(model.logits(&model.final_norm(&last)?.0)?.f_squeeze_dim(0)?)?)
        })
    }
}

/// Chooses next tokens.
enum Picker {
    Greedy,
    Draw(Sampler),
}

impl Picker {
    fn new(settings: &GenerationSettings) -> Result<Self> {
        let GenerationSettings { temperature, top_p, top_k, batch_size, .. } = *settings;
        let problem = if !(temperature >= 0.0 && temperature.is_finite()) {
            format!("temperature is {temperature}; it must be 0 (greedy) or above")
        } else if !(0.0..=1.0).contains(&top_p) {
            format!("top_p is {top_p}; it must lie in 0..=1")
        } else if top_k == Some(0) {
            "top_k is 0; it must be at least 1, or absent".into()
        } else if batch_size == 0 {
            "batch_size is 0; it must be at least 1".into()
        } else if temperature == 0.0 {
            return Ok(Self::Greedy);
        } else {
            return Ok(Self::Draw(Sampler { temperature, top_p, top_k }));
        };
        Err(ModelError::Unusable(problem))
    }

    /// # Shapes
    ///
    /// `logits`: `[rows, vocab_size]` → `[rows]`.
    fn pick(&self, logits: &Tensor, rows: &mut [Row]) -> Result<Vec<u32>> {
        match self {
            Self::Greedy => {
                let ids = Vec::<i64>::try_from(logits.f_argmax(1, false)?)?;
                Ok(ids.into_iter().map(|id| id as u32).collect())
            }
            Self::Draw(sampler) => {
                let vocabulary = logits.size()[1] as usize;
                let values = Vec::<f32>::try_from(logits.f_reshape([-1])?)?;
                let drawn = values.chunks(vocabulary).zip(rows).map(|(logits, row)| sampler.draw(logits, &mut row.rng));
                Ok(drawn.collect())
            }
        }
    }
}

/// A prompt that is being continued.
struct Row {
    /// Its place among the prompts.
    prompt: usize,
    /// Tokens before the newest one.
    position: usize,
    rng: ChaCha8Rng,
    ids: Vec<u32>,
    done: bool,
    finished: FinishReason,
}

impl Row {
    fn new(prompt: usize, ids: &[u32], rng: ChaCha8Rng) -> Self {
        Self { prompt, position: ids.len(), rng, ids: Vec::new(), done: false, finished: FinishReason::Length }
    }
}

/// Sees each row that goes on with the logits that its next token is picked from.
///
/// # Shapes
///
/// `[vocab_size]`
type Watch<'w> = &'w mut dyn FnMut(&Row, &Tensor) -> Result<()>;

/// Prompts that are continued side by side.
struct Batch<'a> {
    model: &'a Transformer<'a>,
    picker: &'a Picker,
    settings: &'a GenerationSettings,
    rows: Vec<Row>,
    prompts: &'a [Vec<u32>],
    /// What all of its prompts begin with and is computed already.
    opening: Option<&'a Opening>,
}

impl Batch<'_> {
    fn run(mut self, watch: Watch, finish: &mut dyn FnMut(Row)) -> Result<()> {
        if self.settings.max_new_tokens > 0 {
            let (mut cache, mut logits) = self.prefill()?;
            loop {
                for (index, row) in (0_i64..).zip(&self.rows).filter(|(_, row)| !row.done) {
                    watch(row, &logits.f_get(index)?)?;
                }
                self.append(&logits)?;
                self.drop_finished(&mut cache, finish)?;
                if self.rows.iter().all(|row| row.done) {
                    break;
                }
                logits = self.decode(&mut cache)?;
            }
        }
        self.rows.into_iter().for_each(finish);
        Ok(())
    }

    /// Computes all prompts, a bounded number of tokens at a time.
    ///
    /// # Shapes
    ///
    /// → the cache, `[rows, vocab_size]`
    fn prefill(&self) -> Result<(KvCache, Tensor)> {
        let model = self.model;
        let prompts: Vec<&[u32]> = self.rows.iter().map(|row| self.prompts[row.prompt].as_slice()).collect();
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        // Tokens that a row of a pass does not compute for itself, and those that the pass computes for all of its rows.
        let (left_out, shared) = match self.opening {
            Some(opening) => (opening.ids.len(), 0),
            None => [model.counted_once(&prompts); 2].into(),
        };
        let mut cache = KvCache::new(model.config, &lengths, model.device, model.kind)?;
        let most = Portions::on(model.device).pass_tokens;
        let mut logits = Vec::new();
        let mut first = 0;
        while first < prompts.len() {
            let mut tokens = shared;
            let fitting = lengths[first..].iter().take_while(|&&length| {
                tokens += length - left_out;
                tokens <= most
            });
            let count = fitting.count().max(1);
            let members = &prompts[first..first + count];
            let packed = match self.opening {
                Some(opening) => model.pack_behind(opening, members)?,
                None => model.pack(members, true)?,
            };
            let mut store = |layer: usize, qkv: &Tensor| cache.store_prompts(layer, qkv, &packed, first, count);
            let hidden = model.forward_behind(self.opening, &packed, Some(&mut store))?;
            let computed = self.opening.map_or(0, |opening| opening.ids.len()) as i64;
            let last: Vec<i64> = (0..count).map(|row| packed.index(row, members[row].len() - 1) - computed).collect();
            let last = Tensor::f_from_slice(&last)?.f_to_device(model.device)?;
            logits.push(model.logits(&model.final_norm(&hidden.f_index_select(0, &last)?)?.0)?);
            first += count;
        }
        Ok((cache, Tensor::f_cat(&logits, 0)?))
    }

    /// Picks the next token of each row and marks the rows that it ends.
    fn append(&mut self, logits: &Tensor) -> Result<()> {
        let picked = self.picker.pick(logits, &mut self.rows)?;
        for (row, id) in self.rows.iter_mut().zip(picked).filter(|(row, _)| !row.done) {
            if self.settings.stop_ids.contains(&id) {
                row.done = true;
                row.finished = FinishReason::Stop;
            } else {
                row.ids.push(id);
                row.position += 1;
                row.done = row.ids.len() >= self.settings.max_new_tokens
                    || row.position >= self.model.config.max_position_embeddings;
            }
        }
        Ok(())
    }

    /// Hands finished rows out once they are a quarter of the batch: leaving costs a copy of the cache.
    fn drop_finished(&mut self, cache: &mut KvCache, finish: &mut dyn FnMut(Row)) -> Result<()> {
        let done = self.rows.iter().filter(|row| row.done).count();
        if done * 4 < self.rows.len() || done == self.rows.len() || done == 0 {
            return Ok(());
        }
        let alive: Vec<i64> = (0_i64..).zip(&self.rows).filter(|(_, row)| !row.done).map(|(index, _)| index).collect();
        cache.keep_rows(&alive)?;
        for row in std::mem::take(&mut self.rows) {
            if row.done { finish(row) } else { self.rows.push(row) }
        }
        Ok(())
    }

    /// Computes the newest token of each row.
    ///
    /// # Shapes
    ///
    /// → `[rows, vocab_size]`
    fn decode(&self, cache: &mut KvCache) -> Result<Tensor> {
        let model = self.model;
        // A finished row that has not left yet goes on with any token: its results are not looked at.
        let ids: Vec<i64> = self.rows.iter().map(|row| row.ids.last().map_or(0, |&id| i64::from(id))).collect();
        let positions: Vec<usize> = self.rows.iter().map(|row| row.position - 1).collect();
        let rotations = Rotations::new(model.config, &positions, model.device, model.kind)?;
        cache.advance()?;
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(model.device)?;
        let mut hidden = model.embed(&ids)?;
        for layer in 0..model.config.num_hidden_layers {
            model.check_cancelled()?;
            let span = model.config.design.span(layer);
            hidden = model.decode_layer(layer, &hidden, &mut |qkv| {
                rotations.of(span).apply(qkv, model.heads.rotated())?;
                cache.attend(layer, span, qkv)
            })?;
        }
        Ok(model.logits(&model.final_norm(&hidden)?.0)?.f_to_kind(Kind::Float)?)
    }
}
