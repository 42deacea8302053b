//! Every rule against other people's numbers: `tests/reference/robust_aggregation.py` made them.

use fedward_aggregation::{
    AggregationError, AggregatorSettings, AttackSettings, Context, Memory, PreAggregatorSettings, Sight, Updates,
    aggregators::TrimmedMean, check, combine,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};

/// Values are sums and products of `f32` inputs near 1, rounded to `f32` at the end.
const TOLERANCE: f64 = 1e-6;

const fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn unit(stream: u64, i: u64, j: u64) -> f64 {
    (splitmix((stream << 48) ^ (i << 32) ^ j) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

struct Input {
    n: usize,
    byzantine: usize,
    length: usize,
    rows: Vec<Vec<f32>>,
    later: Vec<Vec<f32>>,
    expected: Value,
}

impl Input {
    fn read(name: &str) -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/fixtures/robust_aggregation.json");
        let mut all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let expected = all[name].take();
        let number = |key: &str| expected[key].as_u64().unwrap();
        let (n, byzantine, length) = (number("n") as usize, number("byzantine") as usize, number("length") as usize);
        let make = |stream: u64| -> Vec<Vec<f32>> {
            let value = |i: usize, j: usize| {
                let (common, own) = (unit(stream, 999, j as u64), unit(stream, i as u64, j as u64));
                (if i >= n - byzantine { -3.0 * common + 0.25 * own } else { common + own }) as f32
            };
            (0..n).map(|i| (0..length).map(|j| value(i, j)).collect()).collect()
        };
        let (rows, later) = (make(number("stream")), make(number("stream") + 1));
        let first: Vec<f32> = serde_json::from_value(expected["first"].clone()).unwrap();
        assert_eq!(rows[0][..3], first[..], "both sides make the same input");
        Self { n, byzantine, length, rows, later, expected }
    }

    fn updates(&self) -> Updates<'_> {
        updates(&self.rows)
    }

    fn assert_near(&self, room: &str, name: &str, found: &[f32]) {
        let expected = &self.expected[room][name];
        let numbers: Vec<f64> =
            serde_json::from_value(expected["values"].clone()).unwrap_or_else(|_| panic!("no reference of {name}"));
        let step = if found.len() == numbers.len() { 1 } else { 100 };
        let near = |what: &str, found: f64, expected: f64, size: f64| {
            let error = (found - expected).abs();
            assert!(error <= TOLERANCE * size.max(1.0), "{name} of {}: {what} is {found}, not {expected}", self.n);
        };
        for (index, (&found, &expected)) in found.iter().step_by(step).zip(&numbers).enumerate() {
            near(&format!("value {}", index * step), f64::from(found), expected, expected.abs());
        }
        if step > 1 {
            let squares: f64 = found.iter().map(|&value| f64::from(value).powi(2)).sum();
            let norm = expected["norm"].as_f64().unwrap();
            near("norm", squares.sqrt(), norm, norm);
            let sum = found.iter().map(|&value| f64::from(value)).sum();
            near("sum", sum, expected["sum"].as_f64().unwrap(), norm * (found.len() as f64).sqrt());
        }
    }
}

fn updates(rows: &[Vec<f32>]) -> Updates<'_> {
    Updates::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

fn aggregator(settings: Value) -> AggregatorSettings {
    serde_json::from_value(settings).unwrap()
}

fn combined(pre: &[PreAggregatorSettings], settings: &AggregatorSettings, rounds: Vec<Updates<'_>>) -> Vec<f32> {
    let (mut memory, mut random) = (Memory::default(), ChaCha8Rng::seed_from_u64(1));
    let mut result = Vec::new();
    for updates in rounds {
        check(pre, settings, updates.len()).unwrap();
        result =
            combine(pre, settings, updates, &mut Context { memory: &mut memory, random: &mut random }).unwrap().values;
        // What is stored with a checkpoint is taken up again.
        memory = Memory::from_bytes(&memory.to_bytes()).unwrap();
    }
    result
}

fn inputs() -> [Input; 2] {
    ["small", "large"].map(Input::read)
}

