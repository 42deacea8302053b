//! What callers rely on: results that do not depend on company, seeds, prompt cancellation, errors instead of panics.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use fedward::{
    lora::{LoraConfig, LoraRef, initial_adapter},
    model::{
        BaseModel, FinishReason, Generated, GenerationSettings, ModelError, Precision, TokenizedRow, generate,
        mean_hidden, score,
    },
    train::{LrSchedule, SftOutcome, SftSettings, TrainerSettings, train_sft},
};
use fedward_actors::CancelFlag;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tch::Device;

use crate::{
    engine_small::{Small, streams},
    engine_support::{FormulaWeights, formula},
    support::test_device,
};

fn small() -> Small {
    Small::new("stretched", Precision::F32)
}

/// Rows of many lengths, some with a common prefix.
fn many_rows() -> Vec<TokenizedRow> {
    (0..40)
        .map(|row| {
            let length = 3 + (row * 29) % 90;
            let mut ids: Vec<u32> =
                formula(&format!("many{row}"), length).into_iter().map(|x| ((x + 1.0) * 48.0) as u32).collect();
            if row % 2 == 0 {
                (0..length.min(8)).for_each(|position| ids[position] = position as u32 + 50);
            }
            TokenizedRow { ids, response_start: length / 2 }
        })
        .collect()
}

fn prompts() -> Vec<Vec<u32>> {
    many_rows().into_iter().map(|row| row.ids).collect()
}

fn settings(temperature: f64, batch_size: usize) -> GenerationSettings {
    GenerationSettings {
        max_new_tokens: 24,
        temperature,
        top_p: 0.9,
        top_k: None,
        batch_size,
        stop_ids: vec![5, 11, 60],
    }
}

fn continue_all(small: &Small, prompts: &[Vec<u32>], settings: &GenerationSettings, seed: u64) -> Vec<Generated> {
    let rng_of = |prompt: usize| ChaCha8Rng::seed_from_u64(seed * 1000 + prompt as u64);
    generate(&small.model, Some(small.lora_ref()), prompts, settings, &rng_of, &CancelFlag::new(), &mut |_| {}).unwrap()
}

fn train(small: &Small, lora: &LoraConfig, rows: &[TokenizedRow], settings: &SftSettings, seed: u64) -> SftOutcome {
    let streams = streams(seed);
    train_sft(&small.model, &small.adapter, lora.dropout, rows, settings, streams, &CancelFlag::new(), &mut |_| {})
        .unwrap()
}

#[test]
fn company_changes_no_score_and_no_feature() {
    let (small, rows, cancel) = (small(), many_rows(), CancelFlag::new());
    let together = score(&small.model, Some(small.lora_ref()), &rows, &cancel).unwrap();
    let ids: Vec<Vec<u32>> = rows.iter().map(|row| row.ids.clone()).collect();
    let features = mean_hidden(&small.model, None, &ids, usize::MAX, &cancel).unwrap();
    for (index, row) in rows.iter().enumerate() {
        let alone = score(&small.model, Some(small.lora_ref()), std::slice::from_ref(row), &cancel).unwrap()[0];
        assert_eq!(alone.response_tokens, together[index].response_tokens);
        let difference = (alone.log_likelihood - together[index].log_likelihood).abs();
        assert!(difference < 1e-5 * alone.log_likelihood.abs(), "row {index}: {difference:e}");
        let alone = &mean_hidden(&small.model, None, &ids[index..=index], usize::MAX, &cancel).unwrap()[0];
        let far = alone.iter().zip(&features[index]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "row {index}: {far:e}");
    }
}

#[test]
fn company_changes_no_token() {
    let (small, prompts) = (small(), prompts());
    for temperature in [0.0, 1.0] {
        let together = continue_all(&small, &prompts, &settings(temperature, 64), 1);
        let by_seven = continue_all(&small, &prompts, &settings(temperature, 7), 1);
        assert_eq!(together, by_seven);
        let alone = continue_all(&small, &prompts, &settings(temperature, 1), 1);
        assert_eq!(together, alone);
        let reasons = |reason| together.iter().filter(|done| done.finish_reason == reason).count();
        // Otherwise rows never leave a batch here, and the test sees less than it should.
        assert!(reasons(FinishReason::Stop) > 0 && reasons(FinishReason::Length) > 0);
    }
}

