//! Attention heads: where they lie in a projection, and how queries score keys.

use fedward_native::{
    cuda,
    kernels::{self, AttentionShape},
};
use tch::{Device, Kind, Tensor};

use super::{ModelConfig, Result};

/// Widths of queries, keys and values inside one packed projection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(super) queries: i64,
    pub(super) key_values: i64,
    pub(super) width: i64,
    /// What scores are multiplied by.
    pub(super) scale: f64,
    /// Bound of the scores.
    softcap: Option<f64>,
}

impl Heads {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        Self {
            queries: config.num_attention_heads,
            key_values: config.num_key_value_heads,
            width: config.head_dim,
            scale: 1.0 / config.design.query_pre_attn_scalar.unwrap_or(config.head_dim as f64).sqrt(),
            softcap: config.design.attn_logit_softcapping,
        }
    }

    /// Whether kernels can attend to rows of up to `longest` tokens: without bounds of scores, and where no layer's window
    /// ends within a row.
    pub(crate) fn have_kernels(self, longest: usize, config: &ModelConfig, device: Device, kind: Kind) -> bool {
        let windowed = config.design.sliding.as_ref().is_some_and(|sliding| sliding.window < longest);
        self.fits_kernels(device, kind) && !windowed
    }

    /// Whether kernels know heads like these.
    pub(crate) fn fits_kernels(self, device: Device, kind: Kind) -> bool {
        kernels::available()
            && device == Device::Cpu
            && matches!(kind, Kind::Float | Kind::BFloat16)
            && self.softcap.is_none()
            && self.width % 16 == 0
            && self.repeats() <= 16
    }

    /// Whether a device attends to packed rows by itself, without a prefix that they share.
    pub(crate) fn fit_flash(self, device: Device, kind: Kind) -> bool {
        kind == Kind::BFloat16
            && self.softcap.is_none()
            && self.width % 8 == 0
            && self.width <= 256
            && cuda::has_flash_attention(device)
    }

    /// How a kernel finds heads in a projection.
    pub(crate) const fn shape(self) -> AttentionShape {
        AttentionShape {
            queries: self.queries as usize,
            key_values: self.key_values as usize,
            width: self.width as usize,
            scale: self.scale as f32,
        }
    }

    /// Columns of the queries.
    pub(crate) const fn query_columns(self) -> i64 {
        self.queries * self.width
    }

    /// Columns of the keys, and as many of the values.
    pub(crate) const fn key_columns(self) -> i64 {
        self.key_values * self.width
    }

    /// Heads that are rotated: queries and keys.
    pub(crate) const fn rotated(self) -> i64 {
        self.queries + self.key_values
    }

    /// Queries and keys of a fused projection, head by head.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[tokens, columns]` → `[tokens, queries + key_values, head_dim]`, a view.
    pub(crate) fn queries_and_keys(self, qkv: &Tensor) -> Result<Tensor> {
        let heads = self.rotated();
        Ok(qkv.f_narrow(1, 0, heads * self.width)?.f_view([-1, heads, self.width])?)
    }

    /// An empty cache of keys and values.
    ///
    /// # Shapes
    ///
    /// → `[rows, key_values, capacity, head_dim]` each
    pub(crate) fn empty_cache(self, rows: i64, capacity: i64, options: (Kind, Device)) -> Result<[Tensor; 2]> {
        let shape = [rows, self.key_values, capacity, self.width];
        Ok([Tensor::f_empty(shape, options)?, Tensor::f_empty(shape, options)?])
    }

    /// The keys (`half` 0) or values (`half` 1) of a fused projection.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[tokens, columns]` → `[tokens, key_values, head_dim]`.
    pub(crate) fn cached(self, qkv: &Tensor, half: usize) -> Result<Tensor> {
        let column = self.query_columns() + half as i64 * self.key_columns();
        Ok(qkv.f_narrow(1, column, self.key_columns())?.f_view([-1, self.key_values, self.width])?)
    }

    /// Attention of one new token a row over the slots `seen` of a cache.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[rows, columns]`; `keys`, `values`: as in [`Heads::empty_cache`]; `mask`: `[rows, 1, capacity]` →
    /// `[rows, query_columns]`.
    pub(crate) fn attend_cached(
        self,
        qkv: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mask: &Tensor,
        seen: std::ops::Range<i64>,
    ) -> Result<Tensor> {
        let (first, length) = (seen.start, seen.end - seen.start);
        let rows = qkv.size()[0];
        let batch = rows * self.key_values;
        let query = qkv.f_narrow(1, 0, self.query_columns())?.f_reshape([batch, self.repeats(), self.width])?;
        let filled = |cache: &Tensor| -> Result<Tensor> {
            Ok(cache.f_narrow(2, first, length)?.f_view([batch, length, self.width])?)
        };
        let mask = mask.f_narrow(2, first, length)?.f_expand([rows, self.key_values, length], false)?;
        let mask = mask.f_reshape([batch, 1, length])?;
        let attended =
            self.scores(&query, &filled(keys)?, &mask)?.f_softmax(-1, None::<Kind>)?.f_bmm(&filled(values)?)?;
        Ok(attended.f_view([rows, self.query_columns()])?)
    }

    pub(super) const fn repeats(self) -> i64 {
        self.queries / self.key_values
    }

    /// Masked scores of queries and keys.
    ///
    /// # Shapes
    ///
    /// `query`: `[batch, queries, head_dim]`, `key`: `[batch, keys, head_dim]`, `mask`: broadcasts to the result →
    /// `[batch, queries, keys]`.
    pub(super) fn scores(self, query: &Tensor, key: &Tensor, mask: &Tensor) -> Result<Tensor> {
        match self.softcap {
            None => Ok(mask.f_baddbmm(query, &key.f_transpose(1, 2)?, 1.0, self.scale)?),
            Some(cap) => Ok(self.saturation(query, key, cap)?.f_mul_scalar_(cap)?.f_add_(mask)?),
        }
    }

    /// `tanh(score / cap)`.
    fn saturation(self, query: &Tensor, key: &Tensor, cap: f64) -> Result<Tensor> {
        Ok(query.f_bmm(&key.f_transpose(1, 2)?)?.f_mul_scalar_(self.scale / cap)?.f_tanh_()?)
    }

    /// Gradient of the product of queries and keys, given that of the masked scores.
    pub(super) fn scores_backward(self, mut grad: Tensor, query: &Tensor, key: &Tensor) -> Result<Tensor> {
        let mut grad = grad.f_mul_scalar_(self.scale)?;
        if let Some(cap) = self.softcap {
            let slope = self.saturation(query, key, cap)?.f_square_()?.f_neg_()?.f_add_scalar_(1.0)?;
            let _ = grad.f_mul_(&slope)?;
        }
        Ok(grad)
    }
}
