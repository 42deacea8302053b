//! Settings that trade time for memory, and what happens when there is not enough of it.

use fedward::{
    lora::{LoraConfig, initial_adapter},
    model::{BaseModel, ModelError, Precision, TokenizedRow},
    train::{SftOutcome, SftSettings, StepReport, TrainerSettings, train_sft},
};
use fedward_actors::CancelFlag;
use tch::Device;

use crate::{
    engine_small::{NAMES, Small, streams},
    engine_support::FormulaWeights,
};

#[test]
fn checkpoints_change_no_bit_of_a_gradient() {
    for name in NAMES {
        for dropout in [0.0, 0.25] {
            for precision in [Precision::F32, Precision::Bf16] {
                let small = Small::new(name, precision);
                let lora = LoraConfig { dropout, ..small.lora.clone() };
                let small = Small { lora, ..small };
                let kept = small.gradient(TrainerSettings::default(), &small.rows, 5);
                let checkpoints = TrainerSettings { checkpoint_activations: true, ..TrainerSettings::default() };
                assert_eq!(small.gradient(checkpoints, &small.rows, 5), kept, "{name}, dropout {dropout}");
            }
        }
    }
}

fn train(small: &Small, settings: &SftSettings) -> (SftOutcome, Vec<f64>) {
    let mut norms = Vec::new();
    let mut on_step = |step: &StepReport| norms.push(step.grad_norm);
    let cancel = CancelFlag::new();
    let (lora, start) = (&small.lora, &small.adapter);
    let outcome =
        train_sft(&small.model, lora, start, &small.rows, settings, streams(1), &cancel, &mut on_step).unwrap();
    (outcome, norms)
}

#[test]
fn checkpoints_change_no_bit_of_a_training() {
    let small = Small::new("stretched", Precision::F32);
    let kept = SftSettings { shards: 2, pass_tokens: 80, ..SftSettings::new(3, small.rows.len(), 1e-2) };
    let computed_twice = SftSettings { checkpoint_activations: true, ..kept.clone() };
    assert_eq!(train(&small, &computed_twice), train(&small, &kept));
}

#[test]
fn passes_of_a_batch_add_up_to_its_gradient() {
    for name in NAMES {
        let small = Small::new(name, Precision::F32);
        let one = SftSettings { pass_tokens: usize::MAX, ..SftSettings::new(1, small.rows.len(), 1e-2) };
        let (whole, whole_norms) = train(&small, &one);
        // From two passes to one a row: 16 tokens are fewer than any row has.
        for pass_tokens in [200, 60, 16] {
            let (cut, norms) = train(&small, &SftSettings { pass_tokens, ..one.clone() });
            // The passes' sums are rounded to f32 before they are added.
            assert!((cut.losses[0] / whole.losses[0] - 1.0).abs() < 1e-6, "{name}, {pass_tokens}");
            assert!((norms[0] / whole_norms[0] - 1.0).abs() < 1e-5, "{name}, {pass_tokens}: {norms:?}");
            let step = whole.adapter.delta_from(&small.adapter).unwrap().l2_norm();
            let apart = cut.adapter.delta_from(&whole.adapter).unwrap().l2_norm();
            assert!(apart < 1e-2 * step, "{name}, {pass_tokens}: {apart} of {step}");
        }
    }
}

#[test]
fn too_little_memory_ends_a_training_and_names_the_setting() {
    let small = Small::new("plain", Precision::F32);
    let config = fedward::model::ModelConfig { max_position_embeddings: 1 << 24, ..small.model.config().clone() };
    let model = BaseModel::load(config, &FormulaWeights, Device::Cpu, Precision::F32).unwrap();
    let start = initial_adapter(&small.lora, model.config(), 1);
    // Its attention scores alone need more than a process can address.
    let endless = TokenizedRow { ids: vec![7; 1 << 23], response_start: 1 };
    let train = |rows: &[TokenizedRow]| {
        let settings = SftSettings::new(1, rows.len(), 1e-3);
        train_sft(&model, &small.lora, &start, rows, &settings, streams(1), &CancelFlag::new(), &mut |_| {})
    };
    let error = train(&[endless]).unwrap_err();
    assert!(matches!(error, ModelError::OutOfMemory { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("training.pass_tokens (now 1536") && text.contains("GB"), "{text}");
    // Whoever trains next has what was asked for.
    assert!(train(&small.rows).is_ok());
}
