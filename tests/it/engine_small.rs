//! Small models whose weights come from a formula, against transformers and peft: stretched rotary embeddings, an
//! untied head, grouped-query attention, a head width of its own.
//!
//! Tolerances are some ten times what f32 with two or three layers was seen to make of numbers that theirs has in f64: 2e-7 in
//! likelihoods, 3e-7 in gradients and steps. Those of gradients and of ten steps leave room for processors that sum in another
//! order, as said at [`assert_samples`].

use fedward::{
    lora::{LoraConfig, LoraRef},
    model::{BaseModel, Precision, TokenizedRow, mean_hidden, score},
    train::{AdapterTrainer, TrainStreams, TrainerSettings},
};
use fedward_actors::{CancelFlag, protocol::Adapter};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;

use crate::{
    engine_support::{
        FormulaWeights, by_name, config_of, formula_adapter, lora_of, reals_of, reference, relative_error, rows_of,
        samples, ten_steps_and_one,
    },
    support::test_device,
};

/// A small model with its adapter, rows and reference numbers.
pub(crate) struct Small {
    pub(crate) model: BaseModel,
    pub(crate) lora: LoraConfig,
    pub(crate) adapter: Adapter,
    pub(crate) rows: Vec<TokenizedRow>,
    pub(crate) expected: &'static Value,
}

impl Small {
    pub(crate) fn new(name: &str, precision: Precision) -> Self {
        fedward::model::init_backend();
        let expected = &reference()["small"][name];
        let config = config_of(&expected["config"]);
        let lora = lora_of(&expected["lora"]);
        let adapter = formula_adapter(&lora, &config, expected["lora"]["b_scale"].as_f64().unwrap());
        let model = BaseModel::load(config, &FormulaWeights, test_device(), precision).unwrap();
        Self { model, lora, adapter, rows: rows_of(&expected["rows"]), expected }
    }

    pub(crate) fn lora_ref(&self) -> LoraRef<'_> {
        LoraRef::from(&self.adapter)
    }

    /// Gradient of the mean loss over all response tokens.
    pub(crate) fn gradient(&self, settings: TrainerSettings, rows: &[TokenizedRow], dropout: u64) -> Adapter {
        let cancel = CancelFlag::new();
        let rng = ChaCha8Rng::seed_from_u64(dropout);
        let mut trainer =
            AdapterTrainer::new(&self.model, &self.adapter, settings, self.lora.dropout, rng, &cancel).unwrap();
        let total: usize = rows.iter().map(TokenizedRow::response_tokens).sum();
        let rows: Vec<&TokenizedRow> = rows.iter().collect();
        trainer.accumulate(&rows, &mut |scores| vec![1.0 / total as f64; scores.len()]).unwrap();
        trainer.gradient().unwrap()
    }
}

pub(crate) const NAMES: [&str; 3] = ["stretched", "plain", "mlp_only"];

pub(crate) fn streams(seed: u64) -> TrainStreams {
    TrainStreams { order: ChaCha8Rng::seed_from_u64(seed), dropout: ChaCha8Rng::seed_from_u64(seed + 1) }
}

#[test]
fn likelihoods_are_those_of_transformers() {
    for name in NAMES {
        let small = Small::new(name, Precision::F32);
        let scores = score(&small.model, Some(small.lora_ref()), &small.rows, &CancelFlag::new()).unwrap();
        let found: Vec<f64> = scores.iter().map(|score| score.log_likelihood).collect();
        let error = relative_error(&found, &reals_of(&small.expected["log_likelihoods"]));
        assert!(error < 2e-6, "{name}: {error:e}");
    }
}

#[test]
fn bf16_is_near() {
    for name in NAMES {
        let small = Small::new(name, Precision::Bf16);
        let scores = score(&small.model, Some(small.lora_ref()), &small.rows, &CancelFlag::new()).unwrap();
        let found: Vec<f64> = scores.iter().map(|score| score.log_likelihood).collect();
        let error = relative_error(&found, &reals_of(&small.expected["log_likelihoods"]));
        // Two significant digits less than f32: 8 bits of mantissa through a few layers.
        assert!(error < 2e-2, "{name}: {error:e}");
        let exact = Small::new(name, Precision::F32);
        let settings = TrainerSettings::default();
        let (near, exact) = (small.gradient(settings, &small.rows, 0), exact.gradient(settings, &exact.rows, 0));
        let error = near.delta_from(&exact).unwrap().l2_norm() / exact.l2_norm();
        assert!(error < 5e-2, "{name}: gradient {error:e}");
    }
}

