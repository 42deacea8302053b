//! Fine-tuning on rows that count in part, against torch; and that rows which all count once are as without weights.

use std::sync::Arc;

use fedward::{
    lora::{LoraConfig, Target},
    model::{BaseModel, ChatModel, Precision, TokenizedRow},
    train::{RoundSchedule, SftOutcome, SftRows, SftSettings, SftTrainer, train_sft},
};
use fedward_actors::{
    CancelFlag,
    ports::{LocalCorrection, LocalTrainer, PortError, TrainTask},
    protocol::{Adapter, ChatRow, ClientId, RoundId, TrainRows},
};
use serde_json::Value;

use crate::{
    engine_small::{assert_samples, streams},
    engine_support::{FormulaWeights, config_of, formula_adapter, lora_of, reals_of, relative_error, rows_of},
    fixture,
    support::test_device,
};

/// A small model with its adapter, rows and their weights.
struct Small {
    model: BaseModel,
    lora: LoraConfig,
    adapter: Adapter,
    rows: Vec<TokenizedRow>,
    weights: Vec<f64>,
}

impl Small {
    fn new(expected: &Value) -> Self {
        fedward::model::init_backend();
        let config = config_of(&expected["config"]);
        let lora = lora_of(&expected["lora"]);
        let adapter = formula_adapter(&lora, &config, expected["lora"]["b_scale"].as_f64().unwrap());
        let model = BaseModel::load(config, &FormulaWeights, test_device(), Precision::F32).unwrap();
        Self { model, lora, adapter, rows: rows_of(&expected["rows"]), weights: reals_of(&expected["weights"]) }
    }

    fn settings(&self, expected: &Value, steps: usize) -> SftSettings {
        let real = |key: &str| expected[key].as_f64().unwrap();
        SftSettings {
            max_grad_norm: Some(real("max_grad_norm")),
            ..SftSettings::new(steps, self.rows.len(), real("learning_rate"))
        }
    }

    /// Trains, and gives the norms of the gradients beside the outcome.
    fn train<'r>(&self, rows: impl Into<SftRows<'r>>, settings: &SftSettings) -> (SftOutcome, Vec<f64>) {
        let mut norms = Vec::new();
        let mut on_step = |report: &fedward::train::StepReport| norms.push(report.grad_norm);
        let cancel = CancelFlag::new();
        let trained =
            train_sft(&self.model, &self.adapter, self.lora.dropout, rows, settings, streams(1), &cancel, &mut on_step);
        (trained.unwrap(), norms)
    }
}

/// Tolerances are those of unweighted training: f32 against f64, and Adam enlarges what differs where gradients are small.
#[test]
fn weighted_steps_follow_torch() {
    let reference = fixture("weighted_loss.json");
    for name in ["plain", "untied"] {
        let expected = &reference[name];
        let small = Small::new(expected);
        let losses = reals_of(&expected["losses"]);
        let rows = || SftRows::weighted(&small.rows, &small.weights).unwrap();
        // Cut into passes and parts, which must not show.
        for (pass_tokens, shards) in [(1536, 1), (40, 1), (1536, 2)] {
            let settings =
                SftSettings { pass_tokens: Some(pass_tokens), shards, ..small.settings(expected, losses.len()) };
            let (outcome, norms) = small.train(rows(), &settings);
            let error = relative_error(&outcome.losses, &losses);
            assert!(error < 1e-4, "{name}: losses {error:e}");
            let error = relative_error(&norms, &reals_of(&expected["grad_norms"]));
            assert!(error < 1e-3, "{name}: norms {error:e}");
        }
        let (first, _) = small.train(rows(), &small.settings(expected, 1));
        assert_samples(&first.adapter, &expected["after_first_step"], 1e-4);
    }
}

