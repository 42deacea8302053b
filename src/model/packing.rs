//! Rows of different lengths on one axis: no padding in any linear layer, and a prefix that all rows share only once.

use fedward_native::kernels::Segment;
use tch::{Device, Kind, Tensor};

use super::{ModelConfig, ModelError, Result, Span, attention::Heads, flash::FlashAttention, rope::Rotations};

/// A prefix shorter than this is not worth an attention group of its own.
const SHORTEST_SHARED_PREFIX: usize = 4;

/// Most attention scores of one group (heads × queries × keys), which bounds its memory to 64 MiB in `f32`.
const MAX_GROUP_SCORES: i64 = 1 << 24;

/// Rows laid out one after another: first the tokens that all rows begin with, then each row's own tokens.
///
/// Every layer but attention treats tokens alone, so it sees them packed. Attention works on [`Attention`].
pub(crate) struct PackedRows {
    /// Token ids.
    ///
    /// # Shapes
    ///
    /// `[tokens]`
    pub(crate) ids: Tensor,
    /// Rotation of each token.
    pub(crate) rotations: Rotations,
    /// Which tokens attend to which.
    pub(crate) attention: Attention,
    /// Tokens that all rows share.
    prefix: usize,
    /// Where each row's own tokens begin on the packed axis.
    starts: Vec<usize>,
    /// Tokens of each row, the shared ones included.
    lengths: Vec<usize>,
}

/// Which tokens attend to which.
pub(crate) enum Attention {
    /// Row by row, where there are kernels for it.
    Segments(Vec<Segment>),
    /// Rows of similar length together, for libtorch.
    Groups(Vec<AttentionGroup>),
    /// Row by row, where libtorch has a kernel for it. No prefix is shared then.
    Flash(FlashAttention),
}

/// Rows of similar length, whose attention is computed together.
///
/// Own tokens are padded on the right to `width`; under the causal mask no real token sees padding.
pub(crate) struct AttentionGroup {
    /// First own token on the packed axis.
    pub(crate) start: i64,
    /// Own tokens, padding not counted.
    pub(crate) tokens: i64,
    /// Rows.
    pub(crate) rows: i64,
    /// Own tokens of the longest row.
    pub(crate) width: i64,
    /// Shared tokens in front of the own ones, at the begin of the packed axis.
    pub(crate) prefix: i64,
    /// How own tokens are padded; `None` where all rows have the same length.
    pub(crate) padding: Option<Padding>,
    /// Zero where a query may look, minus infinity elsewhere.
    ///
    /// # Shapes
    ///
    /// `[1, heads per key-value head × width, prefix + width]`
    mask: Tensor,
    /// The same for layers that look at the last tokens alone, where that is less.
    window_mask: Option<Tensor>,
}

/// Indices between packed and padded tokens.
pub(crate) struct Padding {
    /// For each padded slot the own token in it (any token in padding).
    ///
    /// # Shapes
    ///
    /// `[rows × width]`
    pub(crate) gather: Tensor,
    /// For each own token its padded slot.
    ///
    /// # Shapes
    ///
    /// `[tokens]`
    pub(crate) slots: Tensor,
}

/// Tokens that rows share.
#[derive(Clone, Copy)]
struct Prefix {
    tokens: usize,
    /// Whether an earlier pass has computed them.
    is_computed: bool,
}

impl PackedRows {
    /// Packs `rows`, which [`check_rows`] has accepted, sharing their common prefix if `share_prefix`.
    pub(crate) fn new(
        rows: &[&[u32]],
        share_prefix: bool,
        config: &ModelConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        let mut prefix = if share_prefix { shared_prefix(rows) } else { 0 };
        if Heads::new(config).fit_flash(device, kind) {
            // Rows that share no prefix have the faster attention. Where sharing begins to pay was not measured: half is a guess.
            let tokens: usize = rows.iter().map(|row| row.len()).sum();
            let saved = prefix * rows.len().saturating_sub(1);
            prefix = if 2 * saved < tokens { 0 } else { prefix };
        }
        Self::lay_out(rows, Prefix { tokens: prefix, is_computed: false }, config, device, kind)
    }

    /// Packs what follows the first `computed` tokens of `rows`: all rows share them, and an earlier pass has computed them.
    /// They keep their place at the begin of the packed axis, but `ids` and `rotations` leave them out.
    pub(crate) fn behind(
        computed: usize,
        rows: &[&[u32]],
        config: &ModelConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        Self::lay_out(rows, Prefix { tokens: computed, is_computed: true }, config, device, kind)
    }

