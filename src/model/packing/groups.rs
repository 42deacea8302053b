//! Rows of similar length put together, and long ones cut, for attention by libtorch.

use tch::{Device, Kind, Tensor};

use crate::model::{ModelConfig, Result, Span, attention_heads::Heads};

/// Most attention scores of one group (heads × queries × keys), which bounds its memory to 64 MiB in `f32`. A row that has
/// more is cut into groups.
const MAX_GROUP_SCORES: usize = 1 << 24;

/// Rows of similar length, whose attention is computed together, or a part of a long row.
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
    /// Shared tokens that the own ones see, at the begin of the packed axis.
    pub(crate) prefix: i64,
    /// Tokens of the same row that the own ones see, right in front of them on the packed axis; of a row's later parts alone.
    pub(crate) earlier: i64,
    /// Whether this is a part of a row. Its probabilities would take memory by the square of the row's length.
    pub(crate) is_part: bool,
    /// How own tokens are padded; `None` where all rows have the same length.
    pub(crate) padding: Option<Padding>,
    masks: Masks,
}

/// What each query of a group may see.
struct Masks {
    /// Own tokens of the longest row.
    width: usize,
    /// Tokens that all of them see.
    before: usize,
    /// How many of the last tokens layers with a window see, where that is less than all.
    window: Option<usize>,
    /// Heads per key-value head.
    repeats: i64,
    options: (Kind, Device),
    /// Without and with the window, made once; those of a part are made at each use, for the same reason for which its
    /// probabilities are.
    kept: Option<[Tensor; 2]>,
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

/// Plans the groups of rows that lie behind one another from `first` on, sorted from long to short, with `own` tokens each.
/// A group has at most `most_scores` for each head, unless one query alone has more.
pub(super) fn plan_groups(
    first: usize,
    own: &[usize],
    prefix: usize,
    computes_prefix: bool,
    most_scores: usize,
) -> Vec<GroupPlan> {
    let mut plans = Vec::new();
    if computes_prefix {
        plans.extend(GroupPlan::cut(0, &[prefix], 0, most_scores));
    }
    let mut start = first;
    for members in group_by_length(own, prefix, most_scores) {
        plans.extend(GroupPlan::cut(start, members, prefix, most_scores));
        start += members.iter().sum::<usize>();
    }
    plans
}

/// Cuts rows, sorted from long to short, where padding would exceed a third or scores their bound.
fn group_by_length(own: &[usize], prefix: usize, most_scores: usize) -> Vec<&[usize]> {
    let mut groups = Vec::new();
    if own.is_empty() {
        return groups;
    }
    let mut begin = 0;
    let mut tokens = 0;
    for (place, &length) in own.iter().enumerate() {
        let width = own[begin];
        let slots = (place - begin + 1) * width;
        let padded_too_much = 3 * slots > 4 * (tokens + length) + 64;
        if place > begin && (slots * (prefix + width) > most_scores || padded_too_much) {
            groups.push(&own[begin..place]);
            (begin, tokens) = (place, 0);
        }
        tokens += length;
    }
    groups.push(&own[begin..]);
    groups
}

/// Most scores that a group has for each head.
pub(super) const fn most_scores(heads: Heads) -> usize {
    MAX_GROUP_SCORES / heads.queries as usize
}

/// What an [`AttentionGroup`] is made of, under the same names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupPlan {
    start: usize,
    /// Own tokens of each row.
    own: Vec<usize>,
    prefix: usize,
    earlier: usize,
    is_part: bool,
}

impl GroupPlan {
    /// Rows as one group, or a row that has too many scores for one as several.
    fn cut(start: usize, own: &[usize], prefix: usize, most_scores: usize) -> Vec<Self> {
        let &[length] = own else {
            return vec![Self { start, own: own.to_vec(), prefix, earlier: 0, is_part: false }];
        };
        let most = (most_scores / (prefix + length).max(1)).clamp(1, length.max(1));
        let part = |earlier: usize| Self {
            start: start + earlier,
            own: vec![most.min(length - earlier)],
            prefix,
            earlier,
            is_part: most < length,
        };
        (0..length).step_by(most).map(part).collect()
    }
}

impl AttentionGroup {
    pub(super) fn new(plan: &GroupPlan, config: &ModelConfig, device: Device, kind: Kind) -> Result<Self> {
        let &GroupPlan { start, ref own, prefix, earlier, is_part } = plan;
        let width = own.iter().copied().max().unwrap_or(0);
        let tokens: usize = own.iter().sum();
        let padding = if tokens == width * own.len() { None } else { Some(Padding::new(own, width, device)?) };
        Ok(Self {
            start: start as i64,
            tokens: tokens as i64,
            rows: own.len() as i64,
            width: width as i64,
            prefix: prefix as i64,
            earlier: earlier as i64,
            is_part,
            padding,
            masks: Masks::new(width, prefix + earlier, config, (kind, device)).kept_unless(is_part)?,
        })
    }

    /// Zero where a query may look in a layer of `span`, minus infinity elsewhere.
    ///
    /// # Shapes
    ///
    /// → `[1, heads per key-value head × width, keys]`
    pub(crate) fn mask(&self, span: Span) -> Result<Tensor> {
        self.masks.of(span)
    }

    /// Tokens that are seen: the shared ones, the earlier ones and the own ones of the longest row.
    pub(crate) const fn keys(&self) -> i64 {
        self.prefix + self.earlier + self.width
    }
}

impl Masks {
    fn new(width: usize, before: usize, config: &ModelConfig, options: (Kind, Device)) -> Self {
        let window = config.design.sliding.as_ref().map(|sliding| sliding.window);
        Self {
            width,
            before,
            window: window.filter(|&window| window < before + width),
            repeats: config.num_attention_heads / config.num_key_value_heads,
            options,
            kept: None,
        }
    }

