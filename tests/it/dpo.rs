//! Direct Preference Optimization against transformers and peft, and its contract of determinism.

use std::{path::PathBuf, sync::LazyLock};

use fedward::{
    lora::LoraConfig,
    model::{BaseModel, Precision, TokenizedRow, score},
    train::{AdapterTrainer, DpoOutcome, DpoSettings, DpoStep, TokenizedPair, TrainerSettings, dpo_loss, train_dpo},
};
use fedward_actors::{CancelFlag, protocol::Adapter};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;

use crate::{
    engine_small::{assert_samples, streams},
    engine_support::{FormulaWeights, config_of, formula_adapter, ids_of, lora_of, reals_of, relative_error},
    support::test_device,
};

/// A small model with its adapter, pairs and reference numbers.
struct Small {
    model: BaseModel,
    lora: LoraConfig,
    adapter: Adapter,
    pairs: Vec<TokenizedPair>,
    expected: &'static Value,
}

const NAMES: [&str; 2] = ["plain", "untied"];

impl Small {
    fn new(name: &str) -> Self {
        static REFERENCE: LazyLock<Value> = LazyLock::new(|| {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/dpo.json");
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
        });
        fedward::model::init_backend();
        let expected = &REFERENCE[name];
        let config = config_of(&expected["config"]);
        let lora = lora_of(&expected["lora"]);
        let adapter = formula_adapter(&lora, &config, expected["lora"]["b_scale"].as_f64().unwrap());
        let model = BaseModel::load(config, &FormulaWeights, test_device(), Precision::F32).unwrap();
        let row = |value: &Value| TokenizedRow {
            ids: ids_of(&value["ids"]),
            response_start: value["response_start"].as_u64().unwrap() as usize,
        };
        let pairs = expected["pairs"].as_array().unwrap();
        let pairs = pairs
            .iter()
            .map(|pair| TokenizedPair { chosen: row(&pair["chosen"]), rejected: row(&pair["rejected"]) })
            .collect();
        Self { model, lora, adapter, pairs, expected }
    }

    fn real(&self, key: &str) -> f64 {
        self.expected[key].as_f64().unwrap()
    }

    fn settings(&self) -> DpoSettings {
        DpoSettings {
            beta: self.real("beta"),
            max_grad_norm: Some(0.5),
            ..DpoSettings::new(
                self.expected["steps"].as_array().unwrap().len(),
                self.pairs.len(),
                self.real("learning_rate"),
            )
        }
    }

    fn train(&self, settings: &DpoSettings) -> DpoOutcome {
        let cancel = CancelFlag::new();
        train_dpo(&self.model, &self.adapter, &self.pairs, settings, streams(1), &cancel, &mut |_: &DpoStep| {})
            .unwrap()
    }

    fn rows(&self) -> Vec<&TokenizedRow> {
        self.pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]).collect()
    }
}

