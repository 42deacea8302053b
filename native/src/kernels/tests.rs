//! Each kernel beside the same steps of libtorch.

use super::*;

/// Numbers that look random, the same at every call.
fn numbers(shape: &[i64], seed: i64, kind: Kind) -> Tensor {
    let count: i64 = shape.iter().product();
    let steps = Tensor::arange(count, (Kind::Double, Device::Cpu));
    let noise = ((steps + seed * 7919) * 12.9898).sin() * 43758.5453;
    ((&noise - noise.floor()) * 2.0 - 1.0).to_kind(kind).view(shape)
}

/// The largest difference, against the largest number.
fn difference(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (ours.to_kind(Kind::Double), theirs.to_kind(Kind::Double));
    ((&ours - &theirs).abs().max() / theirs.abs().max()).double_value(&[])
}

/// Rounding of some dozen operations.
fn tolerance(kind: Kind) -> f64 {
    if kind == Kind::Float { 2e-6 } else { 1.2e-2 }
}

fn in_both_kinds(check: impl Fn(Kind)) {
    if !available() {
        eprintln!("skipped: this processor has no AVX-512 with bfloat16");
        return;
    }
    for kind in [Kind::Float, Kind::BFloat16] {
        check(kind);
    }
}

fn close(ours: &Tensor, theirs: &Tensor, kind: Kind) {
    let difference = difference(ours, theirs);
    assert!(difference < tolerance(kind), "{kind:?}: {difference}");
}

#[test]
fn norms_and_their_gradients_are_libtorchs() {
    in_both_kinds(|kind| {
        let (states, weight) = (numbers(&[7, 48], 1, kind), numbers(&[48], 2, kind));
        let (normed, output, inverse) = rms_norm(&states, &weight, 1e-5);
        let x = states.to_kind(Kind::Double).set_requires_grad(true);
        let w = weight.to_kind(Kind::Double);
        let rms = (x.square().mean_dim([-1_i64].as_slice(), true, None::<Kind>) + 1e-5).sqrt();
        let theirs = &x / rms * &w;
        close(&output, &theirs, kind);
        let grad_output = numbers(&[7, 48], 3, kind);
        (&theirs * grad_output.to_kind(Kind::Double)).sum(None::<Kind>).backward();
        let grad = numbers(&[7, 48], 4, kind);
        let expected = grad.to_kind(Kind::Double) + x.grad();
        rms_norm_backward(&grad, &grad_output, &normed, &inverse, &weight);
        close(&grad, &expected, kind);
    });
}

#[test]
fn gated_units_and_their_gradients_are_libtorchs() {
    in_both_kinds(|kind| {
        let gate_up = numbers(&[5, 96], 1, kind) * 6.0;
        let x = gate_up.to_kind(Kind::Double).set_requires_grad(true);
        let theirs = x.narrow(1, 0, 48).silu() * x.narrow(1, 48, 48);
        close(&silu_gated(&gate_up), &theirs, kind);
        let grad = numbers(&[5, 48], 2, kind);
        (&theirs * grad.to_kind(Kind::Double)).sum(None::<Kind>).backward();
        close(&silu_gated_backward(&gate_up, &grad), &x.grad(), kind);
    });
}

#[test]
fn rotations_turn_pairs_and_leave_the_rest_alone() {
    in_both_kinds(|kind| {
        let states = numbers(&[3, 160], 1, kind);
        let angles = numbers(&[3, 1, 16], 2, Kind::Double);
        let (cos, sin) = (angles.cos().to_kind(kind), angles.sin().to_kind(kind));
        let halves = states.narrow(1, 0, 128).to_kind(Kind::Double).view([3, 4, 2, 16]);
        let (first, second) = (halves.select(2, 0), halves.select(2, 1));
        let (c, s) = (cos.to_kind(Kind::Double), sin.to_kind(Kind::Double));
        let turned = Tensor::stack(&[&first * &c - &second * &s, &second * &c + &first * &s], 2).view([3, 128]);
        let theirs = Tensor::cat(&[turned, states.narrow(1, 128, 32).to_kind(Kind::Double)], 1);
        rotate(&states, 4, &cos, &sin);
        close(&states, &theirs, kind);
    });
}

#[test]
fn losses_and_their_gradients_are_libtorchs() {
    in_both_kinds(|kind| {
        let logits = numbers(&[6, 208], 1, kind) * 9.0;
        let targets = [0_i64, 207, 5, 100, 64, 31];
        let x = logits.to_kind(Kind::Double).set_requires_grad(true);
        let chosen = Tensor::from_slice(&targets).unsqueeze(1);
        let theirs = -x.log_softmax(-1, None::<Kind>).gather(1, &chosen, false).squeeze_dim(1);
        theirs.sum(None::<Kind>).backward();
        let losses = cross_entropy(&logits, &targets, true);
        close(&Tensor::from_slice(&losses), &theirs, Kind::Float);
        close(&logits, &x.grad(), kind);
    });
}

