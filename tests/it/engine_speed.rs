//! How fast the engine is. Run with `cargo test --test it speed -- --ignored --nocapture --test-threads 1`.

use std::collections::BTreeSet;

use fedward::{
    lora::{LoraConfig, Target, initial_adapter},
    model::{BaseModel, Precision, TokenizedRow, generate, score},
    train::{SftSettings, train_sft},
};
use fedward_actors::CancelFlag;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tch::{Device, Kind, Tensor};

use crate::{
    engine_default::{expected, greedy},
    engine_small::streams,
    engine_support::{cpu_seconds, default_model, formula, rows_of},
};

fn lora(targets: &[Target]) -> LoraConfig {
    LoraConfig {
        rank: 16,
        alpha: 32.0,
        dropout: 0.0,
        targets: targets.iter().copied().collect::<BTreeSet<_>>(),
        use_rslora: false,
    }
}

/// 64 rows of 50 to 80 tokens that begin with the same system prompt, 20 of them the response.
fn rows() -> Vec<TokenizedRow> {
    let system = rows_of(&expected()["rows"])[0].ids[..25].to_vec();
    (0..64)
        .map(|row| {
            let length = 50 + (row * 17) % 31;
            let own = formula(&format!("speed{row}"), length - system.len());
            let own = own.into_iter().map(|value| ((value + 1.0) * 20_000.0) as u32);
            TokenizedRow { ids: system.iter().copied().chain(own).collect(), response_start: length - 20 }
        })
        .collect()
}

fn ceiling() -> f64 {
    let (x, w) =
        (Tensor::rand([1024, 576], (Kind::Float, Device::Cpu)), Tensor::rand([3072, 576], (Kind::Float, Device::Cpu)));
    let started = cpu_seconds();
    for _ in 0..50 {
        let _ = x.mm(&w.tr());
    }
    2.0 * 50.0 * 1024.0 * 576.0 * 3072.0 / (cpu_seconds() - started) / 1e9
}

fn train(model: &BaseModel, targets: &[Target], share_prefix: bool, steps: usize) -> f64 {
    let (lora, rows) = (lora(targets), rows());
    let start = initial_adapter(&lora, model.config(), 1);
    let settings = SftSettings { share_prefix, ..SftSettings::new(steps, 16, 1e-3) };
    let started = cpu_seconds();
    let outcome =
        train_sft(model, &start, lora.dropout, &rows, &settings, streams(1), &CancelFlag::new(), &mut |_| {}).unwrap();
    outcome.tokens as f64 / (cpu_seconds() - started)
}

#[test]
#[ignore = "a measurement"]
fn speed_of_training() {
    let model = default_model(Precision::F32);
    eprintln!("ceiling {:.0} GFLOP/s", ceiling());
    let side = std::thread::scope(|scope| {
        let handles = [scope.spawn(ceiling), scope.spawn(ceiling)];
        handles.map(|handle| handle.join().unwrap())
    });
    eprintln!("ceiling side by side {side:.0?} GFLOP/s");
    for (name, targets) in [("q,v", &[Target::QProj, Target::VProj][..]), ("all", &Target::ALL[..])] {
        for share in [false, true] {
            eprintln!("{name} share {share}: {:.0} tok/s", train(&model, targets, share, 2));
        }
        let side = std::thread::scope(|scope| {
            let handles = [0, 1].map(|_| scope.spawn(|| train(&model, targets, true, 2)));
            handles.map(|handle| handle.join().unwrap())
        });
        eprintln!("{name} side by side: {side:.0?} tok/s");
    }
}

#[test]
#[ignore = "a measurement"]
fn speed_of_generation_and_scoring() {
    let model = default_model(Precision::F32);
    let prompts: Vec<Vec<u32>> = rows().into_iter().map(|row| row.ids[..row.ids.len() - 20].to_vec()).collect();
    for batch in [16, 32, 64] {
        let mut settings = greedy(40, batch);
        settings.stop_ids.clear();
        let started = cpu_seconds();
        let rng_of = |prompt: usize| ChaCha8Rng::seed_from_u64(prompt as u64);
        let done = generate(&model, None, &prompts, &settings, &rng_of, &CancelFlag::new(), &mut |_| {}).unwrap();
        let tokens: usize = done.iter().map(|done| done.ids.len()).sum();
        eprintln!("greedy batch {batch}: {:.0} tok/s", tokens as f64 / (cpu_seconds() - started));
    }
    let started = cpu_seconds();
    score(&model, None, &rows(), &CancelFlag::new()).unwrap();
    let tokens: usize = rows().iter().map(|row| row.ids.len()).sum();
    eprintln!("score: {:.0} tok/s", tokens as f64 / (cpu_seconds() - started));
}