#[test]
fn aggregators_follow_their_references() {
    for input in inputs() {
        let (n, f, third) = (input.n, input.byzantine, input.length / 3);
        let weights: Vec<f64> = (1..=n).map(|weight| weight as f64).collect();
        let layered = || input.updates().in_layers(vec![0..third, third..input.length]).unwrap();
        let mut compared = std::collections::BTreeSet::new();
        let mut follow = |name: &str, settings: Value, rounds: Vec<Updates<'_>>| {
            let settings = aggregator(settings);
            input.assert_near("aggregators", name, &combined(&[], &settings, rounds));
            compared.insert(settings.name());
        };
        let one = || vec![input.updates()];
        let two = || vec![input.updates(), updates(&input.later)];
        follow("mean", json!({"kind": "mean"}), vec![input.updates().weighted(&weights).unwrap()]);
        follow("median", json!({"kind": "median"}), one());
        follow("trimmed_mean", json!({"kind": "trimmed_mean", "byzantine": f}), one());
        follow("krum", json!({"kind": "krum", "byzantine": f}), one());
        follow("krum_byzfl", json!({"kind": "krum", "byzantine": f, "neighbours": "byzfl"}), one());
        follow("multi_krum", json!({"kind": "multi_krum", "byzantine": f}), one());
        follow("multi_krum_byzfl", json!({"kind": "multi_krum", "byzantine": f, "neighbours": "byzfl"}), one());
        follow("bulyan", json!({"kind": "bulyan", "byzantine": (n - 3) / 4}), one());
        follow("geometric_median", json!({"kind": "geometric_median"}), one());
        follow("centred_clipping", json!({"kind": "centred_clipping", "tau": 2.0, "iterations": 2}), two());
        follow("dnc", json!({"kind": "dnc", "byzantine": f}), one());
        follow("foolsgold", json!({"kind": "foolsgold"}), two());
        follow("residual_reweighting", json!({"kind": "residual_reweighting"}), one());
        follow("flame", json!({"kind": "flame", "noise": 0.0}), one());
        follow("lasa", json!({"kind": "lasa"}), vec![layered()]);
        assert_eq!(compared.len(), AggregatorSettings::NAMES.len(), "a rule without reference: {compared:?}");
    }
}

#[test]
fn pre_aggregators_follow_their_references() {
    for input in inputs() {
        let (n, f) = (input.n, input.byzantine);
        let pre = |settings: Value| -> PreAggregatorSettings { serde_json::from_value(settings).unwrap() };
        let changed = |settings: &PreAggregatorSettings, at: usize| -> Vec<f32> {
            let (mut memory, mut random) = (Memory::default(), ChaCha8Rng::seed_from_u64(1));
            let mut context = Context { memory: &mut memory, random: &mut random };
            let changed = settings.rule().transform(input.updates(), &mut context).unwrap();
            assert_eq!(changed.len(), settings.rule().updates_after(n));
            let mean = combine(&[], &aggregator(json!({"kind": "mean"})), changed.clone(), &mut context).unwrap();
            mean.values.iter().zip(changed.slices()[at]).map(|(mean, one)| mean + one).collect()
        };
        let (nnm, clip) = (pre(json!({"kind": "nnm", "byzantine": f})), pre(json!({"kind": "clip", "max_norm": 1.5})));
        input.assert_near("preaggregators", "nnm", &changed(&nnm, 2));
        input.assert_near("preaggregators", "clip", &changed(&clip, n - 1));
        input.assert_near("preaggregators", "arc", &changed(&pre(json!({"kind": "arc", "byzantine": f})), n - 1));
        let trimmed = AggregatorSettings::TrimmedMean(TrimmedMean { byzantine: f });
        input.assert_near("preaggregators", "nnm+trimmed_mean", &combined(&[nnm], &trimmed, vec![input.updates()]));
        let median_clip = pre(json!({"kind": "clip", "max_norm_ratio": 1.0}));
        let krum = aggregator(json!({"kind": "krum", "byzantine": f, "neighbours": "byzfl"}));
        input.assert_near("preaggregators", "clip+krum", &combined(&[median_clip], &krum, vec![input.updates()]));
    }
    // Bucketing draws its order: its means are tested beside it.
    assert_eq!(PreAggregatorSettings::NAMES, ["nnm", "bucketing", "clip", "arc"]);
}