    fn lay_out(
        rows: &[&[u32]],
        Prefix { tokens: prefix, is_computed }: Prefix,
        config: &ModelConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        let computes_prefix = prefix > 0 && !is_computed;
        if computes_prefix {
            ids.extend(rows.iter().take(1).flat_map(|row| &row[..prefix]).map(|&id| i64::from(id)));
            positions.extend(0..prefix);
        }
        let left_out = if is_computed { prefix } else { 0 };
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&row| std::cmp::Reverse(rows[row].len()));
        let mut starts = vec![0; rows.len()];
        for &row in &order {
            starts[row] = left_out + ids.len();
            ids.extend(rows[row][prefix..].iter().map(|&id| i64::from(id)));
            positions.extend(prefix..rows[row].len());
        }
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let heads = Heads::new(config);
        let attention = if prefix == 0 && heads.fit_flash(device, kind) {
            let lengths: Vec<usize> = order.iter().map(|&row| rows[row].len()).collect();
            Attention::Flash(FlashAttention::new(&lengths, config, device)?)
        } else if heads.have_kernels(longest, config, device, kind) {
            let shared = computes_prefix.then_some(Segment { start: 0, tokens: prefix, prefix: 0 });
            let own = |&row: &usize| Segment { start: starts[row], tokens: rows[row].len() - prefix, prefix };
            Attention::Segments(shared.into_iter().chain(order.iter().map(own)).collect())
        } else {
            let mut groups = Vec::new();
            if computes_prefix {
                groups.push(AttentionGroup::new(0, &[prefix], 0, config, device, kind)?);
            }
            for members in group_by_length(&order, rows, prefix, config.num_attention_heads) {
                let own: Vec<usize> = members.iter().map(|&row| rows[row].len() - prefix).collect();
                let start = members.first().map_or(0, |&row| starts[row]);
                groups.push(AttentionGroup::new(start, &own, prefix, config, device, kind)?);
            }
            Attention::Groups(groups)
        };
        Ok(Self {
            ids: Tensor::f_from_slice(&ids)?.f_to_device(device)?,
            rotations: Rotations::new(config, &positions, device, kind)?,
            attention,
            prefix,
            starts,
            lengths: rows.iter().map(|row| row.len()).collect(),
        })
    }

    /// Tokens that all rows share.
    pub(crate) const fn prefix(&self) -> usize {
        self.prefix
    }

    /// Where a row's own tokens lie on the packed axis.
    pub(crate) fn own(&self, row: usize) -> std::ops::Range<usize> {
        let start = self.starts[row];
        start..start + self.lengths[row] - self.prefix
    }

    /// Where the token at `position` of a row lies on the packed axis.
    pub(crate) fn index(&self, row: usize, position: usize) -> i64 {
        let index = if position < self.prefix { position } else { self.starts[row] + position - self.prefix };
        index as i64
    }
}

impl AttentionGroup {
    fn new(
        start: usize,
        own: &[usize],
        prefix: usize,
        config: &ModelConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        let width = own.iter().copied().max().unwrap_or(0);
        let tokens: usize = own.iter().sum();
        let padding = if tokens == width * own.len() { None } else { Some(Padding::new(own, width, device)?) };
        let repeats = config.num_attention_heads / config.num_key_value_heads;
        let mask = |window: Option<usize>| -> Result<Tensor> {
            let mask = causal_mask(width, prefix, window)?.f_repeat([1, repeats, 1])?;
            Ok(mask.f_to_device(device)?.f_to_kind(kind)?)
        };
        let window = config.design.sliding.as_ref().map(|sliding| sliding.window);
        let window = window.filter(|&window| window < prefix + width);
        Ok(Self {
            start: start as i64,
            tokens: tokens as i64,
            rows: own.len() as i64,
            width: width as i64,
            prefix: prefix as i64,
            padding,
            mask: mask(None)?,
            window_mask: window.map(|window| mask(Some(window))).transpose()?,
        })
    }