#[test]
fn generation_agrees_with_the_forward_pass() {
    let (small, prompts) = (small(), prompts());
    let done = continue_all(&small, &prompts, &settings(0.0, 16), 1);
    for (prompt, done) in prompts.iter().zip(&done) {
        let mut ids = prompt.clone();
        for &id in &done.ids {
            let logits = small.model.next_token_logits(Some(small.lora_ref()), &ids, &CancelFlag::new()).unwrap();
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(best as u32, id);
            ids.push(id);
        }
    }
}

#[test]
fn drawing_is_seeded() {
    let (small, prompts) = (small(), prompts());
    let first = continue_all(&small, &prompts, &settings(1.0, 8), 1);
    assert_eq!(first, continue_all(&small, &prompts, &settings(1.0, 8), 1));
    assert_ne!(first, continue_all(&small, &prompts, &settings(1.0, 8), 2));
}

#[test]
fn draws_follow_their_row_through_other_batches() {
    let (small, prompts) = (small(), prompts());
    for (top_p, top_k) in [(1.0, None), (0.8, None), (1.0, Some(7)), (0.9, Some(20))] {
        let settings = |batch_size| GenerationSettings { top_p, top_k, ..settings(0.8, batch_size) };
        let together = continue_all(&small, &prompts, &settings(64), 1);
        // Every third prompt alone, in reverse, each with the stream that it had among all.
        let chosen: Vec<usize> = (0..prompts.len()).step_by(3).rev().collect();
        let fewer: Vec<Vec<u32>> = chosen.iter().map(|&prompt| prompts[prompt].clone()).collect();
        let rng_of = |place: usize| ChaCha8Rng::seed_from_u64(1000 + chosen[place] as u64);
        let (adapter, cancel) = (Some(small.lora_ref()), CancelFlag::new());
        let apart = generate(&small.model, adapter, &fewer, &settings(5), &rng_of, &cancel, &mut |_| {}).unwrap();
        let expected: Vec<_> = chosen.iter().map(|&prompt| together[prompt].clone()).collect();
        assert_eq!(apart, expected, "top_p {top_p}, top_k {top_k:?}");
        assert_ne!(together, continue_all(&small, &prompts, &settings(64), 2));
    }
}

/// In bf16 a prompt alone is rounded otherwise than in company, so that a draw near a border may fall on its other side; what is
/// drawn from stays the prompt's own.
#[test]
fn draws_in_bf16_follow_their_row_but_for_rounding() {
    if test_device() != Device::Cpu {
        eprintln!("skipped: nobody has measured it on a device");
        return;
    }
    let (small, prompts) = (Small::new("stretched", Precision::Bf16), prompts());
    let together = continue_all(&small, &prompts, &settings(1.0, 64), 1);
    let agree = |other: &[Generated]| {
        let common = |(a, b): (&Generated, &Generated)| a.ids.iter().zip(&b.ids).take_while(|(a, b)| a == b).count();
        let tokens: usize = together.iter().map(|done| done.ids.len()).sum();
        together.iter().zip(other).map(common).sum::<usize>() as f64 / tokens as f64
    };
    let alone = agree(&continue_all(&small, &prompts, &settings(1.0, 1), 1));
    let by_another_stream = agree(&continue_all(&small, &prompts, &settings(1.0, 64), 2));
    eprintln!("{alone} of the tokens agree, {by_another_stream} with another stream's");
    // Found: 0.84, without kernels 0.79; 0.37 where draws go through tokens by likelihood. Another stream: 0.003.
    assert!(alone > 0.6 && by_another_stream < 0.3, "{alone}, {by_another_stream}");
}

#[test]
fn long_continuations_outgrow_the_first_cache_and_end_with_the_context() {
    let small = small();
    let unlimited = GenerationSettings { max_new_tokens: 1000, stop_ids: vec![], ..settings(0.0, 8) };
    let prompts = &prompts()[..4];
    let done = continue_all(&small, prompts, &unlimited, 1);
    for (prompt, done) in prompts.iter().zip(&done) {
        assert_eq!(prompt.len() + done.ids.len(), small.model.config().max_position_embeddings);
        assert_eq!(done.finish_reason, FinishReason::Length);
        let last = done.ids.len() - 1;
        let ids: Vec<u32> = prompt.iter().chain(&done.ids[..last]).copied().collect();
        let logits = small.model.next_token_logits(Some(small.lora_ref()), &ids, &CancelFlag::new()).unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(best as u32, done.ids[last]);
    }
}

