//! Keys and values of the tokens so far, for generation.

use fedward_native::kernels;
use tch::{Device, Kind, Tensor};

use super::{ModelConfig, PackedRows, Result, Span, attention_heads::Heads};

/// Slots by which the cache grows at least.
const GROWTH: i64 = 128;

/// Keys and values of a batch of rows. Prompts end at the same slot, so each row is padded on the left.
pub(crate) struct KvCache {
    heads: Heads,
    /// Keys and values of each layer.
    ///
    /// # Shapes
    ///
    /// `[rows, key_values, capacity, head_dim]` each
    layers: Vec<[Tensor; 2]>,
    /// Zero at tokens, minus infinity at padding.
    ///
    /// # Shapes
    ///
    /// `[rows, 1, capacity]`
    mask: Tensor,
    /// The first slot of each row that is no padding.
    begins: Vec<usize>,
    rows: i64,
    capacity: i64,
    /// Slots in use.
    length: i64,
    /// Slots that a layer of [`Span::Sliding`] looks at.
    window: i64,
}

impl KvCache {
    /// A cache whose rows have prompts of `lengths` tokens.
    pub(crate) fn new(config: &ModelConfig, lengths: &[usize], device: Device, kind: Kind) -> Result<Self> {
        let heads = Heads::new(config);
        let rows = lengths.len() as i64;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let capacity = longest as i64 + GROWTH;
        let layers = (0..config.num_hidden_layers)
            .map(|_| heads.empty_cache(rows, capacity, (kind, device)))
            .collect::<Result<_>>()?;
        let mut mask = vec![0.0_f32; lengths.len() * capacity as usize];
        for (line, length) in mask.chunks_mut(capacity as usize).zip(lengths) {
            line[..longest - length].fill(f32::NEG_INFINITY);
        }
        let mask = Tensor::f_from_slice(&mask)?.f_view([rows, 1, capacity])?.f_to_device(device)?.f_to_kind(kind)?;
        let window = config.design.sliding.as_ref().map_or(i64::MAX, |sliding| sliding.window as i64);
        let begins = lengths.iter().map(|length| longest - length).collect();
        Ok(Self { heads, layers, mask, begins, rows, capacity, length: longest as i64, window })
    }

    /// Stores the prompt tokens of rows `first..first + count`, which are the rows of `packed`.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[tokens, columns]`, rotated.
    pub(crate) fn store_prompts(
        &mut self,
        layer: usize,
        qkv: &Tensor,
        packed: &PackedRows,
        first: usize,
        count: usize,
    ) -> Result<()> {
        for (half, cache) in self.layers[layer].iter().enumerate() {
            let columns = self.heads.cached(qkv, half)?;
            for row in 0..count {
                let own = packed.own(row);
                let slots = cache.f_select(0, (first + row) as i64)?;
                let own_begin = self.length - own.len() as i64;
                let pieces =
                    [(0, packed.prefix(), own_begin - packed.prefix() as i64), (own.start, own.len(), own_begin)];
                for (start, tokens, slot) in pieces.into_iter().filter(|piece| piece.1 > 0) {
                    let states = columns.f_narrow(0, start as i64, tokens as i64)?.f_transpose(0, 1)?;
                    slots.f_narrow(1, slot, tokens as i64)?.f_copy_(&states)?;
                }
                // Padding is masked, but what is masked must be a number: zero times NaN is NaN.
                let _ = slots.f_narrow(1, 0, own_begin - packed.prefix() as i64)?.f_zero_()?;
            }
        }
        Ok(())
    }

    /// Makes room for one more token a row.
    pub(crate) fn advance(&mut self) -> Result<()> {
        if self.length == self.capacity {
            let grown = self.capacity + GROWTH.max(self.capacity / 2);
            for layer in &mut self.layers {
                let larger = self.heads.empty_cache(self.rows, grown, (layer[0].kind(), layer[0].device()))?;
                for (large, small) in larger.iter().zip(layer.iter()) {
                    large.f_narrow(2, 0, self.capacity)?.f_copy_(small)?;
                }
                *layer = larger;
            }
            let more = Tensor::f_zeros([self.rows, 1, grown - self.capacity], (self.mask.kind(), self.mask.device()))?;
            self.mask = Tensor::f_cat(&[&self.mask, &more], 2)?;
            self.capacity = grown;
        }
        self.length += 1;
        Ok(())
    }

    /// Stores the newest token of each row and lets it look at all tokens of its row.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[rows, columns]`, rotated → `[rows, query_columns]`.
    pub(crate) fn attend(&mut self, layer: usize, span: Span, qkv: &Tensor) -> Result<Tensor> {
        let slot = self.length - 1;
        for (half, cache) in self.layers[layer].iter().enumerate() {
            let states = self.heads.cached(qkv, half)?.f_unsqueeze(2)?;
            cache.f_narrow(2, slot, 1)?.f_copy_(&states)?;
        }
        let [keys, values] = &self.layers[layer];
        let first = match span {
            Span::Full => 0,
            Span::Sliding => (self.length - self.window).max(0),
        };
        if self.heads.fits_kernels(qkv.device(), qkv.kind()) {
            let begins: Vec<usize> = self.begins.iter().map(|&begin| begin.max(first as usize)).collect();
            let end = self.length as usize;
            return Ok(kernels::attend_cached(qkv, keys, values, self.heads.shape(), &begins, end));
        }
        self.heads.attend_cached(qkv, keys, values, &self.mask, first..self.length)
    }

    /// Keeps only the given rows, in this order.
    pub(crate) fn keep_rows(&mut self, rows: &[i64]) -> Result<()> {
        let index = Tensor::f_from_slice(rows)?.f_to_device(self.mask.device())?;
        for cache in self.layers.iter_mut().flatten() {
            *cache = cache.f_index_select(0, &index)?;
        }
        self.mask = self.mask.f_index_select(0, &index)?;
        self.begins = rows.iter().map(|&row| self.begins[row as usize]).collect();
        self.rows = rows.len() as i64;
        Ok(())
    }
}