#[test]
fn loss_and_gradient_are_those_of_peft() {
    for name in NAMES {
        let small = Small::new(name);
        let apart = &small.expected["apart"];
        let cancel = CancelFlag::new();
        // Policy: base and adapter; reference: the base alone, so that no margin is zero.
        let rows: Vec<TokenizedRow> = small.rows().into_iter().cloned().collect();
        let base = score(&small.model, None, &rows, &cancel).unwrap();
        let base: Vec<f64> = base.chunks(2).map(|sides| sides[0].log_likelihood - sides[1].log_likelihood).collect();
        // Differences of sums of some 20 log-probabilities in f32, each good to 1e-6.
        let error = relative_error(&base, &reals_of(&apart["reference"]));
        assert!(error < 1e-5, "{name}: reference {error:e}");
        let mut trainer = AdapterTrainer::new(
            &small.model,
            &small.adapter,
            TrainerSettings::default(),
            small.lora.dropout,
            ChaCha8Rng::seed_from_u64(0),
            &cancel,
        )
        .unwrap();
        let (beta, weight) = (small.real("beta"), 1.0 / small.pairs.len() as f64);
        let (mut margins, mut loss) = (Vec::new(), 0.0);
        let mut weights_of = |scores: &[fedward::model::RowScore]| {
            let mut weights = Vec::new();
            for (sides, reference) in scores.chunks(2).zip(&base) {
                let margin = beta * (sides[0].log_likelihood - sides[1].log_likelihood - reference);
                let (own, slope) = dpo_loss(margin);
                loss += weight * own;
                margins.push(margin);
                weights.extend([weight * beta * slope, -weight * beta * slope]);
            }
            weights
        };
        trainer.accumulate(&small.rows(), &mut weights_of).unwrap();
        let error = relative_error(&margins, &reals_of(&apart["margins"]));
        assert!(error < 2e-5, "{name}: margins {error:e}");
        let expected = apart["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5 * expected, "{name}: loss {loss}, expected {expected}");
        // As for supervised gradients: f32 through a few layers forward and back.
        assert_samples(&trainer.gradient().unwrap(), &apart["tensors"], 1e-4);
    }
}

/// As TRL has it: with dropout, policy and reference would differ before anything is learnt.
#[test]
fn there_is_no_dropout() {
    let mut small = Small::new("plain");
    let without = small.train(&small.settings());
    small.lora.dropout = 0.5;
    let with = small.train(&small.settings());
    assert_eq!(with, without);
    assert!((with.steps[0].loss - std::f64::consts::LN_2).abs() < 1e-6, "{:?}", with.steps[0]);
}

#[test]
fn steps_follow_torch() {
    for name in NAMES {
        let small = Small::new(name);
        let outcome = small.train(&small.settings());
        let expected = small.expected["steps"].as_array().unwrap();
        let column = |key: &str| expected.iter().map(|step| step[key].as_f64().unwrap()).collect::<Vec<_>>();
        let found = |value: fn(&DpoStep) -> f64| outcome.steps.iter().map(value).collect::<Vec<_>>();
        // Rounding of each step is carried into the next ones by AdamW, whose first steps have the size of the learning
        // rate whatever the gradient's.
        let error = relative_error(&found(|step| step.loss), &column("loss"));
        assert!(error < 1e-4, "{name}: losses {error:e}");
        let error = relative_error(&found(|step| step.margin), &column("margin"));
        assert!(error < 1e-4, "{name}: margins {error:e}");
        let error = relative_error(&found(|step| step.grad_norm), &column("grad_norm"));
        assert!(error < 1e-3, "{name}: norms {error:e}");
        // The first margins are zero but for rounding, so whether they count as right says nothing.
        let error = relative_error(&found(|step| step.accuracy)[1..], &column("accuracy")[1..]);
        assert!(error < 1e-12, "{name}: accuracies {error:e}");
        assert!((outcome.steps[0].loss - std::f64::consts::LN_2).abs() < 1e-5);
    }
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let small = Small::new("plain");
    let settings = DpoSettings { batch_size: 2, shards: 2, ..small.settings() };
    assert_eq!(small.train(&settings), small.train(&settings));
}

#[test]
fn checkpoints_change_no_bit() {
    let small = Small::new("plain");
    let computed_twice = DpoSettings { checkpoint_activations: true, ..small.settings() };
    assert_eq!(small.train(&computed_twice), small.train(&small.settings()));
}

#[test]
fn passes_and_parts_change_nothing_but_rounding() {
    let small = Small::new("untied");
    let whole = small.train(&small.settings()).adapter;
    for settings in
        [DpoSettings { pass_tokens: Some(1), ..small.settings() }, DpoSettings { shards: 2, ..small.settings() }]
    {
        let cut = small.train(&settings).adapter;
        let error = cut.delta_from(&whole).unwrap().l2_norm() / whole.l2_norm();
        assert!(error < 1e-4, "{error:e}");
    }
}

#[test]
fn the_reference_is_asked_only_for_pairs_that_are_seen() {
    let small = Small::new("plain");
    let one = small.train(&DpoSettings { steps: 1, batch_size: 1, ..small.settings() });
    assert_eq!(one.reference_tokens, one.tokens);
    let many = small.train(&DpoSettings { steps: 8, ..small.settings() });
    assert_eq!(8 * many.reference_tokens, many.tokens);
}
