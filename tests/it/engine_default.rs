//! The default model against transformers and peft, in f32.
//!
//! Theirs are computed in f64. A processor decides in which order products are summed: transformers in f32 is off by 1e-5 on one
//! and by 2e-4 on another in the worst tensor of a gradient. Ours has been seen off by 6e-5 in logits of up to 25, by 2e-6 in
//! likelihoods and features, by 2e-6 in gradients and 5e-6 in losses; tolerances are ten to fifty times that, and far below what
//! a wrong epsilon, scale or position makes.

use fedward::{
    lora::{LoraConfig, LoraRef},
    model::{
        BaseModel, FinishReason, Generated, GenerationSettings, Precision, TokenizedRow, generate, mean_hidden, score,
    },
    train::{AdapterTrainer, TrainerSettings},
};
use fedward_actors::{CancelFlag, protocol::Adapter};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;

use crate::{
    engine_small::assert_samples,
    engine_support::{
        default_model, formula_adapter, ids_of, lora_of, reals_of, reference, relative_error, rows_of,
        ten_steps_and_one, worst_logit_error,
    },
};

pub(crate) fn expected() -> &'static Value {
    &reference()["default"]
}

fn adapter_of(section: &str, model: &BaseModel) -> (LoraConfig, Adapter) {
    let spec = &expected()[section]["lora"];
    let lora = lora_of(spec);
    let adapter = formula_adapter(&lora, model.config(), spec["b_scale"].as_f64().unwrap());
    (lora, adapter)
}

pub(crate) fn greedy(max_new_tokens: usize, batch_size: usize) -> GenerationSettings {
    GenerationSettings { max_new_tokens, temperature: 0.0, top_p: 1.0, top_k: None, batch_size, stop_ids: vec![2] }
}

fn continue_all(
    model: &BaseModel,
    adapter: Option<LoraRef>,
    prompts: &[Vec<u32>],
    settings: &GenerationSettings,
) -> Vec<Generated> {
    let rng_of = |prompt: usize| ChaCha8Rng::seed_from_u64(prompt as u64);
    generate(model, adapter, prompts, settings, &rng_of, &CancelFlag::new(), &mut |_| {}).unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    let model = default_model(Precision::F32);
    let rows = rows_of(&expected()["rows"]);
    let worst = worst_logit_error(&model, &rows, &expected()["logits"]);
    eprintln!("worst logit error {worst:e}");
    assert!(worst < 1e-3, "{worst:e}");
}

#[test]
fn likelihoods_and_features_are_those_of_transformers() {
    let model = default_model(Precision::F32);
    let (rows, cancel) = (rows_of(&expected()["rows"]), CancelFlag::new());
    let (_, adapter) = adapter_of("all_linear", &model);
    let adapted = LoraRef::from(&adapter);
    for (adapter, section) in [(None, expected()), (Some(adapted), &expected()["all_linear"])] {
        let scores = score(&model, adapter, &rows, &cancel).unwrap();
        let found: Vec<f64> = scores.iter().map(|score| score.log_likelihood).collect();
        let error = relative_error(&found, &reals_of(&section["log_likelihoods"]));
        eprintln!("error {error:e}");
        assert!(error < 1e-5, "{error:e}");
        let tokens: Vec<usize> = scores.iter().map(|score| score.response_tokens).collect();
        assert_eq!(tokens, rows.iter().map(TokenizedRow::response_tokens).collect::<Vec<_>>());
    }
    let features = mean_hidden(&model, None, &[rows[0].ids.clone()], usize::MAX, &cancel).unwrap();
    let theirs = reals_of(&expected()["features"]);
    let ours: Vec<f64> = features[0][..theirs.len()].iter().map(|&value| f64::from(value)).collect();
    let error = relative_error(&ours, &theirs);
    eprintln!("error {error:e}");
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn gradients_are_those_of_peft() {
    let model = default_model(Precision::F32);
    let (lora, adapter) = adapter_of("all_linear", &model);
    let rows = rows_of(&expected()["rows"]);
    let rows: Vec<&TokenizedRow> = rows[..6].iter().collect();
    let total: usize = rows.iter().map(|row| row.response_tokens()).sum();
    let (cancel, rng) = (CancelFlag::new(), ChaCha8Rng::seed_from_u64(0));
    let mut trainer =
        AdapterTrainer::new(&model, &adapter, TrainerSettings::default(), lora.dropout, rng, &cancel).unwrap();
    let scores = trainer.accumulate(&rows, &mut |scores| vec![1.0 / total as f64; scores.len()]).unwrap();
    let loss = -scores.iter().map(|score| score.log_likelihood).sum::<f64>() / total as f64;
    let gradient = &expected()["all_linear"]["gradient"];
    assert!((loss - gradient["loss"].as_f64().unwrap()).abs() < 1e-5, "{loss}");
    assert_samples(&trainer.gradient().unwrap(), &gradient["tensors"], 1e-4);
}

#[test]
fn ten_steps_follow_torch() {
    let model = default_model(Precision::F32);
    let (lora, adapter) = adapter_of("query_value", &model);
    let rows = rows_of(&expected()["rows"])[..6].to_vec();
    let training = &expected()["query_value"]["training"];
    let trained = ten_steps_and_one(&model, &lora, adapter, &rows, training);
    let error = relative_error(&trained.losses, &reals_of(&training["losses"]));
    eprintln!("loss curve error {error:e}: {:?}", trained.losses);
    assert!(error < 1e-4, "{error:e}");
    assert_samples(&trained.after_first_step, &training["after_first_step"], 1e-4);
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let model = default_model(Precision::F32);
    let cases = expected()["greedy"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids_of(&case["prompt"])).collect();
    for batch_size in [16, 3] {
        let found = continue_all(&model, None, &prompts, &greedy(32, batch_size));
        for (case, found) in cases.iter().zip(&found) {
            let mut theirs = ids_of(&case["ids"]);
            let stopped = theirs.last() == Some(&2);
            if stopped {
                theirs.pop();
            }
            assert_eq!(found.ids, theirs);
            assert_eq!(found.finish_reason, if stopped { FinishReason::Stop } else { FinishReason::Length });
        }
    }
    let (_, adapter) = adapter_of("all_linear", &model);
    let adapted = LoraRef::from(&adapter);
    let found = continue_all(&model, Some(adapted), &prompts[..3], &greedy(16, 8));
    for (theirs, found) in expected()["all_linear"]["greedy"].as_array().unwrap().iter().zip(&found) {
        let theirs: Vec<u32> = ids_of(theirs).into_iter().take_while(|&id| id != 2).collect();
        assert_eq!(found.ids, theirs);
    }
}
