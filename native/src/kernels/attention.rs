//! Causal grouped-query attention on rows that lie one behind the other, forward and backward.
//!
//! A row's scores are never all in memory: eight queries of a head are looked at together, and no key behind them is. The
//! backward pass computes the scores again from what the forward pass keeps of each softmax, the logarithm of its sum.

mod operands;

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_mov_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use tch::{Device, Kind, Tensor};

use self::operands::{across, along, down, interleave, lines_of, matrix, store_scaled};
use super::{
    Lines, by_kind,
    lanes::{Element, LANES, exp},
    product::{IN_CACHES, Left, Output, Right, product},
};

/// Queries of a head that are looked at together.
const QUERIES: usize = 8;

/// Queries whose probabilities are kept at a time in the backward pass; a multiple of [`QUERIES`].
const CHUNK: usize = 256;

/// How queries, keys and values lie side by side in a line.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub queries: usize,
    /// Key heads, and as many value heads; each serves the same number of query heads.
    pub key_values: usize,
    /// Numbers a head; a multiple of sixteen.
    pub width: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// The tokens of a row on the packed axis.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its first own token.
    pub start: usize,
    /// Its own tokens, which attend to one another.
    pub tokens: usize,
    /// Tokens at the begin of the axis that it attends to as well.
    pub prefix: usize,
}

impl Segment {
    const fn keys(self) -> usize {
        self.prefix + self.tokens
    }

    /// Where a key lies on the packed axis.
    const fn token(self, key: usize) -> usize {
        if key < self.prefix { key } else { self.start + key - self.prefix }
    }
}

impl AttentionShape {
    pub(super) const fn columns(&self) -> usize {
        (self.queries + 2 * self.key_values) * self.width
    }

    const fn repeats(&self) -> usize {
        self.queries / self.key_values
    }

    const fn key_column(&self, head: usize) -> usize {
        (self.queries + head) * self.width
    }

    const fn value_column(&self, head: usize) -> usize {
        (self.queries + self.key_values + head) * self.width
    }
}

/// Attends within each segment: the result, and the logarithm of each softmax's sum.
///
/// # Shapes
///
/// `qkv`: `[tokens, columns]`, rotated, which [`fits`](super::fits) → `[tokens, queries × width]`, `[tokens, queries]` in
/// `f32`.
///
/// # Panics
///
/// If a segment lies outside the tokens.
pub fn attend(qkv: &Tensor, shape: AttentionShape, segments: &[Segment]) -> (Tensor, Tensor) {
    let tokens = qkv.size()[0];
    let output = Tensor::empty([tokens, (shape.queries * shape.width) as i64], (qkv.kind(), qkv.device()));
    let log_sums = Tensor::empty([tokens, shape.queries as i64], (Kind::Float, Device::Cpu));
    by_kind!(qkv.kind(), forward(qkv, shape, segments, &output, &log_sums));
    (output, log_sums)
}

/// Gradient of [`attend`] with respect to `qkv`.
///
/// # Shapes
///
/// `grad`: `[tokens, queries × width]`, `qkv`, `log_sums`: as in [`attend`] → like `qkv`.
///
/// # Panics
///
/// If a segment lies outside the tokens.
pub fn attend_backward(
    grad: &Tensor,
    qkv: &Tensor,
    log_sums: &Tensor,
    shape: AttentionShape,
    segments: &[Segment],
) -> Tensor {
    let output = super::empty_like(qkv);
    by_kind!(qkv.kind(), backward(grad, qkv, log_sums, shape, segments, &output));
    output
}

