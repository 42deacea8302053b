//! Causal grouped-query attention over packed rows, forward and backward.

use fedward_native::{
    cuda::{self, FlashTape},
    kernels::{self, AttentionShape},
};
use tch::{Device, Kind, Tensor};

use super::{
    ModelConfig, Result, Span,
    packing::{Attention, AttentionGroup, PackedRows},
};

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

    const fn repeats(self) -> i64 {
        self.queries / self.key_values
    }

    /// Masked scores of queries and keys.
    ///
    /// # Shapes
    ///
    /// `query`: `[batch, queries, head_dim]`, `key`: `[batch, keys, head_dim]`, `mask`: broadcasts to the result →
    /// `[batch, queries, keys]`.
    fn scores(self, query: &Tensor, key: &Tensor, mask: &Tensor) -> Result<Tensor> {
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
    fn scores_backward(self, mut grad: Tensor, query: &Tensor, key: &Tensor) -> Result<Tensor> {
        let mut grad = grad.f_mul_scalar_(self.scale)?;
        if let Some(cap) = self.softcap {
            let slope = self.saturation(query, key, cap)?.f_square_()?.f_neg_()?.f_add_scalar_(1.0)?;
            let _ = grad.f_mul_(&slope)?;
        }
        Ok(grad)
    }
}

/// What the backward pass needs of the softmax.
pub(crate) enum Softmax {
    /// Logarithms of its sums, where a kernel computes the rest again.
    ///
    /// # Shapes
    ///
    /// `[tokens, queries]`
    LogSums(Tensor),
    /// The probabilities of each group; `None` where the backward pass computes them again.
    Probabilities(Vec<Option<Tensor>>),
    /// What the device keeps.
    Flash(FlashTape),
}

/// Attends within each row.
///
/// # Shapes
///
/// `qkv`: `[tokens, columns]`, rotated → `[tokens, query_columns]`.
pub(crate) fn attend(heads: Heads, qkv: &Tensor, packed: &PackedRows, span: Span) -> Result<(Tensor, Softmax)> {
    let groups = match &packed.attention {
        Attention::Groups(groups) => groups,
        Attention::Segments(segments) => {
            let (output, log_sums) = kernels::attend(qkv, heads.shape(), segments);
            return Ok((output, Softmax::LogSums(log_sums)));
        }
        Attention::Flash(flash) => return flash.attend(heads, qkv, span),
    };
    let output = Tensor::f_empty([qkv.size()[0], heads.query_columns()], (qkv.kind(), qkv.device()))?;
    let mut kept = Vec::with_capacity(groups.len());
    for group in groups {
        let operands = Operands::gather(heads, qkv, group)?;
        let probabilities = operands.probabilities(heads, &group.mask(span)?)?;
        let attended = probabilities.f_bmm(&operands.value)?;
        output.f_narrow(0, group.start, group.tokens)?.f_copy_(&unpad(heads, group, &attended)?)?;
        kept.push((!group.is_part).then_some(probabilities));
    }
    Ok((output, Softmax::Probabilities(kept)))
}

/// Gradient of [`attend`] with respect to `qkv`.
///
/// # Shapes
///
/// `grad`: `[tokens, query_columns]`, `qkv`: as in [`attend`] → `[tokens, columns]`.
pub(crate) fn attend_backward(
    heads: Heads,
    grad: &Tensor,
    qkv: &Tensor,
    kept: &Softmax,
    packed: &PackedRows,
    span: Span,
) -> Result<Tensor> {
    let (groups, kept) = match (&packed.attention, kept) {
        (Attention::Segments(segments), Softmax::LogSums(log_sums)) => {
            return Ok(kernels::attend_backward(grad, qkv, log_sums, heads.shape(), segments));
        }
        (Attention::Flash(flash), Softmax::Flash(tape)) => {
            return flash.attend_backward(heads, grad, tape, span);
        }
        (Attention::Groups(groups), Softmax::Probabilities(kept)) => (groups, kept),
        _ => unreachable!("the backward pass is of the same rows as the forward pass"),
    };
    // Many parts of a row add to the gradients of its first keys: too many roundings for bf16.
    let kind = if groups.iter().any(|group| group.is_part) { Kind::Float } else { qkv.kind() };
    let output = Tensor::f_empty(qkv.size(), (kind, qkv.device()))?;
    for (group, probabilities) in groups.iter().zip(kept) {
        let operands = Operands::gather(heads, qkv, group)?;
        let probabilities = match probabilities {
            Some(probabilities) => probabilities.shallow_clone(),
            None => operands.probabilities(heads, &group.mask(span)?)?,
        };
        let Operands { query, key, value } = operands;
        let grad = pad_grad(heads, group, grad)?;
        let grad_value = probabilities.f_transpose(1, 2)?.f_bmm(&grad)?;
        let grad_probabilities = grad.f_bmm(&value.f_transpose(1, 2)?)?;
        let grad_scores =
            Tensor::f_internal_softmax_backward_data(&grad_probabilities, &probabilities, -1, qkv.kind())?;
        let grad_scores = heads.scores_backward(grad_scores, &query, &key)?;
        let grad_query = grad_scores.f_bmm(&key)?;
        let grad_key = grad_scores.f_transpose(1, 2)?.f_bmm(&query)?;
        let own = output.f_narrow(0, group.start, group.tokens)?;
        own.f_narrow(1, 0, heads.query_columns())?.f_copy_(&unpad(heads, group, &grad_query)?)?;
        let mut column = heads.query_columns();
        for grad in [grad_key, grad_value] {
            let columns = output.f_narrow(1, column, heads.key_columns())?;
            spread_keys(heads, group, &grad, &columns)?;
            column += heads.key_columns();
        }
    }
    Ok(output.f_to_kind(qkv.kind())?)
}