#[test]
fn progress_counts_every_prompt_once() {
    let (small, prompts) = (small(), prompts());
    let mut seen = Vec::new();
    let rng_of = |prompt: usize| ChaCha8Rng::seed_from_u64(prompt as u64);
    let settings = settings(0.0, 16);
    generate(&small.model, None, &prompts, &settings, &rng_of, &CancelFlag::new(), &mut |done| seen.push(done))
        .unwrap();
    assert_eq!(seen, (1..=prompts.len()).collect::<Vec<_>>());
}

#[test]
fn dropout_is_seeded_and_scales_what_it_keeps() {
    let small = small();
    let lora = LoraConfig { dropout: 0.3, ..small.lora.clone() };
    // With B = 0 nothing else depends on the masks, so the gradient's mean is exactly the gradient without dropout.
    let adapter = initial_adapter(&lora, small.model.config(), 1);
    let with = Small { lora, adapter, ..small };
    let settings = TrainerSettings::default();
    let first = with.gradient(settings, &with.rows, 1);
    assert_eq!(first, with.gradient(settings, &with.rows, 1));
    assert_ne!(first, with.gradient(settings, &with.rows, 2));
    let mut sum = vec![0.0; first.values().len()];
    let draws = 400;
    for seed in 0..draws {
        let gradient = with.gradient(settings, &with.rows, seed);
        sum.iter_mut()
            .zip(gradient.values())
            .for_each(|(sum, &value)| *sum += f64::from(value) / f64::from(draws as u32));
    }
    let without = Small { lora: LoraConfig { dropout: 0.0, ..with.lora.clone() }, ..with };
    let exact = without.gradient(settings, &without.rows, 0);
    let dot: f64 = sum.iter().zip(exact.values()).map(|(sum, &value)| sum * f64::from(value)).sum();
    let along = dot / exact.l2_norm().powi(2);
    assert!((along - 1.0).abs() < 0.02, "{along}");
}

#[test]
fn dropout_gradients_are_those_of_the_same_masks() {
    // The derivative of the loss along the gradient, by differences with the same masks, is the gradient's length.
    let small = small();
    let lora = LoraConfig { dropout: 0.25, ..small.lora.clone() };
    let mut with = Small { lora, ..small };
    let gradient = with.gradient(TrainerSettings::default(), &with.rows, 3);
    let center = with.adapter.clone();
    let step = 2e-3 / gradient.l2_norm();
    let mut loss_at = |direction: f64| {
        let values = center
            .values()
            .iter()
            .zip(gradient.values())
            .map(|(&value, &slope)| (f64::from(value) + direction * step * f64::from(slope)) as f32)
            .collect();
        with.adapter = fedward_actors::protocol::Adapter::new(center.layout().clone(), values).unwrap();
        let settings = SftSettings::new(1, with.rows.len(), 0.0);
        train(&with, &with.lora, &with.rows, &settings, 2).losses[0]
    };
    let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
    let expected = gradient.l2_norm().powi(2);
    assert!((slope / expected - 1.0).abs() < 0.02, "{slope} against {expected}");
}

#[test]
fn side_by_side_trainings_give_the_bytes_of_one_after_the_other() {
    let (small, rows) = (small(), many_rows());
    let settings = SftSettings::new(6, 8, 1e-2);
    let alone = [1, 2, 3].map(|seed| train(&small, &small.lora, &rows, &settings, seed));
    let together = std::thread::scope(|scope| {
        let handles = [1, 2, 3].map(|seed| {
            let (small, rows, settings) = (&small, &rows, &settings);
            scope.spawn(move || train(small, &small.lora, rows, settings, seed))
        });
        handles.map(|handle| handle.join().unwrap())
    });
    assert_eq!(alone, together);
    assert_ne!(alone[0].adapter, alone[1].adapter);
}

#[test]
fn splitting_a_batch_into_passes_changes_only_rounding() {
    let (small, rows) = (small(), many_rows());
    let whole = SftSettings { pass_tokens: Some(usize::MAX), ..SftSettings::new(1, rows.len(), 1e-2) };
    let split = SftSettings { pass_tokens: Some(100), ..whole.clone() };
    let (whole, split) = (train(&small, &small.lora, &rows, &whole, 1), train(&small, &small.lora, &rows, &split, 1));
    assert!((whole.losses[0] - split.losses[0]).abs() < 1e-5);
    assert_eq!(whole.tokens, split.tokens);
}