fn check<E: Element>(qkv: Lines<E>, shape: AttentionShape, segments: &[Segment]) {
    assert_eq!(qkv.width, shape.columns(), "columns of queries, keys and values");
    assert_eq!(shape.width % LANES, 0, "a head's width is a multiple of {LANES}");
    let within = |segment: &Segment| segment.start + segment.tokens <= qkv.count && segment.prefix <= segment.start;
    assert!(segments.iter().all(within), "segments lie within {} tokens", qkv.count);
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn forward<E: Element>(
    qkv: &Tensor,
    shape: AttentionShape,
    segments: &[Segment],
    output: &Tensor,
    log_sums: &Tensor,
) {
    let (qkv, output, log_sums) = (Lines::<E>::of(qkv), Lines::<E>::of(output), Lines::<f32>::of(log_sums));
    check(qkv, shape, segments);
    let width = shape.width;
    for &segment in segments {
        let padded = segment.keys().next_multiple_of(LANES);
        let (mut keys, mut values) = (vec![0; padded * width / E::PACKED], vec![0; padded * width / E::PACKED]);
        let (mut scores, mut likely) = (vec![0.0; QUERIES * padded], vec![0; QUERIES * padded / E::PACKED]);
        let mut attended = vec![0.0; QUERIES * width];
        for group in 0..shape.key_values {
            // SAFETY: `check` has seen that tokens and columns exist; buffers are as large as `padded` says.
            unsafe {
                across::<E>(qkv, segment, shape.key_column(group), width, padded, &mut keys);
                along::<E>(qkv, segment, shape.value_column(group), width, &mut values);
                for head in group * shape.repeats()..(group + 1) * shape.repeats() {
                    for first in (0..segment.tokens).step_by(QUERIES) {
                        let rows = QUERIES.min(segment.tokens - first);
                        let visible = segment.prefix + first + rows;
                        let vectors = visible.div_ceil(LANES);
                        let token = segment.start + first;
                        let queries = lines_of(qkv, token, head * width);
                        let to = Output { first: scores.as_mut_ptr(), stride: padded, adds: false };
                        product::<E, IN_CACHES>(queries, matrix(&keys, padded), to, rows, vectors, width / E::PACKED);
                        let mut inverses = [0.0; QUERIES];
                        for (row, inverse) in inverses.iter_mut().enumerate().take(rows) {
                            let line = scores.as_mut_ptr().add(row * padded);
                            let to = likely.as_mut_ptr().cast::<E>().add(row * padded);
                            let seen = segment.prefix + first + row + 1;
                            let (log_sum, sum) = softmax(line, to, seen, vectors, shape.scale);
                            *log_sums.line(token + row).add(head) = log_sum;
                            *inverse = 1.0 / sum;
                        }
                        let weights = Left { first: likely.as_ptr(), stride: padded / E::PACKED };
                        let to = Output { first: attended.as_mut_ptr(), stride: width, adds: false };
                        let depth = visible.div_ceil(E::PACKED);
                        product::<E, IN_CACHES>(weights, matrix(&values, width), to, rows, width / LANES, depth);
                        for (row, &inverse) in inverses.iter().enumerate().take(rows) {
                            let to = output.line(token + row).add(head * width);
                            store_scaled(attended.as_ptr().add(row * width), inverse, to, width);
                        }
                    }
                }
            }
        }
    }
}

/// `e^(scale · score − largest)` of the first `seen` scores, zero behind them; the logarithm of the softmax's sum, and the sum
/// of what was written.
///
/// # Safety
///
/// Both lines hold `vectors` × 16 numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn softmax<E: Element>(line: *mut f32, to: *mut E, seen: usize, vectors: usize, scale: f32) -> (f32, f32) {
    // SAFETY: the caller's.
    unsafe {
        let factor = _mm512_set1_ps(scale);
        let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
        for vector in 0..vectors {
            let scores = _mm512_mul_ps(_mm512_loadu_ps(line.add(vector * LANES)), factor);
            largest = _mm512_max_ps(largest, _mm512_mask_mov_ps(largest, first_lanes(seen, vector), scores));
        }
        let largest = _mm512_reduce_max_ps(largest);
        let offset = _mm512_set1_ps(-largest);
        let mut sum = _mm512_setzero_ps();
        for vector in 0..vectors {
            let exponent = _mm512_fmadd_ps(_mm512_loadu_ps(line.add(vector * LANES)), factor, offset);
            let likely = _mm512_mask_mov_ps(_mm512_setzero_ps(), first_lanes(seen, vector), exp(exponent));
            sum = _mm512_add_ps(sum, likely);
            E::store(to.add(vector * LANES), likely);
        }
        let sum = _mm512_reduce_add_ps(sum);
        (largest + sum.ln(), sum)
    }
}

