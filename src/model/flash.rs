//! Attention that a CUDA device computes by itself, row by row.

use fedward_native::cuda::{self, FlashOperands, FlashRows, FlashScores, FlashTape};
use tch::{Device, Tensor};

use super::{ModelConfig, Result, Span, attention_heads::Heads};

/// Rows, none of which shares a prefix with others.
#[derive(Debug)]
pub(crate) struct FlashAttention {
    rows: FlashRows,
    scores: Scores,
}

/// How layers score keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scores {
    scale: f64,
    /// Tokens that layers of [`Span::Sliding`] see.
    window: Option<i64>,
}

impl Scores {
    pub(super) fn new(heads: Heads, config: &ModelConfig) -> Self {
        let window = config.design.sliding.as_ref().map(|sliding| sliding.window as i64);
        Self { scale: heads.scale, window }
    }

    /// Those of a layer.
    pub(super) fn of(self, span: Span) -> FlashScores {
        let window = match span {
            Span::Full => None,
            Span::Sliding => self.window,
        };
        FlashScores { scale: self.scale, window }
    }
}

impl FlashAttention {
    /// Rows of `lengths` tokens, in the order in which they lie.
    pub(super) fn new(lengths: &[usize], heads: Heads, config: &ModelConfig, device: Device) -> Result<Self> {
        let mut starts = vec![0_i32];
        for &length in lengths {
            starts.push(starts.last().copied().unwrap_or(0) + length as i32);
        }
        let starts = Tensor::f_from_slice(&starts)?.f_to_device(device)?;
        let longest = lengths.iter().copied().max().unwrap_or(0) as i64;
        Ok(Self { rows: FlashRows { starts, longest }, scores: Scores::new(heads, config) })
    }

    fn operands(heads: Heads, qkv: &Tensor) -> Result<FlashOperands> {
        let all = heads.queries + 2 * heads.key_values;
        let parts = [heads.queries, heads.key_values, heads.key_values];
        let parts = qkv.f_view([-1, all, heads.width])?.f_split_with_sizes(parts, 1)?;
        let Ok([query, key, value]) = <[Tensor; 3]>::try_from(parts) else { unreachable!("three sizes, three parts") };
        Ok(FlashOperands { query, key, value })
    }

    pub(super) fn attend(&self, heads: Heads, qkv: &Tensor, span: Span) -> Result<(Tensor, FlashTape)> {
        let operands = Self::operands(heads, qkv)?;
        let (output, tape) = cuda::flash_attention(operands, &self.rows, self.scores.of(span))?;
        Ok((output.f_view([-1, heads.query_columns()])?, tape))
    }

    pub(super) fn attend_backward(&self, heads: Heads, grad: &Tensor, tape: &FlashTape, span: Span) -> Result<Tensor> {
        let tokens = grad.size()[0];
        let grad = grad.f_view([-1, heads.queries, heads.width])?;
        let grads = cuda::flash_attention_backward(&grad, tape, &self.rows, self.scores.of(span))?;
        Ok(Tensor::f_cat(&grads, 1)?.f_view([tokens, -1])?)
    }
}
