//! Settings that trade time for memory.

use fedward::{
    lora::LoraConfig,
    model::Precision,
    train::{SftOutcome, SftSettings, StepReport, TrainerSettings, train_sft},
};
use fedward_actors::CancelFlag;

use crate::engine_small::{NAMES, Small, streams};

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
        train_sft(&small.model, start, lora.dropout, &small.rows, settings, streams(1), &cancel, &mut on_step).unwrap();
    (outcome, norms)
}

#[test]
fn checkpoints_change_no_bit_of_a_training() {
    let small = Small::new("stretched", Precision::F32);
    let kept = SftSettings { shards: 2, pass_tokens: Some(80), ..SftSettings::new(3, small.rows.len(), 1e-2) };
    let computed_twice = SftSettings { checkpoint_activations: true, ..kept.clone() };
    assert_eq!(train(&small, &computed_twice), train(&small, &kept));
}

#[test]
fn passes_of_a_batch_add_up_to_its_gradient() {
    for name in NAMES {
        let small = Small::new(name, Precision::F32);
        let one = SftSettings { pass_tokens: Some(usize::MAX), ..SftSettings::new(1, small.rows.len(), 1e-2) };
        let (whole, whole_norms) = train(&small, &one);
        // From two passes to one a row: 16 tokens are fewer than any row has.
        for pass_tokens in [200, 60, 16] {
            let (cut, norms) = train(&small, &SftSettings { pass_tokens: Some(pass_tokens), ..one.clone() });
            // The passes' sums are rounded to f32 before they are added.
            assert!((cut.losses[0] / whole.losses[0] - 1.0).abs() < 1e-6, "{name}, {pass_tokens}");
            assert!((norms[0] / whole_norms[0] - 1.0).abs() < 1e-5, "{name}, {pass_tokens}: {norms:?}");
            let step = whole.adapter.delta_from(&small.adapter).unwrap().l2_norm();
            let apart = cut.adapter.delta_from(&whole.adapter).unwrap().l2_norm();
            assert!(apart < 1e-2 * step, "{name}, {pass_tokens}: {apart} of {step}");
        }
    }
}