    fn kept_unless(self, is_part: bool) -> Result<Self> {
        if is_part {
            return Ok(self);
        }
        let plain = self.make(Span::Full)?;
        let windowed = if self.window.is_some() { self.make(Span::Sliding)? } else { plain.shallow_clone() };
        Ok(Self { kept: Some([plain, windowed]), ..self })
    }

    fn of(&self, span: Span) -> Result<Tensor> {
        match &self.kept {
            Some(kept) => Ok(kept[usize::from(span == Span::Sliding)].shallow_clone()),
            None => self.make(span),
        }
    }

    /// Own token `i` sees the tokens before and own ones up to itself, of them the last of a window.
    fn make(&self, span: Span) -> Result<Tensor> {
        let (width, before, (kind, device)) = (self.width as i64, self.before as i64, self.options);
        let blocked = Tensor::f_full([1, width, before + width], f64::NEG_INFINITY, (Kind::Float, device))?;
        let later = blocked.f_triu(before + 1)?;
        let mask = match self.window.filter(|_| span == Span::Sliding) {
            None => later,
            Some(window) => blocked.f_tril(before - window as i64)?.f_add_(&later)?,
        };
        Ok(mask.f_to_kind(kind)?.f_repeat([1, self.repeats, 1])?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Design, SlidingAttention,
        attention::{Softmax, attend, attend_backward},
        packing::{Attention, PackedRows},
    };

    /// Heads that no kernel knows; a window in one layer of two.
    fn config() -> ModelConfig {
        let sliding = SlidingAttention { window: 11, spans: vec![Span::Sliding, Span::Full], rope_theta: None };
        ModelConfig {
            vocab_size: 200,
            hidden_size: 32,
            intermediate_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: None,
            max_position_embeddings: 100,
            tie_word_embeddings: true,
            design: Design { sliding: Some(sliding), ..Design::LLAMA },
        }
    }

    /// Rows that share nine tokens, in groups of at most so many scores a head.
    fn packed(config: &ModelConfig, most_scores: usize, kind: Kind) -> PackedRows {
        let row = |length: usize| -> Vec<u32> {
            (0..length as u32).map(|id| if id < 9 { 1 } else { id + length as u32 }).collect()
        };
        let rows = [row(31), row(64), row(30), row(12)];
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let mut packed = PackedRows::new(&rows, true, config, Device::Cpu, kind).unwrap();
        assert_eq!(packed.prefix(), 9);
        let plans = plan_groups(9, &[55, 22, 21, 3], 9, true, most_scores);
        let groups = plans.iter().map(|plan| AttentionGroup::new(plan, config, Device::Cpu, kind).unwrap());
        packed.attention = Attention::Groups(groups.collect());
        packed
    }

    #[test]
    fn rows_in_parts_attend_as_whole_ones_do() {
        // Seven queries of the longest row see its 64 tokens; its 55 queries do in one group.
        const PARTS: usize = 7 * 64;
        const WHOLE: usize = 55 * 64;
        let config = config();
        let heads = Heads::new(&config);
        let tokens = 9 + 55 + 22 + 21 + 3;
        let wave = |columns: i64, step: f64| {
            let values = Tensor::arange(tokens * columns, (Kind::Double, Device::Cpu)) * step;
            values.sin().to_kind(Kind::Float).view([tokens, columns])
        };
        let qkv = wave(heads.query_columns() + 2 * heads.key_columns(), 0.37);
        let grad = wave(heads.query_columns(), 0.73);
        let of = |most_scores: usize, kind: Kind, span: Span| {
            let packed = packed(&config, most_scores, kind);
            let (qkv, grad) = (qkv.to_kind(kind), grad.to_kind(kind));
            let (attended, kept) = attend(heads, &qkv, &packed, span).unwrap();
            let Softmax::Probabilities(probabilities) = &kept else { panic!("libtorch should compute this") };
            assert_eq!(probabilities.iter().all(Option::is_some), most_scores == WHOLE);
            [attended, attend_backward(heads, &grad, &qkv, &kept, &packed, span).unwrap()]
        };
        for span in [Span::Full, Span::Sliding] {
            let exact = of(WHOLE, Kind::Float, span);
            // Rounding makes 0.002 to 0.005 in bf16, cut or not.
            for (most, kind, room) in
                [(PARTS, Kind::Float, 1e-6), (PARTS, Kind::BFloat16, 1e-2), (WHOLE, Kind::BFloat16, 1e-2)]
            {
                for (exact, found) in exact.iter().zip(of(most, kind, span)) {
                    assert_eq!(found.kind(), kind);
                    let error = (exact - found).norm().double_value(&[]) / exact.norm().double_value(&[]);
                    eprintln!("{span:?}, {most} scores, {kind:?}: {error:e}");
                    assert!(error < room, "{span:?}, {most} scores, {kind:?}: {error:e}");
                }
            }
        }
    }

    #[test]
    fn the_longest_row_has_no_more_scores_than_fit() {
        let plans = plan_groups(0, &[8_192, 8_000, 700, 690], 0, false, MAX_GROUP_SCORES / 9);
        let scores = |plan: &GroupPlan| plan.own.len() * plan.own[0] * (plan.earlier + plan.own[0]) * 9;
        assert!(plans.iter().all(|plan| scores(plan) <= MAX_GROUP_SCORES));
        let queries: usize = plans.iter().flat_map(|plan| &plan.own).sum();
        assert_eq!(queries, 8_192 + 8_000 + 700 + 690);
        assert!(!plans.last().unwrap().is_part && plans[0].is_part);
    }
}