/// Takes the gradient of a group's keys or values to the tokens that they are of: the group's own have it from here first,
/// to all others, which earlier groups own, it is added.
///
/// # Shapes
///
/// `grad`: `[rows × key_values, keys, head_dim]`, `columns`: `[all tokens, key_columns]`
fn spread_keys(heads: Heads, group: &AttentionGroup, grad: &Tensor, columns: &Tensor) -> Result<()> {
    let grad = grad.f_view([group.rows, heads.key_values, group.keys(), heads.width])?;
    columns.f_narrow(0, group.start, group.tokens)?.f_copy_(&own_keys(heads, group, &grad)?)?;
    let others = [(0, 0, group.prefix), (group.prefix, group.start - group.earlier, group.earlier)];
    for (key, token, count) in others.into_iter().filter(|&(.., count)| count > 0) {
        let grad = grad.f_narrow(2, key, count)?.f_sum_dim_intlist([0_i64].as_slice(), false, None)?;
        let grad = grad.f_transpose(0, 1)?.f_reshape([count, heads.key_columns()])?;
        let _ = columns.f_narrow(0, token, count)?.f_add_(&grad)?;
    }
    Ok(())
}

/// Queries, keys and values of one group.
///
/// # Shapes
///
/// `query`: `[rows × key_values, repeats × width, head_dim]`; `key`, `value`: `[rows × key_values, keys, head_dim]`.
struct Operands {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

impl Operands {
    fn gather(heads: Heads, qkv: &Tensor, group: &AttentionGroup) -> Result<Self> {
        let own = qkv.f_narrow(0, group.start - group.earlier, group.earlier + group.tokens)?;
        let own = match &group.padding {
            Some(padding) => own.f_index_select(0, &padding.gather)?,
            None => own,
        };
        let keys = |column: i64| -> Result<Tensor> {
            let own = own
                .f_narrow(1, column, heads.key_columns())?
                .f_view([group.rows, group.earlier + group.width, heads.key_values, heads.width])?
                .f_transpose(1, 2)?;
            let all = if group.prefix > 0 {
                let shared = qkv
                    .f_narrow(0, 0, group.prefix)?
                    .f_narrow(1, column, heads.key_columns())?
                    .f_view([1, group.prefix, heads.key_values, heads.width])?
                    .f_transpose(1, 2)?
                    .f_expand([group.rows, heads.key_values, group.prefix, heads.width], false)?;
                Tensor::f_cat(&[shared, own], 2)?
            } else {
                own
            };
            Ok(all.f_reshape([group.rows * heads.key_values, group.keys(), heads.width])?)
        };
        let queries = own.f_narrow(0, group.earlier, group.rows * group.width)?;
        let query = split_queries(heads, group, &queries.f_narrow(1, 0, heads.query_columns())?)?;
        let key = keys(heads.query_columns())?;
        let value = keys(heads.query_columns() + heads.key_columns())?;
        Ok(Self { query, key, value })
    }

    /// # Shapes
    ///
    /// → `[rows × key_values, repeats × width, keys]`
    fn probabilities(&self, heads: Heads, mask: &Tensor) -> Result<Tensor> {
        Ok(heads.scores(&self.query, &self.key, mask)?.f_softmax(-1, None::<Kind>)?)
    }
}

/// `[rows × width, query_columns]` → `[rows × key_values, repeats × width, head_dim]`.
fn split_queries(heads: Heads, group: &AttentionGroup, padded: &Tensor) -> Result<Tensor> {
    Ok(padded
        .f_view([group.rows, group.width, heads.key_values, heads.repeats(), heads.width])?
        .f_permute([0, 2, 3, 1, 4])?
        .f_reshape([group.rows * heads.key_values, heads.repeats() * group.width, heads.width])?)
}

/// Takes the padding out again: `[rows × key_values, repeats × width, head_dim]` → `[tokens, query_columns]`.
fn unpad(heads: Heads, group: &AttentionGroup, split: &Tensor) -> Result<Tensor> {
    let padded = split
        .f_view([group.rows, heads.key_values, heads.repeats(), group.width, heads.width])?
        .f_permute([0, 3, 1, 2, 4])?
        .f_reshape([group.rows * group.width, heads.query_columns()])?;
    take_own(group, padded)
}

/// `[rows, key_values, keys, head_dim]` → `[tokens, key_columns]`, own tokens alone.
fn own_keys(heads: Heads, group: &AttentionGroup, keys: &Tensor) -> Result<Tensor> {
    let padded = keys
        .f_narrow(2, group.prefix + group.earlier, group.width)?
        .f_transpose(1, 2)?
        .f_reshape([group.rows * group.width, heads.key_columns()])?;
    take_own(group, padded)
}

fn take_own(group: &AttentionGroup, padded: Tensor) -> Result<Tensor> {
    match &group.padding {
        Some(padding) => Ok(padded.f_index_select(0, &padding.slots)?),
        None => Ok(padded),
    }
}

/// The group's part of a gradient, zero in padding.
fn pad_grad(heads: Heads, group: &AttentionGroup, grad: &Tensor) -> Result<Tensor> {
    let own = grad.f_narrow(0, group.start, group.tokens)?;
    let padded = match &group.padding {
        Some(padding) => {
            let mut zeros =
                Tensor::f_zeros([group.rows * group.width, heads.query_columns()], (grad.kind(), grad.device()))?;
            zeros.f_index_copy_(0, &padding.slots, &own)?
        }
        None => own,
    };
    split_queries(heads, group, &padded)
}