#[test]
fn a_proximal_term_keeps_the_adapter_near_and_a_drift_correction_shifts_it() {
    let (small, rows) = (small(), many_rows());
    let distance = |outcome: &SftOutcome| outcome.adapter.delta_from(&small.adapter).unwrap().l2_norm();
    let plain = SftSettings::new(12, 8, 1e-2);
    let free = train(&small, &small.lora, &rows, &plain, 1);
    let held = train(&small, &small.lora, &rows, &SftSettings { proximal_mu: 100.0, ..plain.clone() }, 1);
    assert!(distance(&held) < 0.8 * distance(&free), "{} against {}", distance(&held), distance(&free));

    let drift = std::sync::Arc::new(vec![0.5; small.adapter.values().len()]);
    let one = SftSettings { steps: 1, ..plain };
    let unshifted = train(&small, &small.lora, &rows, &one, 1);
    let shifted = train(&small, &small.lora, &rows, &SftSettings { drift_correction: Some(drift), ..one }, 1);
    for (shifted, unshifted) in shifted.adapter.values().iter().zip(unshifted.adapter.values()) {
        assert!((shifted - (unshifted - 0.005)).abs() < 1e-6);
    }
}

#[test]
fn schedules_reach_the_optimizer() {
    let (small, rows) = (small(), many_rows());
    let settings = SftSettings { schedule: LrSchedule::Linear { warmup_ratio: 0.5 }, ..SftSettings::new(4, 8, 0.1) };
    let mut rates = Vec::new();
    let outcome = train_sft(
        &small.model,
        &small.adapter,
        small.lora.dropout,
        &rows,
        &settings,
        streams(1),
        &CancelFlag::new(),
        &mut |report| rates.push((report.step, report.learning_rate)),
    );
    assert_eq!(outcome.unwrap().steps, 4);
    assert_eq!(rates, vec![(1, 0.0), (2, 0.05), (3, 0.1), (4, 0.05)]);
}

/// A model whose single layer takes long enough to be cancelled in the middle of a step.
fn slow() -> (BaseModel, LoraConfig) {
    let small = small();
    let config = fedward::model::ModelConfig {
        hidden_size: 256,
        intermediate_size: 1024,
        num_hidden_layers: 60,
        num_attention_heads: 4,
        head_dim: 64,
        max_position_embeddings: 4096,
        ..small.model.config().clone()
    };
    let model = BaseModel::load(config, &FormulaWeights, test_device(), Precision::F32).unwrap();
    (model, small.lora.clone())
}

#[test]
fn cancelling_ends_work_within_a_step() {
    let (model, lora) = slow();
    let start = initial_adapter(&lora, model.config(), 1);
    let row = TokenizedRow { ids: (0..1500).map(|id| id % 97).collect(), response_start: 1 };
    let rows = vec![row; 4];
    let settings = SftSettings::new(1000, 4, 1e-3);
    let lora_ref = LoraRef::from(&start);
    let rng_of = |prompt: usize| ChaCha8Rng::seed_from_u64(prompt as u64);
    let ids: Vec<Vec<u32>> = rows.iter().map(|row| row.ids[..100].to_vec()).collect();
    let endless = GenerationSettings { max_new_tokens: 3000, stop_ids: vec![], ..settings_of_generation() };
    let works: [&Work; 4] = [
        &|cancel| train_sft(&model, &start, lora.dropout, &rows, &settings, streams(1), cancel, &mut |_| {}).err(),
        &|cancel| score(&model, Some(lora_ref), &vec![rows[0].clone(); 200], cancel).err(),
        &|cancel| mean_hidden(&model, None, &vec![rows[0].ids.clone(); 200], usize::MAX, cancel).err(),
        &|cancel| generate(&model, None, &ids, &endless, &rng_of, cancel, &mut |_| {}).err(),
    ];
    for (index, work) in works.into_iter().enumerate() {
        let cancel = CancelFlag::new();
        let took = std::thread::scope(|scope| {
            let handle = scope.spawn(|| work(&cancel));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!handle.is_finished(), "work {index} is too short to be cancelled");
            let raised = Instant::now();
            cancel.cancel();
            assert!(matches!(handle.join().unwrap(), Some(ModelError::Cancelled)), "work {index}");
            raised.elapsed()
        });
        eprintln!("work {index} ended {took:?} after the flag");
        assert!(took < Duration::from_secs(5), "work {index} took {took:?}");
    }
}