/// The lanes of a vector that are among the first `seen` numbers of a line.
#[inline]
const fn first_lanes(seen: usize, vector: usize) -> u16 {
    let lanes = seen.saturating_sub(vector * LANES);
    if lanes >= LANES { u16::MAX } else { (1 << lanes) - 1 }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn backward<E: Element>(
    grad: &Tensor,
    qkv: &Tensor,
    log_sums: &Tensor,
    shape: AttentionShape,
    segments: &[Segment],
    output: &Tensor,
) {
    let (grad, qkv) = (Lines::<E>::of(grad), Lines::<E>::of(qkv));
    let (log_sums, output) = (Lines::<f32>::of(log_sums), Lines::<E>::of(output));
    check(qkv, shape, segments);
    assert!(grad.width == shape.queries * shape.width && log_sums.width == shape.queries, "lines of all query heads");
    let width = shape.width;
    let prefix = segments.iter().map(|segment| segment.prefix).max().unwrap_or(0);
    // What all rows say about the keys and values of the prefix.
    let mut shared = vec![0.0_f32; prefix * 2 * shape.key_values * width];
    for &segment in segments {
        let mut work = Backward::<E>::new(segment, shape);
        for group in 0..shape.key_values {
            // SAFETY: `check` has seen that tokens and columns exist; buffers are as large as the segment.
            unsafe {
                across::<E>(qkv, segment, shape.key_column(group), width, work.padded, &mut work.keys_across);
                along::<E>(qkv, segment, shape.key_column(group), width, &mut work.keys_along);
                across::<E>(qkv, segment, shape.value_column(group), width, work.padded, &mut work.values_across);
                work.grad_keys.fill(0.0);
                work.grad_values.fill(0.0);
                for head in group * shape.repeats()..(group + 1) * shape.repeats() {
                    for first in (0..segment.tokens).step_by(CHUNK) {
                        work.chunk(grad, qkv, log_sums, output, head, first);
                    }
                }
                let columns = [shape.key_column(group), shape.value_column(group)];
                for (half, column) in columns.into_iter().enumerate() {
                    let sums = if half == 0 { &work.grad_keys } else { &work.grad_values };
                    for key in 0..segment.keys() {
                        let number = |index: usize| sums[index * work.padded + key];
                        if key < segment.prefix {
                            let place = (key * 2 * shape.key_values + half * shape.key_values + group) * width;
                            for (index, sum) in shared[place..place + width].iter_mut().enumerate() {
                                *sum += number(index);
                            }
                        } else {
                            let line: Vec<f32> = (0..width).map(number).collect();
                            store_scaled(line.as_ptr(), 1.0, output.line(segment.token(key)).add(column), width);
                        }
                    }
                }
            }
        }
    }
    for token in 0..prefix {
        let sums = &shared[token * 2 * shape.key_values * width..][..2 * shape.key_values * width];
        for column in (0..sums.len()).step_by(LANES) {
            // SAFETY: keys and values are the last columns of a line, and as many as there are sums.
            unsafe {
                let to = output.line(token).add(shape.queries * width + column);
                E::store(to, _mm512_add_ps(E::load(to), _mm512_loadu_ps(sums.as_ptr().add(column))));
            }
        }
    }
}

/// The buffers of one segment's backward pass.
struct Backward<E> {
    segment: Segment,
    shape: AttentionShape,
    /// Keys, rounded up to whole vectors.
    padded: usize,
    keys_across: Vec<i32>,
    keys_along: Vec<i32>,
    values_across: Vec<i32>,
    scores: Vec<f32>,
    grad_scores: Vec<f32>,
    /// Gradient of the scores, in the kind of the states, line by line.
    rounded: Vec<i32>,
    /// Probabilities of a chunk of queries, [`Element::PACKED`] queries a lane.
    likely_lanes: Vec<i32>,
    /// Gradient of the scores of a chunk, likewise.
    grad_lanes: Vec<i32>,
    /// A chunk's queries and gradients, transposed.
    queries_down: Vec<i32>,
    grads_down: Vec<i32>,
    grad_query: Vec<f32>,
    /// # Shapes
    ///
    /// `[width, padded]`
    grad_keys: Vec<f32>,
    grad_values: Vec<f32>,
    kind: std::marker::PhantomData<E>,
}

impl<E: Element> Backward<E> {
    fn new(segment: Segment, shape: AttentionShape) -> Self {
        let padded = segment.keys().next_multiple_of(LANES);
        let chunk = CHUNK.min(segment.tokens.next_multiple_of(QUERIES));
        let lanes = |numbers: usize| vec![0; numbers / E::PACKED];
        Self {
            segment,
            shape,
            padded,
            keys_across: lanes(padded * shape.width),
            keys_along: lanes(padded * shape.width),
            values_across: lanes(padded * shape.width),
            scores: vec![0.0; QUERIES * padded],
            grad_scores: vec![0.0; QUERIES * padded],
            rounded: lanes(QUERIES * padded),
            likely_lanes: lanes(chunk * padded),
            grad_lanes: lanes(chunk * padded),
            queries_down: lanes(chunk * shape.width),
            grads_down: lanes(chunk * shape.width),
            grad_query: vec![0.0; QUERIES * shape.width],
            grad_keys: vec![0.0; shape.width * padded],
            grad_values: vec![0.0; shape.width * padded],
            kind: std::marker::PhantomData,
        }
    }

    /// Up to [`CHUNK`] queries of a head, from own token `first` on.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn chunk(
        &mut self,
        grad: Lines<E>,
        qkv: Lines<E>,
        log_sums: Lines<f32>,
        output: Lines<E>,
        head: usize,
        first: usize,
    ) {
        let (segment, width, padded) = (self.segment, self.shape.width, self.padded);
        let tokens = CHUNK.min(segment.tokens - first);
        for begin in (0..tokens).step_by(QUERIES) {
            let rows = QUERIES.min(tokens - begin);
            // SAFETY: `check` has seen that tokens and columns exist.
            unsafe { self.queries(grad, qkv, log_sums, output, head, first + begin, begin, rows) };
        }
        let depth = tokens.div_ceil(E::PACKED);
        // SAFETY: the same; the transposed matrices have `depth` columns.
        unsafe {
            down::<E>(qkv, segment.start + first, tokens, head * width, width, &mut self.queries_down);
            down::<E>(grad, segment.start + first, tokens, head * width, width, &mut self.grads_down);
            // Three vectors of keys at a time: queries in front of them do not see them.
            for vector in (0..padded / LANES).step_by(3) {
                let vectors = 3.min(padded / LANES - vector);
                let key = vector * LANES;
                let skipped = key.saturating_sub(segment.prefix + first) / QUERIES * QUERIES / E::PACKED;
                if skipped >= depth {
                    continue;
                }
                let pairs = [
                    (&self.grads_down, &self.likely_lanes, &mut self.grad_values),
                    (&self.queries_down, &self.grad_lanes, &mut self.grad_keys),
                ];
                for (left, right, sums) in pairs {
                    let left = Left { first: left.as_ptr().add(skipped), stride: depth };
                    let right = Right { first: right.as_ptr().add(skipped * padded + key), stride: padded };
                    let to = Output { first: sums.as_mut_ptr().add(key), stride: padded, adds: true };
                    product::<E, IN_CACHES>(left, right, to, width, vectors, depth - skipped);
                }
            }
        }
    }

    /// A few queries: their gradient, and their lines among the chunk's probabilities and gradients of scores.
    #[expect(clippy::too_many_arguments, reason = "lines of one chunk, each with its own address")]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn queries(
        &mut self,
        grad: Lines<E>,
        qkv: Lines<E>,
        log_sums: Lines<f32>,
        output: Lines<E>,
        head: usize,
        first: usize,
        place: usize,
        rows: usize,
    ) {
        let (segment, width, padded) = (self.segment, self.shape.width, self.padded);
        let visible = segment.prefix + first + rows;
        let (vectors, token) = (visible.div_ceil(LANES), segment.start + first);
        let depth = width / E::PACKED;
        // SAFETY: `check` has seen that tokens and columns exist; buffers are as large as the segment.
        unsafe {
            let to = Output { first: self.scores.as_mut_ptr(), stride: padded, adds: false };
            product::<E, IN_CACHES>(
                lines_of(qkv, token, head * width),
                matrix(&self.keys_across, padded),
                to,
                rows,
                vectors,
                depth,
            );
            let to = Output { first: self.grad_scores.as_mut_ptr(), stride: padded, adds: false };
            let grads = lines_of(grad, token, head * width);
            product::<E, IN_CACHES>(grads, matrix(&self.values_across, padded), to, rows, vectors, depth);
            for row in 0..rows {
                let (scores, grads) =
                    (self.scores.as_mut_ptr().add(row * padded), self.grad_scores.as_mut_ptr().add(row * padded));
                let log_sum = *log_sums.line(token + row).add(head);
                let rounded = self.rounded.as_mut_ptr().cast::<E>().add(row * padded);
                let seen = segment.prefix + first + row + 1;
                softmax_backward(scores, grads, rounded, log_sum, seen, vectors, self.shape.scale);
            }
            let left = Left { first: self.rounded.as_ptr(), stride: padded / E::PACKED };
            let to = Output { first: self.grad_query.as_mut_ptr(), stride: width, adds: false };
            let keys = matrix(&self.keys_along, width);
            product::<E, IN_CACHES>(left, keys, to, rows, width / LANES, visible.div_ceil(E::PACKED));
            for row in 0..rows {
                let to = output.line(token + row).add(head * width);
                store_scaled(self.grad_query.as_ptr().add(row * width), 1.0, to, width);
            }
            // Products look at three vectors of keys at a time, which may end behind the last one seen here.
            let written = (vectors + 3).min(padded / LANES);
            for (numbers, lanes) in [(&self.scores, &mut self.likely_lanes), (&self.grad_scores, &mut self.grad_lanes)]
            {
                for pair in 0..QUERIES / E::PACKED {
                    let line = lanes.as_mut_ptr().add((place / E::PACKED + pair) * padded);
                    interleave::<E>(numbers, padded, pair, rows, vectors, written, line);
                }
            }
        }
    }
}

