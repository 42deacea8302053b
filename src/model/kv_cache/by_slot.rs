//! A cache in which keys and values of each token lie together.

use fedward_native::cuda::{self, CachedRows, FlashOperands};
use tch::{Device, Kind, Tensor};

use super::Places;
use crate::model::{ModelConfig, Result, Span, attention_heads::Heads, flash::Scores};

/// What `FlashAttention` attends to: it takes each row from where it begins to where it ends, so that padding is not read.
pub(super) struct BySlot {
    heads: Heads,
    /// Keys, then values, of each layer.
    ///
    /// # Shapes
    ///
    /// `[rows, capacity, 2 × key_values, head_dim]` each
    layers: Vec<Tensor>,
    rows: CachedRows,
    scores: Scores,
}

impl BySlot {
    /// Room for rows whose prompts begin at `begins` and end at `longest`.
    pub(super) fn new(
        config: &ModelConfig,
        begins: &[usize],
        longest: usize,
        capacity: i64,
        device: Device,
    ) -> Result<Self> {
        let heads = Heads::new(config);
        let shape = [begins.len() as i64, capacity, 2 * heads.key_values, heads.width];
        let empty = |_| -> Result<Tensor> { Ok(Tensor::f_empty(shape, (Kind::BFloat16, device))?) };
        let layers = (0..config.num_hidden_layers).map(empty).collect::<Result<_>>()?;
        let lengths: Vec<i32> = begins.iter().map(|begin| (longest - begin) as i32).collect();
        let rows = CachedRows {
            queries: counted(begins.len() as i64, device)?,
            starts: starts(begins, capacity, device)?,
            lengths: Tensor::f_from_slice(&lengths)?.f_to_device(device)?,
        };
        Ok(Self { heads, layers, rows, scores: Scores::new(heads, config) })
    }

    pub(super) fn store(&mut self, layer: usize, qkv: &Tensor, places: &Places) -> Result<()> {
        let states = self.states(qkv)?.f_index_select(0, &places.tokens)?;
        let _ = self.layers[layer].f_index_put_(&[Some(&places.rows), Some(&places.slots)], &states, false)?;
        Ok(())
    }

    pub(super) fn advance(&mut self) -> Result<()> {
        let _ = self.rows.lengths.f_add_scalar_(1)?;
        Ok(())
    }

    pub(super) fn grow(&mut self, before: i64, capacity: i64, begins: &[usize]) -> Result<()> {
        let shape = [begins.len() as i64, capacity, 2 * self.heads.key_values, self.heads.width];
        for layer in &mut self.layers {
            let larger = Tensor::f_empty(shape, (layer.kind(), layer.device()))?;
            larger.f_narrow(1, 0, before)?.f_copy_(layer)?;
            *layer = larger;
        }
        self.rows.starts = starts(begins, capacity, self.rows.starts.device())?;
        Ok(())
    }

    pub(super) fn attend(&mut self, layer: usize, span: Span, qkv: &Tensor, length: i64) -> Result<Tensor> {
        let cache = &self.layers[layer];
        cache.f_narrow(1, length - 1, 1)?.f_copy_(&self.states(qkv)?.f_unsqueeze(1)?)?;
        let (query_columns, key_values) = (self.heads.query_columns(), self.heads.key_values);
        let all = cache.f_view([-1, 2 * key_values, self.heads.width])?;
        let operands = FlashOperands {
            query: qkv.f_narrow(1, 0, query_columns)?.f_view([-1, self.heads.queries, self.heads.width])?,
            key: all.f_narrow(1, 0, key_values)?,
            value: all.f_narrow(1, key_values, key_values)?,
        };
        let output = cuda::flash_attention_cached(&operands, &self.rows, length, self.scores.of(span))?;
        Ok(output.f_reshape([-1, query_columns])?)
    }

    pub(super) fn keep_rows(&mut self, index: &Tensor, begins: &[usize], capacity: i64) -> Result<()> {
        for layer in &mut self.layers {
            *layer = layer.f_index_select(0, index)?;
        }
        let device = index.device();
        self.rows = CachedRows {
            queries: counted(begins.len() as i64, device)?,
            starts: starts(begins, capacity, device)?,
            lengths: self.rows.lengths.f_index_select(0, index)?,
        };
        Ok(())
    }

    /// Keys and values of a fused projection.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[tokens, columns]` → `[tokens, 2 × key_values, head_dim]`, a view.
    fn states(&self, qkv: &Tensor) -> Result<Tensor> {
        let columns = 2 * self.heads.key_columns();
        let states = qkv.f_narrow(1, self.heads.query_columns(), columns)?;
        Ok(states.f_view([-1, 2 * self.heads.key_values, self.heads.width])?)
    }
}

/// 0, 1, 2, …, `rows`: where the one query of each row lies.
fn counted(rows: i64, device: Device) -> Result<Tensor> {
    Ok(Tensor::f_arange(rows + 1, (Kind::Int, device))?)
}

/// Where the tokens of each row begin when rows of `capacity` slots lie one behind the other, and where the last one ends.
fn starts(begins: &[usize], capacity: i64, device: Device) -> Result<Tensor> {
    let rows = (0..).zip(begins).map(|(row, &begin)| row * capacity as i32 + begin as i32);
    let starts: Vec<i32> = rows.chain([begins.len() as i32 * capacity as i32]).collect();
    Ok(Tensor::f_from_slice(&starts)?.f_to_device(device)?)
}