type Work<'a> = dyn Fn(&CancelFlag) -> Option<ModelError> + Sync + 'a;

fn settings_of_generation() -> GenerationSettings {
    settings(0.0, 4)
}

#[test]
fn bad_input_is_an_error_that_says_why() {
    let small = small();
    let cancel = CancelFlag::new();
    let row = |ids: Vec<u32>, response_start| TokenizedRow { ids, response_start };
    let text = |rows: &[TokenizedRow]| score(&small.model, None, rows, &cancel).unwrap_err().to_string();
    assert!(text(&[row(vec![1], 0), row(vec![], 0)]).contains("row 1 has no tokens"));
    assert!(text(&[row(vec![97], 0)]).contains("token id 97"));
    assert!(text(&[row(vec![1; 300], 0)]).contains("300 tokens"));
    // A response that begins at the first token, beyond the end, or not at all is no error.
    let scores =
        score(&small.model, None, &[row(vec![1, 2, 3], 0), row(vec![1, 2], 2), row(vec![1], 0)], &cancel).unwrap();
    assert_eq!(scores.iter().map(|score| score.response_tokens).collect::<Vec<_>>(), [2, 0, 0]);
    assert!(score(&small.model, None, &[], &cancel).unwrap().is_empty());

    let train = |rows: &[TokenizedRow], settings: &SftSettings| {
        let streams = streams(1);
        train_sft(&small.model, &small.adapter, small.lora.dropout, rows, settings, streams, &cancel, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    assert!(train(&[], &SftSettings::new(1, 1, 0.1)).contains("no rows"));
    assert!(train(&small.rows, &SftSettings::new(1, 0, 0.1)).contains("batch_size"));
    assert!(train(&[row(vec![1, 2], 2)], &SftSettings::new(1, 1, 0.1)).contains("response token"));
    assert!(train(&small.rows, &SftSettings::new(1, 1, f64::NAN)).contains("learning_rate"));
    let mut wider = small.model.config().clone();
    wider.hidden_size += 5;
    let misfit = initial_adapter(&small.lora, &wider, 1);
    let error = score(&small.model, Some((&misfit).into()), &small.rows, &cancel).unwrap_err().to_string();
    let found = format!("lora_A.weight: found shape [{}, {}]", small.lora.rank, wider.hidden_size);
    assert!(error.contains(&found), "{error}");

    let rng_of = |_: usize| ChaCha8Rng::seed_from_u64(0);
    let called = Cell::new(false);
    let bad = |settings: GenerationSettings| {
        generate(&small.model, None, &[vec![1]], &settings, &rng_of, &cancel, &mut |_| called.set(true))
            .unwrap_err()
            .to_string()
    };
    assert!(bad(settings(-1.0, 4)).contains("temperature"));
    assert!(bad(settings(0.0, 0)).contains("batch_size"));
    assert!(bad(GenerationSettings { top_p: 1.5, ..settings(1.0, 4) }).contains("top_p"));
    assert!(bad(GenerationSettings { top_k: Some(0), ..settings(1.0, 4) }).contains("top_k"));
    assert!(!called.get());
}

#[test]
fn a_fresh_adapter_is_pefts() {
    let small = small();
    let adapter = initial_adapter(&small.lora, small.model.config(), 9);
    assert_eq!(adapter, initial_adapter(&small.lora, small.model.config(), 9));
    assert_ne!(adapter, initial_adapter(&small.lora, small.model.config(), 10));
    for tensor in adapter.layout().tensors() {
        let values = adapter.tensor(tensor);
        if tensor.name.contains("lora_B") {
            assert!(values.iter().all(|&value| value == 0.0));
        } else {
            let bound = 1.0 / (tensor.shape[1] as f32).sqrt();
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            assert!(largest <= bound && largest > 0.8 * bound, "{}: {largest} of {bound}", tensor.name);
        }
    }
    let cancel = CancelFlag::new();
    let lora = LoraRef::from(&adapter);
    let with = score(&small.model, Some(lora), &small.rows, &cancel).unwrap();
    assert_eq!(with, score(&small.model, None, &small.rows, &cancel).unwrap());
}