#[test]
fn d1_weights_of_one_change_no_byte_and_others_do() {
    let reference = fixture("weighted_loss.json");
    let small = Small::new(&reference["plain"]);
    let settings = SftSettings { batch_size: 2, ..small.settings(&reference["plain"], 6) };
    let ones = vec![1.0; small.rows.len()];
    let (unweighted, _) = small.train(&small.rows, &settings);
    let (weighted, _) = small.train(SftRows::weighted(&small.rows, &ones).unwrap(), &settings);
    assert_eq!(weighted, unweighted);
    let (lighter, _) = small.train(SftRows::weighted(&small.rows, &small.weights).unwrap(), &settings);
    assert_ne!(lighter.adapter, unweighted.adapter);
}

#[test]
fn a_row_without_weight_teaches_nothing() {
    let reference = fixture("weighted_loss.json");
    let small = Small::new(&reference["plain"]);
    let settings = small.settings(&reference["plain"], 3);
    let weights: Vec<f64> = (0..small.rows.len()).map(|row| if row == 1 { 0.0 } else { 1.0 }).collect();
    let mut other = small.rows.clone();
    let response = other[1].response_start..;
    other[1].ids[response].fill(5);
    let (one, _) = small.train(SftRows::weighted(&small.rows, &weights).unwrap(), &settings);
    let (two, _) = small.train(SftRows::weighted(&other, &weights).unwrap(), &settings);
    let error = one.adapter.delta_from(&two.adapter).unwrap().l2_norm() / one.adapter.l2_norm();
    assert!(error < 1e-5, "{error:e}");
    let (still, norms) = small.train(SftRows::weighted(&small.rows, &[0.0; 5]).unwrap(), &settings);
    assert_eq!(still.adapter, small.adapter);
    assert_eq!(norms, [0.0; 3]);
}

/// Three rows, of which the second does not get to its response within the longest length.
#[test]
fn examples_are_the_rows_with_a_response_to_learn_from() {
    fedward::model::init_backend();
    let path = crate::support::default_model_path();
    let model = Arc::new(ChatModel::open("default", &path, test_device(), Precision::F32, 1).unwrap());
    let targets = [Target::QProj].into();
    let lora = LoraConfig { rank: 2, alpha: 4.0, dropout: 0.0, targets, use_rslora: false };
    let global = fedward::lora::initial_adapter(&lora, model.base.config(), 1);
    let settings = SftSettings::new(1, 2, 1e-3);
    let trainer = SftTrainer {
        models: Arc::new(model.into()),
        dropout: 0.0,
        settings,
        lr_over_rounds: RoundSchedule::default(),
        rounds: 1,
        max_length: 64,
        seed: 1,
    };
    let correction = LocalCorrection::default();
    let task = TrainTask { client: ClientId(0), round: RoundId(1), global: global.into(), correction };
    let queries = ["Name a fruit.".to_owned(), "Count: ".to_owned() + &"one ".repeat(80), "Name a tree.".to_owned()];
    let rows: Arc<[ChatRow]> = queries.into_iter().map(|query| ChatRow::single_turn(query, "Fig.")).collect();
    let examples = |rows: &TrainRows| trainer.train(&task, rows, &CancelFlag::new()).map(|done| done.n_examples);
    assert_eq!(examples(&TrainRows::new(Arc::clone(&rows))), Ok(2.0));
    let weights = [0.25, 1.0, 0.5];
    assert_eq!(examples(&TrainRows::weighted(Arc::clone(&rows), |row| weights[row])), Ok(0.75));
    let problem = "none of its 3 rows has any weight and a response within 64 tokens".to_owned();
    assert_eq!(examples(&TrainRows::weighted(rows, |row| f64::from(row == 1))), Err(PortError::Failed(problem)));
}

#[test]
fn weights_that_cannot_be_used_are_refused() {
    let reference = fixture("weighted_loss.json");
    let small = Small::new(&reference["plain"]);
    let problem = |weights: &[f64]| SftRows::weighted(&small.rows, weights).unwrap_err().to_string();
    assert!(problem(&[1.0]).contains("1 weights for 5 rows"));
    assert!(problem(&[1.0, -0.5, 1.0, 1.0, 1.0]).contains("-0.5"));
    assert!(problem(&[1.0, f64::NAN, 1.0, 1.0, 1.0]).contains("NaN"));
}