/// Turns scores into probabilities and the gradient of those into that of the scores, also in the kind of the states.
///
/// # Safety
///
/// All lines hold `vectors` × 16 numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn softmax_backward<E: Element>(
    scores: *mut f32,
    grads: *mut f32,
    rounded: *mut E,
    log_sum: f32,
    seen: usize,
    vectors: usize,
    scale: f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let (factor, offset) = (_mm512_set1_ps(scale), _mm512_set1_ps(-log_sum));
        let mut sum = _mm512_setzero_ps();
        for vector in 0..vectors {
            let at = vector * LANES;
            let exponent = _mm512_fmadd_ps(_mm512_loadu_ps(scores.add(at)), factor, offset);
            let likely = _mm512_mask_mov_ps(_mm512_setzero_ps(), first_lanes(seen, vector), exp(exponent));
            sum = _mm512_fmadd_ps(likely, _mm512_loadu_ps(grads.add(at)), sum);
            f32::store(scores.add(at), likely);
        }
        let mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
        for vector in 0..vectors {
            let at = vector * LANES;
            let likely = _mm512_mul_ps(_mm512_loadu_ps(scores.add(at)), factor);
            let grad = _mm512_mul_ps(likely, _mm512_sub_ps(_mm512_loadu_ps(grads.add(at)), mean));
            // A masked score may be anything, its probability is zero; infinity times zero is not.
            let grad = _mm512_mask_mov_ps(_mm512_setzero_ps(), first_lanes(seen, vector), grad);
            f32::store(grads.add(at), grad);
            E::store(rounded.add(at), grad);
        }
    }
}