#[test]
fn attacks_follow_their_references() {
    for input in inputs() {
        let (n, f) = (input.n, input.byzantine);
        let slices: Vec<&[f32]> = input.rows.iter().map(Vec::as_slice).collect();
        let trimmed = AggregatorSettings::TrimmedMean(TrimmedMean { byzantine: f });
        let defence = |vectors: &[&[f32]]| -> Result<Vec<f32>, AggregationError> {
            Ok(combined(&[], &trimmed, vec![Updates::new(vectors)?]))
        };
        let (own, honest) = (slices[n - 1], &slices[..n - f]);
        let sight = Sight { own, honest, colluders: f, defence: Some(&defence) };
        let mut compared = 0;
        for settings in [
            json!({"kind": "sign_flip"}),
            json!({"kind": "boost"}),
            json!({"kind": "ipm"}),
            json!({"kind": "alie"}),
            json!({"kind": "mimic", "index": 1}),
            json!({"kind": "norm_matched"}),
            json!({"kind": "opt_ipm"}),
            json!({"kind": "opt_alie"}),
        ] {
            let attack: AttackSettings = serde_json::from_value(settings).unwrap();
            attack.rule().check().unwrap();
            let forged = attack.rule().forge(&sight, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
            input.assert_near("attacks", attack.name(), &forged);
            compared += 1;
        }
        // The other two draw noise.
        assert_eq!(compared + 2, AttackSettings::NAMES.len());
        for settings in [json!({"kind": "gaussian", "deviation": 0.5}), json!({"kind": "free_rider", "noise": 1.0})] {
            let attack: AttackSettings = serde_json::from_value(settings).unwrap();
            let forge = |seed| attack.rule().forge(&sight, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
            assert_eq!(forge(1), forge(1));
            assert_ne!(forge(1), forge(2));
        }
        let blind = Sight { own, honest: &[], colluders: 1, defence: None };
        let alone = AttackSettings::SignFlip(fedward_aggregation::attacks::SignFlip { scale: 1.0 });
        let flipped = alone.rule().forge(&blind, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        assert!(flipped.iter().zip(own).all(|(flipped, own)| flipped.to_bits() == (-own).to_bits()));
        for needs_sight in ["alie", "mimic", "norm_matched", "opt_ipm", "opt_alie"] {
            let attack: AttackSettings = serde_json::from_value(json!({"kind": needs_sight})).unwrap();
            let error = attack.rule().forge(&blind, &mut ChaCha8Rng::seed_from_u64(1)).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{needs_sight} needs to see")), "{error}");
        }
    }
}

#[test]
fn preconditions_are_refused_in_words_and_never_clamped() {
    let problem = |pre: Value, rule: Value, updates: usize| {
        let pre: Vec<PreAggregatorSettings> = serde_json::from_value(pre).unwrap();
        check(&pre, &aggregator(rule), updates).unwrap_err().to_string()
    };
    for (rule, condition, needed) in [
        ("trimmed_mean", "n ≥ 2f + 1", 5),
        ("krum", "n ≥ 2f + 3", 7),
        ("multi_krum", "n ≥ 2f + 3", 7),
        ("bulyan", "n ≥ 4f + 3", 11),
        ("dnc", "n ≥ 2f + 1", 5),
    ] {
        let settings = json!({"kind": rule, "byzantine": 2});
        let expected = format!("{rule} needs {condition}, which is {needed} or more updates; found {}", needed - 1);
        assert_eq!(problem(json!([]), settings.clone(), needed - 1), expected);
        check(&[], &aggregator(settings), needed).unwrap();
    }
    // Buckets are fewer than clients.
    let bucketed = problem(json!([{"kind": "bucketing", "size": 2}]), json!({"kind": "krum", "byzantine": 1}), 8);
    assert_eq!(bucketed, "krum needs n ≥ 2f + 3, which is 5 or more updates; found 4");
    let mixed = problem(json!([{"kind": "nnm", "byzantine": 1}]), json!({"kind": "foolsgold"}), 5);
    assert_eq!(mixed, "foolsgold remembers each client's updates, but nnm mixes clients; use it without");
    let unset = problem(json!([{"kind": "clip"}]), json!({"kind": "median"}), 5);
    assert_eq!(unset, "clip.bounds given: found 0; expected exactly one of max_norm and max_norm_ratio");
    let unbounded = problem(json!([]), json!({"kind": "centred_clipping", "tau": -1.0}), 5);
    assert_eq!(unbounded, "centred_clipping.tau: found -1; expected a number above 0");
    let unknown = serde_json::from_value::<AggregatorSettings>(json!({"kind": "krum", "byzantine": 1, "m": 3}));
    assert!(unknown.unwrap_err().to_string().contains("unknown field `m`"));
}

#[test]
fn threads_change_no_bit_of_any_rule() {
    let input = Input::read("large");
    let with_threads = |threads: usize, settings: &AggregatorSettings| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| combined(&[], settings, vec![input.updates(), updates(&input.later)]))
    };
    for kind in AggregatorSettings::NAMES {
        let settings = serde_json::from_value(json!({"kind": kind}))
            .or_else(|_| serde_json::from_value(json!({"kind": kind, "byzantine": 2})));
        let settings: AggregatorSettings = settings.unwrap();
        assert_eq!(with_threads(1, &settings), with_threads(3, &settings), "{kind}");
    }
}

/// One update of 10^30 in all values: a rule that withstands one malicious update stays among the honest values.
#[test]
fn one_huge_update_moves_no_robust_rule() {
    let mut input = Input::read("large");
    input.rows[3] = vec![1e30; input.length];
    for (kind, robust) in
        [("mean", false), ("median", true), ("trimmed_mean", true), ("krum", true), ("multi_krum", true)]
            .into_iter()
            .chain([("bulyan", true), ("geometric_median", true), ("dnc", true), ("flame", true), ("lasa", true)])
    {
        let settings = serde_json::from_value(json!({"kind": kind}))
            .or_else(|_| serde_json::from_value(json!({"kind": kind, "byzantine": 2})));
        let values = combined(&[], &settings.unwrap(), vec![input.updates()]);
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert_eq!(largest < 5.0, robust, "{kind}: {largest}");
    }
}
