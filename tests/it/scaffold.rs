//! SCAFFOLD through AdamW on a small model, against transformers and peft (`tests/reference/strategies.py`).

use std::sync::Arc;

use fedward::{
    federated::{FederatedAlgorithm, Flavour},
    model::{BaseModel, Precision, TokenizedRow},
    train::{SftSettings, train_sft},
};
use fedward_actors::{
    CancelFlag,
    ports::{ClientUpdate, LocalTraining, TurnStart},
    protocol::{Adapter, AdapterLayout, ClientId, RoundId, names},
};

use crate::{
    engine_small::{assert_samples, streams},
    engine_support::{FormulaWeights, config_of, formula_adapter, lora_of, reals_of, relative_error},
    fixture,
    support::test_device,
};

const CLIENTS: u32 = 3;
const RATE: f64 = 1e-2;
const STEPS: usize = 3;

/// The reference's `model_rows`.
fn rows(client: u32) -> Vec<TokenizedRow> {
    let row = |row: u32| TokenizedRow {
        ids: (0..12 + 5 * row).map(|k| (7 * k + 13 * client + 29 * row + k * k) % 61).collect(),
        response_start: 6 + row as usize,
    };
    (0..2 + client).map(row).collect()
}

#[test]
fn scaffold_follows_torch_on_a_small_model() {
    fedward::model::init_backend();
    let reference = &fixture("strategies.json")["model"];
    let (config, lora) = (config_of(&reference["config"]), lora_of(&reference["lora"]));
    let mut global = formula_adapter(&lora, &config, reference["lora"]["b_scale"].as_f64().unwrap());
    let model = BaseModel::load(config, &FormulaWeights, test_device(), Precision::F32).unwrap();
    let algorithm = FederatedAlgorithm::Scaffold { flavour: Flavour::OpenFedLlm };
    let (clients, mut server) = (algorithm.clients(), algorithm.server(CLIENTS)());
    let mut memories: [Option<Arc<[u8]>>; CLIENTS as usize] = [const { None }; CLIENTS as usize];
    let layout: Arc<AdapterLayout> = Arc::clone(global.layout());
    for (round, expected) in reference["rounds"].as_array().unwrap().iter().enumerate() {
        let instructions = server.instructions(RoundId(round as u32 + 1), &global.clone().into()).unwrap();
        let (mut updates, mut expected_losses) = (Vec::new(), expected["losses"].as_array().unwrap().iter());
        for client in (0..CLIENTS).filter(|&client| client as usize != round) {
            let memory = memories[client as usize].clone();
            let start = TurnStart { global: &global, instructions: &instructions, memory: memory.as_deref() };
            let drift_correction = clients.correction(start).unwrap().drift;
            let rows = rows(client);
            let settings = SftSettings { drift_correction, ..SftSettings::new(STEPS, rows.len(), RATE) };
            let cancel = CancelFlag::new();
            let outcome =
                train_sft(&model, &global, lora.dropout, &rows, &settings, streams(1), &cancel, &mut |_| {}).unwrap();
            // Adam divides by the root of squared gradients, which enlarges rounding where they are small.
            let error = relative_error(&outcome.losses, &reals_of(expected_losses.next().unwrap()));
            assert!(error < 1e-3, "round {round}, client {client}: losses {error:e}");
            let training = LocalTraining {
                n_examples: rows.len() as f64,
                mean_loss: outcome.mean_loss(),
                learning_rate_sum: settings.learning_rate_sum(),
                steps: STEPS as u32,
                tokens: outcome.tokens,
                adapter: outcome.adapter,
                seconds: 0.0,
                reused: false,
            };
            let end = clients.conclude(start, &training).unwrap();
            memories[client as usize] = end.memory;
            let LocalTraining { adapter, n_examples, .. } = training;
            updates.push(ClientUpdate {
                client: ClientId(client),
                adapter,
                n_examples,
                trust: 1.0,
                extras: end.extras,
            });
        }
        let next = server.aggregate(RoundId(round as u32 + 1), &global.into(), &updates).unwrap();
        global = next.trainable().clone();
        let (found, expected) = (server.report()["control_norm"], expected["control_norm"].as_f64().unwrap());
        assert!((found / expected - 1.0).abs() < 1e-2, "round {round}: |c| is {found}, not {expected}");
    }
    assert_samples(&global, &reference["adapter"], 2e-3);
    let control =
        server.instructions(RoundId(4), &global.clone().into()).unwrap().vector(names::CONTROL).unwrap().clone();
    assert_eq!(control.layout(), &layout);
    let control: Adapter = control;
    assert_samples(&control, &reference["control"], 1e-2);
}