#[test]
fn features_are_means_of_last_hidden_states() {
    for name in NAMES {
        let small = Small::new(name, Precision::F32);
        let rows: Vec<Vec<u32>> = small.rows.iter().map(|row| row.ids.clone()).collect();
        let features =
            mean_hidden(&small.model, Some(small.lora_ref()), &rows, usize::MAX, &CancelFlag::new()).unwrap();
        let expected = reals_of(&small.expected["features"]);
        let found: Vec<f64> = features[2][..expected.len()].iter().map(|&value| f64::from(value)).collect();
        let error = relative_error(&found, &expected);
        assert!(error < 5e-6, "{name}: {error:e}");
    }
}

/// Compares an adapter-shaped buffer with the samples of a reference.
///
/// `tolerance` is for all tensors together. A single one may be off by five times as much: the processor decides in which
/// order a product is summed, and where the terms cancel that shows (transformers against itself, on two processors: 2e-4).
pub(crate) fn assert_samples(found: &Adapter, expected: &Value, tolerance: f64) {
    let found = by_name(found);
    let expected = expected.as_array().unwrap();
    assert_eq!(found.len(), expected.len());
    let mut worst = (0.0, "");
    let (mut all_ours, mut all_theirs) = (Vec::new(), Vec::new());
    for tensor in expected {
        let name = tensor["name"].as_str().unwrap();
        let mut ours = samples(found[name]);
        let mut theirs = reals_of(&tensor["samples"]);
        if let Some(norm) = tensor["norm"].as_f64() {
            ours.push(found[name].iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt());
            theirs.push(norm);
        }
        let error = relative_error(&ours, &theirs);
        if error > worst.0 {
            worst = (error, name);
        }
        all_ours.append(&mut ours);
        all_theirs.append(&mut theirs);
    }
    let error = relative_error(&all_ours, &all_theirs);
    eprintln!("relative error {error:e}, at worst {:e} in {}", worst.0, worst.1);
    assert!(error < tolerance, "{error:e}");
    assert!(worst.0 < 5.0 * tolerance, "{worst:?}");
}

#[test]
fn gradients_are_those_of_peft() {
    for name in NAMES {
        let small = Small::new(name, Precision::F32);
        let gradient = small.gradient(TrainerSettings::default(), &small.rows, 0);
        assert_samples(&gradient, &small.expected["gradient"]["tensors"], 1e-4);
    }
}

#[test]
fn a_shared_prefix_changes_no_gradient() {
    for name in NAMES {
        let small = Small::new(name, Precision::F32);
        let alone = TrainerSettings { share_prefix: false, ..TrainerSettings::default() };
        let expected = small.gradient(alone, &small.rows, 0);
        let found = small.gradient(TrainerSettings::default(), &small.rows, 0);
        let error = found.delta_from(&expected).unwrap().l2_norm() / expected.l2_norm();
        assert!(error < 1e-5, "{name}: {error:e}");
        assert_ne!(found, expected, "the prefix was not shared");
    }
}

#[test]
fn ten_steps_follow_torch() {
    for name in NAMES {
        let Small { model, lora, adapter, rows, expected } = Small::new(name, Precision::F32);
        let expected = &expected["training"];
        let trained = ten_steps_and_one(&model, &lora, adapter, &rows, expected);
        let error = relative_error(&trained.losses, &reals_of(&expected["losses"]));
        assert!(error < 1e-4, "{name}: losses {error:e}");
        let error = relative_error(&trained.grad_norms, &reals_of(&expected["grad_norms"]));
        assert!(error < 1e-3, "{name}: norms {error:e}");
        assert_samples(&trained.after_first_step, &expected["after_first_step"], 1e-4);
    }
}
