//! Prompts that are continued side by side.

use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::{FinishReason, GenerationSettings, picking::Picker, room::Room};
use crate::model::{
    Portions, Result,
    kv_cache::KvCache,
    rope::RotationsAhead,
    transformer::{Opening, Transformer},
};

/// A prompt that is being continued.
pub(super) struct Row {
    /// Its place among the prompts.
    pub(super) prompt: usize,
    /// Tokens before the newest one.
    position: usize,
    pub(super) rng: ChaCha8Rng,
    pub(super) ids: Vec<u32>,
    done: bool,
    pub(super) finished: FinishReason,
}

impl Row {
    pub(super) fn new(prompt: usize, ids: &[u32], rng: ChaCha8Rng) -> Self {
        Self { prompt, position: ids.len(), rng, ids: Vec::new(), done: false, finished: FinishReason::Length }
    }
}

/// Sees each row that goes on with the logits that its next token is picked from.
///
/// # Shapes
///
/// `[vocab_size]`
pub(super) type Watch<'w> = &'w mut dyn FnMut(&Row, &Tensor) -> Result<()>;

/// Prompts that are continued side by side.
pub(super) struct Batch<'a> {
    pub(super) model: &'a Transformer<'a>,
    pub(super) picker: &'a Picker,
    pub(super) settings: &'a GenerationSettings,
    pub(super) room: Room,
    pub(super) rows: Vec<Row>,
    pub(super) prompts: &'a [Vec<u32>],
    /// What all of its prompts begin with and is computed already.
    pub(super) opening: Option<&'a Opening>,
}

/// What decoding knows of the tokens so far.
struct Decoded<'c> {
    cache: KvCache,
    rotations: RotationsAhead<'c>,
}

impl Batch<'_> {
    /// Continues its prompts to their ends.
    pub(super) fn run(mut self, mut watch: Option<Watch>, finish: &mut dyn FnMut(Row)) -> Result<()> {
        if self.settings.max_new_tokens > 0 {
            let (cache, mut logits) = self.prefill()?;
            // One that its first token ends stays where it is.
            let begins: Vec<usize> = self.rows.iter().map(|row| row.position - 1).collect();
            let options = (self.model.kind, self.model.device);
            let rotations = RotationsAhead::new(self.model.config, &begins, options)?;
            let mut decoded = Decoded { cache, rotations };
            loop {
                if let Some(watch) = &mut watch {
                    for (index, row) in (0_i64..).zip(&self.rows).filter(|(_, row)| !row.done) {
                        watch(row, &logits.f_get(index)?)?;
                    }
                }
                self.append(&logits)?;
                self.drop_finished(&mut decoded.cache, finish)?;
                if self.rows.iter().all(|row| row.done) {
                    break;
                }
                logits = self.decode(&mut decoded)?;
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
        let [shortest, longest] =
            [lengths.iter().min(), lengths.iter().max()].map(|length| length.copied().unwrap_or(0));
        let slots = self.room.slots_each(shortest, longest);
        let mut cache = KvCache::new(model.config, &lengths, slots, (model.kind, model.device))?;
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
            let places = cache.places(&packed, first, count)?;
            let mut store = |layer: usize, qkv: &Tensor| cache.store_prompts(layer, qkv, &places);
            let hidden = model.forward_behind(self.opening, &packed, Some(&mut store))?;
            let computed = self.opening.map_or(0, |opening| opening.ids.len()) as i64;
            let last: Vec<i64> = (0..count).map(|row| packed.index(row, members[row].len() - 1) - computed).collect();
            let last = Tensor::f_from_slice(&last)?.f_to_device(model.device)?;
            logits.push(model.logits(&model.final_norm(&hidden.f_index_select(0, &last)?)?.0)?);
            first += count;
        }
        let logits = if logits.len() == 1 { logits.remove(0) } else { Tensor::f_cat(&logits, 0)? };
        Ok((cache, logits))
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
    fn decode(&self, Decoded { cache, rotations }: &mut Decoded) -> Result<Tensor> {
        let model = self.model;
        let positions: Vec<usize> = self.rows.iter().map(|row| row.position - 1).collect();
        let places = rotations.reach(&positions)?;
        // A finished row that has not left yet goes on with any token: its results are not looked at.
        let ids = self.rows.iter().map(|row| row.ids.last().map_or(0, |&id| i64::from(id)));
        let ids_and_places: Vec<i64> = ids.chain(places).collect();
        let ids_and_places = Tensor::f_from_slice(&ids_and_places)?.f_view([2, -1])?.f_to_device(model.device)?;
        let rotation = rotations.at(&ids_and_places.f_get(1)?)?;
        cache.advance()?;
        let mut hidden = model.embed(&ids_and_places.f_get(0)?)?;
        for layer in 0..model.config.num_hidden_layers {
            model.check_cancelled()?;
            let span = model.config.design.span(layer);
            model.decode_layer(layer, &mut hidden, &mut |qkv| {
                rotation.of(span).apply(qkv, model.heads.rotated())?;
                cache.attend(layer, span, qkv)
            })?;
        }
        model.logits(&model.final_norm(&hidden)?.0)
    }
}
