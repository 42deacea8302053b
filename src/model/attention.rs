//! Causal grouped-query attention over packed rows, forward and backward.

use fedward_native::{cuda::FlashTape, kernels};
use tch::{Kind, Tensor};

use super::{
    Result, Span,
    attention_heads::Heads,
    packing::{Attention, AttentionGroup, PackedRows},
};

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
        Attention::Flash(flash) => {
            let (output, tape) = flash.attend(heads, qkv, span)?;
            return Ok((output, Softmax::Flash(tape)));
        }
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
