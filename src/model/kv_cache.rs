//! Keys and values of the tokens so far, for generation.

mod by_head;
mod by_slot;

use tch::{Device, Kind, Tensor};

use self::{by_head::ByHead, by_slot::BySlot};
use super::{ModelConfig, PackedRows, Result, Span, attention_heads::Heads};

/// Slots by which the cache grows at least.
const GROWTH: i64 = 128;

/// Bytes of the keys and values of one token in all layers.
pub(crate) fn bytes_a_token(config: &ModelConfig, kind: Kind) -> usize {
    let columns = 2 * Heads::new(config).key_columns() as usize;
    config.num_hidden_layers * columns * kind.elt_size_in_bytes()
}

/// Keys and values of a batch of rows. Prompts end at the same slot, so each row is padded on the left.
pub(crate) struct KvCache {
    layout: Layout,
    /// The first slot of each row that is no padding.
    begins: Vec<usize>,
    capacity: i64,
    /// What the capacity never exceeds.
    most_slots: i64,
    /// Slots in use.
    length: i64,
    device: Device,
}

/// How keys and values lie in memory: it depends on what attends to them.
enum Layout {
    ByHead(ByHead),
    BySlot(BySlot),
}

/// Where tokens of prompts go.
///
/// # Shapes
///
/// `[tokens]` each
pub(crate) struct Places {
    /// Where each lies on the packed axis.
    tokens: Tensor,
    rows: Tensor,
    slots: Tensor,
}

impl KvCache {
    /// A cache whose rows have prompts of `lengths` tokens and will have `most_slots` slots at most.
    pub(crate) fn new(
        config: &ModelConfig,
        lengths: &[usize],
        most_slots: usize,
        (kind, device): (Kind, Device),
    ) -> Result<Self> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let most_slots = most_slots.max(longest) as i64;
        let capacity = most_slots.min(longest as i64 + GROWTH);
        let begins: Vec<usize> = lengths.iter().map(|length| longest - length).collect();
        let layout = if Heads::new(config).fit_flash(device, kind) {
            Layout::BySlot(BySlot::new(config, &begins, longest, capacity, device)?)
        } else {
            Layout::ByHead(ByHead::new(config, &begins, capacity, (kind, device))?)
        };
        Ok(Self { layout, begins, capacity, most_slots, length: longest as i64, device })
    }

    /// Where the prompt tokens of rows `first..first + count` go, which are the rows of `packed`.
    pub(crate) fn places(&self, packed: &PackedRows, first: usize, count: usize) -> Result<Places> {
        let (mut tokens, mut rows, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..count {
            let begin = self.begins[first + row] as i64;
            for position in 0..packed.prefix() + packed.own(row).len() {
                tokens.push(packed.index(row, position));
                rows.push((first + row) as i64);
                slots.push(begin + position as i64);
            }
        }
        let place = |values: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(values)?.f_to_device(self.device)?) };
        Ok(Places { tokens: place(&tokens)?, rows: place(&rows)?, slots: place(&slots)? })
    }

    /// Stores tokens of prompts.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[packed tokens, columns]`, rotated.
    pub(crate) fn store_prompts(&mut self, layer: usize, qkv: &Tensor, places: &Places) -> Result<()> {
        match &mut self.layout {
            Layout::ByHead(layout) => layout.store(layer, qkv, places),
            Layout::BySlot(layout) => layout.store(layer, qkv, places),
        }
    }

    /// Makes room for one more token a row.
    pub(crate) fn advance(&mut self) -> Result<()> {
        if self.length == self.capacity {
            let grown = self.most_slots.min(self.capacity + GROWTH.max(self.capacity / 2));
            match &mut self.layout {
                Layout::ByHead(layout) => layout.grow(self.capacity, grown)?,
                Layout::BySlot(layout) => layout.grow(self.capacity, grown, &self.begins)?,
            }
            self.capacity = grown;
        }
        self.length += 1;
        match &mut self.layout {
            Layout::ByHead(_) => Ok(()),
            Layout::BySlot(layout) => layout.advance(),
        }
    }

    /// Stores the newest token of each row and lets it look at all tokens of its row.
    ///
    /// # Shapes
    ///
    /// `qkv`: `[rows, columns]`, rotated → `[rows, query_columns]`.
    pub(crate) fn attend(&mut self, layer: usize, span: Span, qkv: &Tensor) -> Result<Tensor> {
        match &mut self.layout {
            Layout::ByHead(layout) => layout.attend(layer, span, qkv, &self.begins, self.length),
            Layout::BySlot(layout) => layout.attend(layer, span, qkv, self.length),
        }
    }

    /// Keeps only the given rows, in this order.
    pub(crate) fn keep_rows(&mut self, rows: &[i64]) -> Result<()> {
        let index = Tensor::f_from_slice(rows)?.f_to_device(self.device)?;
        self.begins = rows.iter().map(|&row| self.begins[row as usize]).collect();
        match &mut self.layout {
            Layout::ByHead(layout) => layout.keep_rows(&index),
            Layout::BySlot(layout) => layout.keep_rows(&index, &self.begins, self.capacity),
        }
    }
}
