//! Models with frozen terms and clients that train one factor or a few ranks: through the engine, through files, through the program.

use std::{fs, path::Path, sync::Arc};

use fedward::{
    lora::{LoraRef, peft},
    model::{Precision, generate, score},
    train::{AdapterTrainer, SftSettings, TrainerSettings, train_sft},
};
use fedward_actors::{
    CancelFlag,
    protocol::{Adapter, Factor, GlobalModel},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;

use crate::{
    engine_default::greedy,
    engine_small::{NAMES, Small, streams},
    engine_support::relative_error,
    run::{TINY, assert_success},
    support::fedward,
};

/// An adapter on two frozen terms of other ranks and scalings, all different.
fn model_of(small: &Small) -> GlobalModel {
    let scaled = |factor: f32, term: &Adapter| {
        let values = term.values().iter().map(|value| value * factor).collect();
        Arc::new(Adapter::new(Arc::clone(term.layout()), values).unwrap())
    };
    let frozen = vec![
        scaled(0.5, &small.adapter.with_scaling(-0.75)),
        scaled(-0.25, &small.adapter.truncated(1).with_scaling(3.0)),
    ];
    GlobalModel::new(frozen, small.adapter.clone())
}

/// The same model as one adapter, by way of the files that `peft` reads.
fn as_one_adapter(small: &Small, model: &GlobalModel) -> Adapter {
    let folder = tempfile::tempdir().unwrap();
    peft::save(folder.path(), &small.lora, model, "small").unwrap();
    let (config, adapter) = peft::load(folder.path(), small.model.config()).unwrap();
    assert_eq!(config.rank, 2 * small.lora.rank + 1);
    assert_eq!(config.scaling().to_bits(), 1.0_f64.to_bits());
    adapter
}

#[test]
fn frozen_terms_compute_what_their_stack_does() {
    for name in NAMES {
        let (small, cancel) = (Small::new(name, Precision::F32), CancelFlag::new());
        let model = model_of(&small);
        let stacked = as_one_adapter(&small, &model);
        let likelihoods = |lora: LoraRef<'_>| -> Vec<f64> {
            let scores = score(&small.model, Some(lora), &small.rows, &cancel).unwrap();
            scores.iter().map(|score| score.log_likelihood).collect()
        };
        let (ours, theirs) = (likelihoods((&model).into()), likelihoods((&stacked).into()));
        let error = relative_error(&ours, &theirs);
        assert!(error < 2e-6, "{name}: {error:e}");
        assert!(relative_error(&likelihoods(small.lora_ref()), &theirs) > 1e-4, "{name}: frozen terms change nothing");
        let prompts: Vec<Vec<u32>> = small.rows.iter().map(|row| row.ids.clone()).collect();
        let continued = |lora: LoraRef<'_>| {
            let rng_of = |_: usize| ChaCha8Rng::seed_from_u64(0);
            generate(&small.model, Some(lora), &prompts, &greedy(8, 4), &rng_of, &cancel, &mut |_| {}).unwrap()
        };
        assert_eq!(continued((&model).into()), continued((&stacked).into()), "{name}");
    }
}

/// The gradient of the stack, of which the last ranks are the trainable adapter: its B is scaled beforehand.
#[test]
fn the_gradient_passes_through_what_is_frozen() {
    for name in NAMES {
        let (small, cancel) = (Small::new(name, Precision::F32), CancelFlag::new());
        let model = model_of(&small);
        let stacked = as_one_adapter(&small, &model);
        let gradient = |lora: LoraRef<'_>| {
            let rng = ChaCha8Rng::seed_from_u64(0);
            let mut trainer =
                AdapterTrainer::new(&small.model, lora, TrainerSettings::default(), 0.0, rng, &cancel).unwrap();
            let rows: Vec<_> = small.rows.iter().collect();
            trainer.accumulate(&rows, &mut |scores| vec![1.0; scores.len()]).unwrap();
            trainer.gradient().unwrap()
        };
        let (ours, whole) = (gradient((&model).into()), gradient((&stacked).into()));
        let (rank, scaling) = (small.lora.rank, small.lora.scaling());
        let mut theirs = Vec::new();
        for (tensor, own) in whole.layout().tensors().iter().zip(ours.layout().tensors()) {
            let values = whole.tensor(tensor);
            match Factor::of(tensor).unwrap() {
                Factor::A => theirs.extend(values[values.len() - own.len()..].iter().map(|&value| f64::from(value))),
                Factor::B => theirs.extend(values.chunks(tensor.shape[1]).flat_map(|row| {
                    row[row.len() - rank..].iter().map(|&value| scaling * f64::from(value)).collect::<Vec<_>>()
                })),
            }
        }
        let ours: Vec<f64> = ours.values().iter().map(|&value| f64::from(value)).collect();
        let error = relative_error(&ours, &theirs);
        assert!(error < 5e-6, "{name}: {error:e}");
    }
}