/// Attention of one segment by the book.
fn by_the_book(qkv: &Tensor, shape: AttentionShape, segment: Segment) -> Tensor {
    let tokens: Vec<i64> =
        (0..segment.prefix).chain(segment.start..segment.start + segment.tokens).map(|t| t as i64).collect();
    let all = qkv.index_select(0, &Tensor::from_slice(&tokens));
    let (keys, width) = (tokens.len() as i64, shape.width as i64);
    let heads = |first: usize, count: usize| {
        all.narrow(1, first as i64 * width, count as i64 * width).view([keys, count as i64, width]).transpose(0, 1)
    };
    let repeats = (shape.queries / shape.key_values) as i64;
    let query = heads(0, shape.queries);
    let key = heads(shape.queries, shape.key_values).repeat_interleave_self_int(repeats, 0, None);
    let value = heads(shape.queries + shape.key_values, shape.key_values).repeat_interleave_self_int(repeats, 0, None);
    let mask = Tensor::ones([keys, keys], (Kind::Bool, Device::Cpu)).tril(0).logical_not();
    let scores = (query.matmul(&key.transpose(1, 2)) * f64::from(shape.scale)).masked_fill(&mask, f64::NEG_INFINITY);
    let attended = scores.softmax(-1, None::<Kind>).matmul(&value).transpose(0, 1).reshape([keys, -1]);
    attended.narrow(0, segment.prefix as i64, segment.tokens as i64)
}

#[test]
fn attention_and_its_gradient_are_those_by_the_book() {
    let segments = [(0, 21, 0), (21, 1, 21), (22, 301, 21), (323, 8, 21), (331, 43, 21)]
        .map(|(start, tokens, prefix)| Segment { start, tokens, prefix });
    in_both_kinds(|kind| {
        for (queries, key_values, width) in [(9, 3, 64), (2, 2, 32), (4, 1, 16)] {
            let shape = AttentionShape { queries, key_values, width, scale: 1.0 / (width as f32).sqrt() };
            let qkv = numbers(&[374, shape.columns() as i64], 1, kind) * 2.0;
            let (output, log_sums) = attend(&qkv, shape, &segments);
            let x = qkv.to_kind(Kind::Double).set_requires_grad(true);
            let theirs = Tensor::cat(&segments.map(|segment| by_the_book(&x, shape, segment)), 0);
            close(&output, &theirs, kind);
            let grad = numbers(&[374, (queries * width) as i64], 2, kind);
            (&theirs * grad.to_kind(Kind::Double)).sum(None::<Kind>).backward();
            close(&attend_backward(&grad, &qkv, &log_sums, shape, &segments), &x.grad(), kind);
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn speed_of_attention() {
    let segments: Vec<_> = (0..4).map(|row| Segment { start: 24 + row * 256, tokens: 256, prefix: 24 }).collect();
    let shape = AttentionShape { queries: 9, key_values: 3, width: 64, scale: 0.125 };
    in_both_kinds(|kind| {
        let (qkv, grad) = (numbers(&[1048, 960], 1, kind), numbers(&[1048, 576], 2, kind));
        let pairs = 4.0 * 256.0 * (24.0 + 128.0) * 9.0;
        for _ in 0..3 {
            let started = std::time::Instant::now();
            let (_, log_sums) = attend(&qkv, shape, &segments);
            let forward = started.elapsed().as_secs_f64();
            let started = std::time::Instant::now();
            let _ = attend_backward(&grad, &qkv, &log_sums, shape, &segments);
            let backward = started.elapsed().as_secs_f64();
            let gflops = |products: f64, seconds: f64| products * 2.0 * 64.0 * pairs / seconds / 1e9;
            eprintln!("{kind:?}: forward {:.0} GFLOP/s, backward {:.0}", gflops(2.0, forward), gflops(5.0, backward));
        }
    });
}

#[test]
fn products_of_a_few_tokens_are_libtorchs() {
    in_both_kinds(|kind| {
        for tokens in [1, 7, 16, 33, 64] {
            for inputs in [16, 48, 96] {
                let (states, weight) = (numbers(&[tokens, inputs], 1, kind), numbers(&[48, inputs], 2, kind));
                let theirs = states.to_kind(Kind::Double).mm(&weight.to_kind(Kind::Double).tr());
                close(&few_tokens_product(&states, &weight).unwrap(), &theirs, kind);
            }
        }
        for (states, weight) in [(&[65, 96][..], &[48, 96][..]), (&[1, 16], &[16, 16, 16]), (&[2, 16, 32], &[48, 16])] {
            assert!(few_tokens_product(&numbers(states, 1, kind), &numbers(weight, 2, kind)).is_none());
        }
    });
}

#[test]
fn attention_over_a_cache_is_that_by_the_book() {
    in_both_kinds(|kind| {
        let shape = AttentionShape { queries: 6, key_values: 2, width: 32, scale: 0.2 };
        let (begins, end) = ([0, 5, 36], 37);
        let qkv = numbers(&[3, shape.columns() as i64], 1, kind) * 3.0;
        let (keys, values) = (numbers(&[3, 2, 40, 32], 2, kind), numbers(&[3, 2, 40, 32], 3, kind));
        let ours = attend_cached(&qkv, &keys, &values, shape, &begins, end);
        for (row, begin) in (0_i64..).zip(begins) {
            let seen = |cache: &Tensor| {
                let own = cache.get(row).narrow(1, begin as i64, (end - begin) as i64).to_kind(Kind::Double);
                own.repeat_interleave_self_int(3, 0, None)
            };
            let query = qkv.get(row).narrow(0, 0, 192).view([6, 1, 32]).to_kind(Kind::Double);
            let likely = (query.matmul(&seen(&keys).transpose(1, 2)) * 0.2).softmax(-1, None::<Kind>);
            close(&ours.get(row), &likely.matmul(&seen(&values)).reshape([-1]), kind);
        }
    });
}
