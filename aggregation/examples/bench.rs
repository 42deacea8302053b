//! How long each rule takes: `bench UPDATES MEGABYTES [RULE…]` prints a line of JSON for each.
//!
//! Updates are random numbers around a common direction, a tenth of them malicious. Each rule runs `REPEATS` times, and the
//! shortest counts. `residual_reweighting` costs n² per value, so that it gets a hundredth of them.

use std::time::Instant;

use fedward_aggregation::{
    AggregationError, AggregatorSettings, Context, Memory, PreAggregatorSettings, Updates, aggregators::Mean, combine,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use rayon::prelude::*;
use serde_json::json;

const REPEATS: usize = 2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [updates, megabytes, rules @ ..] = &arguments[..] else {
        return Err("usage: bench UPDATES MEGABYTES [RULE…]".into());
    };
    let (n, length) = (updates.parse::<usize>()?, megabytes.parse::<usize>()? * 250_000);
    let is_wanted = |name: &str| rules.is_empty() || rules.iter().any(|rule| rule == name);
    let byzantine = n / 10;
    let vectors: Vec<Vec<f32>> = (0..n).into_par_iter().map(|i| vector(i, i >= n - byzantine, length)).collect();
    println!("{}", json!({"rule": "copy", "seconds": copy_seconds(&vectors[0]), "bytes": 8 * length}));
    for kind in AggregatorSettings::NAMES.iter().filter(|kind| is_wanted(kind)) {
        let with_f = json!({"kind": kind, "byzantine": byzantine});
        let settings = serde_json::from_value(json!({"kind": kind})).or_else(|_| serde_json::from_value(with_f))?;
        let part = if *kind == "residual_reweighting" { length / 100 } else { length };
        report(kind, &vectors, part, &[], &settings)?;
    }
    for pre in [
        json!({"kind": "nnm", "byzantine": byzantine}),
        json!({"kind": "bucketing", "size": 2}),
        json!({"kind": "clip", "max_norm_ratio": 1.0}),
        json!({"kind": "arc", "byzantine": byzantine}),
    ] {
        let pre: PreAggregatorSettings = serde_json::from_value(pre)?;
        if is_wanted(pre.name()) {
            let name = pre.name();
            report(name, &vectors, length, &[pre], &AggregatorSettings::Mean(Mean::default()))?;
        }
    }
    Ok(())
}

/// Uniform numbers: from −½ to 1½ of an honest client, from −3½ to −2½ of a malicious one.
fn vector(client: usize, is_malicious: bool, length: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(client as u64);
    let mut unit = || (random.next_u32() >> 8) as f32 / (1 << 24) as f32;
    (0..length).map(|_| if is_malicious { unit() - 3.5 } else { 2.0 * unit() - 0.5 }).collect()
}

/// Seconds to copy a vector with all threads.
fn copy_seconds(vector: &[f32]) -> f64 {
    let mut copy = vec![1.0_f32; vector.len()];
    let mut shortest = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        copy.par_chunks_mut(1 << 16).zip(vector.par_chunks(1 << 16)).for_each(|(to, from)| to.copy_from_slice(from));
        shortest = shortest.min(start.elapsed().as_secs_f64());
    }
    assert_eq!(copy.last(), vector.last());
    shortest
}

fn report(
    name: &str,
    vectors: &[Vec<f32>],
    length: usize,
    pre: &[PreAggregatorSettings],
    settings: &AggregatorSettings,
) -> Result<(), AggregationError> {
    let slices: Vec<&[f32]> = vectors.iter().map(|vector| &vector[..length]).collect();
    let (mut shortest, mut norm) = (f64::INFINITY, 0.0);
    for _ in 0..REPEATS {
        let (mut memory, mut random) = (Memory::default(), ChaCha8Rng::seed_from_u64(1));
        let mut context = Context { memory: &mut memory, random: &mut random };
        let start = Instant::now();
        let aggregate = combine(pre, settings, Updates::new(&slices)?, &mut context)?;
        shortest = shortest.min(start.elapsed().as_secs_f64());
        norm = fedward_aggregation::vectors::norms(&[&aggregate.values])[0];
    }
    let bytes = 4 * length * (vectors.len() + 1);
    println!("{}", json!({"rule": name, "seconds": shortest, "bytes": bytes, "values": length, "norm": norm}));
    Ok(())
}