#[test]
fn a_fixed_factor_stays_to_the_bit_and_the_other_learns_as_it_would_alone() {
    let small = Small::new("stretched", Precision::F32);
    let train = |fixed: Option<Factor>, steps: usize| {
        let settings = SftSettings { fixed, weight_decay: 0.1, ..SftSettings::new(steps, 4, 1e-2) };
        let cancel = CancelFlag::new();
        let done =
            train_sft(&small.model, &small.adapter, 0.0, &small.rows, &settings, streams(1), &cancel, &mut |_| {});
        done.unwrap().adapter
    };
    let of = |adapter: &Adapter, factor: Factor| -> Vec<u32> {
        let tensors = adapter.layout().tensors().iter().filter(|tensor| Factor::of(tensor) == Some(factor));
        tensors.flat_map(|tensor| adapter.tensor(tensor)).map(|value| value.to_bits()).collect()
    };
    for (fixed, other) in [(Factor::A, Factor::B), (Factor::B, Factor::A)] {
        let after = train(Some(fixed), 3);
        assert_eq!(of(&after, fixed), of(&small.adapter, fixed));
        assert_ne!(of(&after, other), of(&small.adapter, other));
        // In the first step nothing has moved that the gradient of the other depends on.
        assert_eq!(of(&train(Some(fixed), 1), other), of(&train(None, 1), other));
    }
}

/// A tiny run of clients of two ranks, without guard, alignment and evaluation.
fn run(out: &Path, more: &[&str], sets: &[&str]) {
    let scenario = out.with_extension("toml");
    fs::write(&scenario, TINY).unwrap();
    let mut command = fedward();
    command.arg("run").arg(&scenario).arg("--out").arg(out).args(["--metrics", "off"]).args(more);
    let plain = ["cai.schedule=never", "evaluation.schedule=never", "guard.enabled=false", "federation.clients=3"];
    for set in plain.iter().chain(&["federation.cohort=3", "federation.rounds=2"]).chain(sets) {
        command.args(["--set", set]);
    }
    assert_success(&command.output().unwrap());
}

fn rounds(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("rounds.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_rule_runs_resumes_and_leaves_one_adapter_that_peft_reads() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, ranks, rank) in [
        ("fedex", true, None),
        ("flora", true, None),
        ("flexlora", true, Some(8)),
        ("hetlora", true, Some(8)),
        ("ffa", false, Some(8)),
    ] {
        let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(format!("{kind}-{name}")));
        let rule = format!("server.lora={{ kind = \"{kind}\" }}");
        let mut sets = vec![rule.as_str(), "lora.rank=8"];
        sets.extend(ranks.then_some("lora.client_ranks=[2, 8]"));
        run(&whole, &[], &sets);
        run(&cut, &[], &sets);
        // As if it had been killed after its first round.
        let rows = fs::read_to_string(cut.join("rounds.jsonl")).unwrap();
        fs::write(cut.join("rounds.jsonl"), rows.split_inclusive('\n').next().unwrap()).unwrap();
        fs::remove_file(cut.join("summary.json")).unwrap();
        run(&cut, &["--resume"], &sets);
        let adapter = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
        assert_eq!(adapter(&whole), adapter(&cut), "{kind}");
        let config: Value =
            serde_json::from_slice(&fs::read(whole.join("adapter/adapter_config.json")).unwrap()).unwrap();
        // Clients of ranks 2, 8 and 2: FLoRA freezes 12 a round and 8 of what two of them were not sent, FedEx 8 more of the mean's.
        let expected = rank.unwrap_or(if kind == "flora" { 2 * 20 + 8 } else { 2 * 28 + 8 });
        assert_eq!(config["r"], expected, "{kind}");
        let rounds = rounds(&whole);
        let bytes = |round: usize, way: &str| rounds[round][format!("adapter_bytes_{way}")].as_u64().unwrap();
        let of_rank = bytes(0, "up") / if ranks { 12 } else { 24 };
        assert_eq!(bytes(0, "down"), bytes(0, "up"), "{kind}");
        // What is frozen is sent to each of three clients.
        let frozen = if rank.is_some() { 0 } else { 3 * (expected - 8) / 2 };
        assert_eq!(bytes(1, "down"), bytes(1, "up") + frozen * of_rank, "{kind}");
        let report = &rounds[1]["strategy"];
        assert_eq!(report.get("frozen_rank").is_some(), rank.is_none(), "{kind}: {report}");
    }
}
