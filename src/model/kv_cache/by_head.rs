//! A cache in which the tokens of each head lie together.

use fedward_native::kernels;
use tch::{Device, Kind, Tensor};

use super::Places;
use crate::model::{ModelConfig, Result, Span, attention_heads::Heads};

/// What matrix products and the kernels of the CPU attend to.
pub(super) struct ByHead {
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
    /// Slots that a layer of [`Span::Sliding`] looks at.
    window: i64,
}

impl ByHead {
    /// Room for rows whose prompts begin at `begins`.
    pub(super) fn new(
        config: &ModelConfig,
        begins: &[usize],
        capacity: i64,
        (kind, device): (Kind, Device),
    ) -> Result<Self> {
        let heads = Heads::new(config);
        let rows = begins.len() as i64;
        let padding = begins.iter().copied().max().unwrap_or(0);
        let empty = |_| -> Result<[Tensor; 2]> {
            let halves = heads.empty_cache(rows, capacity, (kind, device))?;
            for half in &halves {
                // Padding is masked, but what is masked must be a number: zero times NaN is NaN.
                let _ = half.f_narrow(2, 0, padding as i64)?.f_zero_()?;
            }
            Ok(halves)
        };
        let layers = (0..config.num_hidden_layers).map(empty).collect::<Result<_>>()?;
        let mut mask = vec![0.0_f32; begins.len() * capacity as usize];
        for (line, &begin) in mask.chunks_mut(capacity as usize).zip(begins) {
            line[..begin].fill(f32::NEG_INFINITY);
        }
        let mask = Tensor::f_from_slice(&mask)?.f_view([rows, 1, capacity])?.f_to_device(device)?.f_to_kind(kind)?;
        let window = config.design.sliding.as_ref().map_or(i64::MAX, |sliding| sliding.window as i64);
        Ok(Self { heads, layers, mask, window })
    }

    pub(super) fn store(&mut self, layer: usize, qkv: &Tensor, places: &Places) -> Result<()> {
        for (half, cache) in self.layers[layer].iter_mut().enumerate() {
            let states = self.heads.cached(qkv, half)?.f_index_select(0, &places.tokens)?;
            let _ = cache.f_index_put_(&[Some(&places.rows), None, Some(&places.slots)], &states, false)?;
        }
        Ok(())
    }

    pub(super) fn grow(&mut self, before: i64, capacity: i64) -> Result<()> {
        let rows = self.mask.size()[0];
        let options = (self.mask.kind(), self.mask.device());
        for layer in &mut self.layers {
            let larger = self.heads.empty_cache(rows, capacity, options)?;
            for (large, small) in larger.iter().zip(layer.iter()) {
                large.f_narrow(2, 0, before)?.f_copy_(small)?;
            }
            *layer = larger;
        }
        let more = Tensor::f_zeros([rows, 1, capacity - before], options)?;
        self.mask = Tensor::f_cat(&[&self.mask, &more], 2)?;
        Ok(())
    }

    pub(super) fn attend(
        &mut self,
        layer: usize,
        span: Span,
        qkv: &Tensor,
        begins: &[usize],
        length: i64,
    ) -> Result<Tensor> {
        for (half, cache) in self.layers[layer].iter().enumerate() {
            let states = self.heads.cached(qkv, half)?.f_unsqueeze(2)?;
            cache.f_narrow(2, length - 1, 1)?.f_copy_(&states)?;
        }
        let [keys, values] = &self.layers[layer];
        let first = match span {
            Span::Full => 0,
            Span::Sliding => (length - self.window).max(0),
        };
        if self.heads.fits_kernels(qkv.device(), qkv.kind()) {
            let begins: Vec<usize> = begins.iter().map(|&begin| begin.max(first as usize)).collect();
            return Ok(kernels::attend_cached(qkv, keys, values, self.heads.shape(), &begins, length as usize));
        }
        self.heads.attend_cached(qkv, keys, values, &self.mask, first..length)
    }

    pub(super) fn keep_rows(&mut self, index: &Tensor) -> Result<()> {
        for cache in self.layers.iter_mut().flatten() {
            *cache = cache.f_index_select(0, index)?;
        }
        self.mask = self.mask.f_index_select(0, index)?;
        Ok(())
    }
}