    /// Zero where a query may look in a layer of `span`, minus infinity elsewhere.
    ///
    /// # Shapes
    ///
    /// → `[1, heads per key-value head × width, prefix + width]`
    pub(crate) fn mask(&self, span: Span) -> &Tensor {
        match (&self.window_mask, span) {
            (Some(mask), Span::Sliding) => mask,
            _ => &self.mask,
        }
    }
}

impl Padding {
    fn new(own: &[usize], width: usize, device: Device) -> Result<Self> {
        let mut gather = vec![0_i64; own.len() * width];
        let mut slots = Vec::new();
        for (row, &length) in own.iter().enumerate() {
            for position in 0..length {
                let slot = row * width + position;
                gather[slot] = slots.len() as i64;
                slots.push(slot as i64);
            }
        }
        let place = |values: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(values)?.f_to_device(device)?) };
        Ok(Self { gather: place(&gather)?, slots: place(&slots)? })
    }
}

/// `[1, width, prefix + width]`: own token `i` sees the prefix and own tokens up to itself, of them the last `window`.
fn causal_mask(width: usize, prefix: usize, window: Option<usize>) -> Result<Tensor> {
    let (width, prefix) = (width as i64, prefix as i64);
    let blocked = Tensor::f_full([1, width, prefix + width], f64::NEG_INFINITY, (Kind::Float, Device::Cpu))?;
    let later = blocked.f_triu(prefix + 1)?;
    match window {
        None => Ok(later),
        Some(window) => Ok(blocked.f_tril(prefix - window as i64)?.f_add_(&later)?),
    }
}

/// Checks that a model can take rows.
///
/// # Errors
///
/// [`ModelError::Unusable`] if a row is empty, too long or holds an unknown token id.
pub(crate) fn check_rows<'r>(rows: impl IntoIterator<Item = &'r [u32]>, config: &ModelConfig) -> Result<()> {
    for (number, row) in rows.into_iter().enumerate() {
        if row.is_empty() {
            return Err(ModelError::Unusable(format!("row {number} has no tokens")));
        }
        if row.len() > config.max_position_embeddings {
            return Err(ModelError::Unusable(format!(
                "row {number} has {} tokens, more than the model's context of {}; truncate it",
                row.len(),
                config.max_position_embeddings
            )));
        }
        if let Some(id) = row.iter().find(|&&id| i64::from(id) >= config.vocab_size) {
            return Err(ModelError::Unusable(format!(
                "row {number} holds token id {id}, but the vocabulary has {} tokens; is the tokenizer another model's?",
                config.vocab_size
            )));
        }
    }
    Ok(())
}

/// As [`shared_prefix`], of tokens that a pass is sure to compute once: none where the device may compute them for each row.
pub(crate) fn surely_shared_prefix(rows: &[&[u32]], config: &ModelConfig, device: Device, kind: Kind) -> usize {
    if Heads::new(config).fit_flash(device, kind) { 0 } else { shared_prefix(rows) }
}

/// How many tokens all rows begin with, leaving each row at least one of its own; 0 where sharing is not worth it.
fn shared_prefix(rows: &[&[u32]]) -> usize {
    let [first, others @ ..] = rows else { return 0 };
    if others.is_empty() {
        return 0;
    }
    let shortest = rows.iter().map(|row| row.len()).min().unwrap_or(0);
    let shared = (0..shortest.saturating_sub(1))
        .take_while(|&position| others.iter().all(|row| row[position] == first[position]))
        .count();
    if shared < SHORTEST_SHARED_PREFIX { 0 } else { shared }
}

/// Cuts rows, sorted from long to short, where padding would exceed a third or scores their bound.
fn group_by_length<'a>(order: &'a [usize], rows: &[&[u32]], prefix: usize, heads: i64) -> Vec<&'a [usize]> {
    let own = |row: usize| rows[row].len() - prefix;
    let mut groups = Vec::new();
    if order.is_empty() {
        return groups;
    }
    let mut begin = 0;
    let mut tokens = 0;
    for (place, &row) in order.iter().enumerate() {
        let width = own(order[begin]);
        let members = place - begin + 1;
        let scores = (members * width * (width + prefix)) as i64 * heads;
        let padded_too_much = 3 * members * width > 4 * (tokens + own(row)) + 64;
        if place > begin && (scores > MAX_GROUP_SCORES || padded_too_much) {
            groups.push(&order[begin..place]);
            (begin, tokens) = (place, 0);
        }
        tokens += own(row);
    }
    groups.push(&order[begin..]);
    groups
}
