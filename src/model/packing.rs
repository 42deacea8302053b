//! Rows of different lengths on one axis: no padding in any linear layer, and a prefix that all rows share only once.

mod groups;

use fedward_native::kernels::Segment;
use tch::{Device, Kind, Tensor};

pub(crate) use self::groups::AttentionGroup;
use self::groups::{most_scores, plan_groups};
use super::{ModelConfig, ModelError, Result, attention_heads::Heads, flash::FlashAttention, rope::Rotations};

/// A prefix shorter than this is not worth an attention group of its own.
const SHORTEST_SHARED_PREFIX: usize = 4;

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
            Attention::Flash(FlashAttention::new(&lengths, heads, config, device)?)
        } else if heads.have_kernels(longest, config, device, kind) {
            let shared = computes_prefix.then_some(Segment { start: 0, tokens: prefix, prefix: 0 });
            let own = |&row: &usize| Segment { start: starts[row], tokens: rows[row].len() - prefix, prefix };
            Attention::Segments(shared.into_iter().chain(order.iter().map(own)).collect())
        } else {
            let own: Vec<usize> = order.iter().map(|&row| rows[row].len() - prefix).collect();
            let first = order.first().map_or(0, |&row| starts[row]);
            let plans = plan_groups(first, &own, prefix, computes_prefix, most_scores(heads));
            let groups = plans.iter().map(|plan| AttentionGroup::new(plan, config, device, kind));
            Attention::Groups(groups.collect::<Result<_>>()?)
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
