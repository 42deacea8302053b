//! The algorithms against `tests/reference/strategies.py`, and against vectors worked out by hand.

use std::sync::Arc;

use fedward_actors::{
    ports::{ClientAlgorithm, ClientUpdate, LocalTraining, Strategy, TurnStart},
    protocol::{Adapter, AdapterLayout, ClientId, Payload, RoundId},
};
use serde_json::Value;

use super::*;

const SETTINGS: AdaptiveSettings =
    AdaptiveSettings { flavour: Flavour::OpenFedLlm, server_learning_rate: 1e-3, beta1: 0.9, beta2: 0.99, tau: 1e-3 };
const MOMENTUM: MomentumSettings =
    MomentumSettings { flavour: Flavour::OpenFedLlm, server_learning_rate: 1.0, beta1: 0.9 };
const SCAFFOLD: FederatedAlgorithm = FederatedAlgorithm::Scaffold { flavour: Flavour::OpenFedLlm };

/// The problem of the reference: client i descends `a_i/2 (w - b_i)²` by plain gradient steps.
const CURVATURE: [f64; 4] = [0.5, 1.0, 2.0, 1.5];
const OPTIMUM: [f64; 4] = [1.0, -2.0, 0.5, 3.0];
const ROWS: [f64; 4] = [10.0, 30.0, 20.0, 40.0];
const COHORTS: [&[usize]; 5] = [&[0, 1], &[1, 3], &[0, 2, 3], &[1, 2], &[0, 3]];
const RATE: f64 = 0.1;
const STEPS: u32 = 4;

fn scalar(value: f64) -> Adapter {
    let layout = Arc::new(AdapterLayout::new([("w".to_owned(), [1, 1])]));
    Adapter::new(layout, vec![value as f32]).unwrap()
}

fn value(adapter: &Adapter) -> f64 {
    f64::from(adapter.values()[0])
}

fn descend(client: usize, start: &Adapter, mu: f64, drift: f64) -> LocalTraining {
    let mut w = value(start);
    for _ in 0..STEPS {
        w -= RATE * (CURVATURE[client] * (w - OPTIMUM[client]) + mu * (w - value(start)));
        w -= RATE * drift;
    }
    LocalTraining {
        adapter: scalar(w),
        n_examples: ROWS[client],
        steps: STEPS,
        tokens: 1,
        learning_rate_sum: f64::from(STEPS) * RATE,
        mean_loss: 0.0,
        seconds: 0.0,
        reused: false,
    }
}

/// One turn as a client's actor takes it.
fn turn(
    clients: &dyn ClientAlgorithm,
    server: &dyn Strategy,
    client: usize,
    global: &Adapter,
    memory: &mut Option<Arc<[u8]>>,
) -> ClientUpdate {
    let instructions = server.instructions(RoundId(1), &global.clone().into()).unwrap();
    let before = memory.clone();
    let start = TurnStart { global, instructions: &instructions, memory: before.as_deref() };
    let correction = clients.correction(start).unwrap();
    let drift = correction.drift.map_or(0.0, |drift| f64::from(drift[0]));
    let training = descend(client, global, correction.proximal_mu, drift);
    let end = clients.conclude(start, &training).unwrap();
    *memory = end.memory.or_else(|| memory.take());
    let LocalTraining { adapter, n_examples, .. } = training;
    ClientUpdate { client: ClientId(client as u32), adapter, n_examples, trust: 1.0, extras: end.extras }
}

fn own(memory: Option<&Arc<[u8]>>) -> f64 {
    memory.map_or(0.0, |bytes| f64::from(f32::from_le_bytes(bytes[..].try_into().unwrap())))
}

/// Runs the reference's rounds, the server being made anew from its state after each, and compares.
fn follow(algorithm: FederatedAlgorithm, tolerance: f64) {
    follow_rounds(algorithm, &fixture("strategies.json")["scalar"][algorithm.name()], tolerance);
}

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/reference/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn follow_rounds(algorithm: FederatedAlgorithm, expected: &Value, tolerance: f64) {
    let expected = expected.as_array().unwrap_or_else(|| panic!("no reference of {algorithm:?}"));
    assert_eq!(expected.len(), COHORTS.len());
    let (clients, make) = (algorithm.clients(), algorithm.server(4));
    let (mut server, mut global, mut memories) = (make(), scalar(0.0), [const { None }; 4]);
    for (round, (cohort, expected)) in COHORTS.iter().zip(expected).enumerate() {
        let updates: Vec<_> =
            cohort.iter().map(|&client| turn(&*clients, &*server, client, &global, &mut memories[client])).collect();
        global = step(&mut *server, RoundId(round as u32 + 1), &global, &updates).unwrap();
        let near = |found: f64, expected: &Value| {
            let expected = expected.as_f64().unwrap();
            assert!((found - expected).abs() < tolerance, "{algorithm:?} round {round}: {found}, not {expected}");
        };
        near(value(&global), &expected["w"]);
        if matches!(algorithm, FederatedAlgorithm::Scaffold { .. }) {
            near(server.report()["control_norm"], &Value::from(expected["c"].as_f64().unwrap().abs()));
            for (memory, own_expected) in memories.iter().zip(expected["own"].as_array().unwrap()) {
                near(own(memory.as_ref()), own_expected);
            }
        }
        let state = server.state();
        server = make();
        server.restore(&state).unwrap();
        assert_eq!(server.state(), state);
    }
}

/// `f32` is kept between rounds, `f64` in the reference: values up to 3 lose 2e-7 a round.
#[test]
fn scaffold_follows_numpy() {
    follow(SCAFFOLD, 3e-6);
}

#[test]
fn fedprox_follows_numpy() {
    follow(FederatedAlgorithm::FedProx { proximal_mu: 0.3 }, 1e-6);
}

#[test]
fn server_optimizers_follow_numpy() {
    follow(FederatedAlgorithm::FedAvgM(MOMENTUM), 1e-6);
    follow(FederatedAlgorithm::FedAdagrad(SETTINGS), 1e-6);
    follow(FederatedAlgorithm::FedYogi(SETTINGS), 1e-6);
    follow(FederatedAlgorithm::FedAdam(SETTINGS), 1e-6);
}

/// What `tests/reference/server_optimizers.py` has of each form: Flower's own classes, and the papers' equations in numpy.
#[test]
fn the_papers_and_flower_s_forms_follow_their_references() {
    let reference = fixture("server_optimizers.json");
    for flavour in [Flavour::Paper, Flavour::Flower] {
        let momentum = MomentumSettings { flavour, server_learning_rate: 0.7, beta1: 0.9 };
        let adaptive = |server_learning_rate| AdaptiveSettings { flavour, server_learning_rate, ..SETTINGS };
        for algorithm in [
            FederatedAlgorithm::FedAvgM(momentum),
            FederatedAlgorithm::FedAdagrad(adaptive(0.1)),
            FederatedAlgorithm::FedYogi(adaptive(0.01)),
            FederatedAlgorithm::FedAdam(adaptive(0.1)),
        ] {
            follow_rounds(algorithm, &reference[flavour.name()][algorithm.name()], 3e-6);
        }
    }
    let scaffold = FederatedAlgorithm::Scaffold { flavour: Flavour::Paper };
    follow_rounds(scaffold, &reference["paper"]["scaffold"], 3e-6);
}

/// By hand, with β = 0.5: a change that comes in the second round counts half in OpenFedLLM's form, all in the paper's.
#[test]
fn the_first_cohort_counts_as_any_other_in_the_paper_s_momentum() {
    for (flavour, first, second) in [(Flavour::Paper, 1.0, 1.0), (Flavour::OpenFedLlm, 1.0, 0.5)] {
        let algorithm =
            FederatedAlgorithm::FedAvgM(MomentumSettings { flavour, server_learning_rate: 1.0, beta1: 0.5 });
        assert!((two_rounds(algorithm, [1.0, 0.0])[0] - first).abs() < 1e-7, "{flavour}");
        assert!((two_rounds(algorithm, [0.0, 1.0])[1] - second).abs() < 1e-7, "{flavour}");
    }
}

/// The global value after each of two rounds, in which the only client moves by these.
fn two_rounds(algorithm: FederatedAlgorithm, deltas: [f64; 2]) -> [f64; 2] {
    let (mut server, mut global) = (algorithm.server(1)(), scalar(0.0));
    let mut round = 0;
    deltas.map(|delta| {
        round += 1;
        let adapter = scalar(value(&global) + delta);
        let update =
            ClientUpdate { client: ClientId(0), adapter, n_examples: 1.0, trust: 1.0, extras: Payload::default() };
        global = step(&mut *server, RoundId(round), &global, &[update]).unwrap();
        value(&global)
    })
}

/// Δ = .01, −.02, .005 from w = 0: the rules worked out to ten digits.
#[test]
fn server_optimizers_give_the_known_vectors() {
    let known = [
        (FederatedAlgorithm::FedAvgM(MOMENTUM), [0.01, 0.017, 0.0238]),
        (FederatedAlgorithm::FedAdagrad(SETTINGS), [9.049_875_621e-4, 4.966_639_069e-5, 2.585_681_991e-4]),
        (FederatedAlgorithm::FedYogi(SETTINGS), [4.142_135_624e-3, 6.857_446_823e-3, 9.359_051_778e-3]),
        (FederatedAlgorithm::FedAdam(SETTINGS), [4.148_218_161e-3, 6.873_575_43e-3, 9.389_930_21e-3]),
    ];
    for (algorithm, expected) in known {
        let (mut server, mut global) = (algorithm.server(1)(), scalar(0.0));
        for (round, (delta, expected)) in [0.01, -0.02, 0.005].into_iter().zip(expected).enumerate() {
            let adapter = scalar(value(&global) + delta);
            let update =
                ClientUpdate { client: ClientId(0), adapter, n_examples: 1.0, trust: 1.0, extras: Payload::default() };
            global = step(&mut *server, RoundId(round as u32 + 1), &global, &[update]).unwrap();
            // w + Δ is rounded to f32, so Δ is only known to 2^-24 of w; weights of .1 and more keep that.
            let error = (value(&global) - expected).abs();
            assert!(error < 1e-8, "{algorithm:?} round {round}: {} is off by {error:e}", value(&global));
        }
    }
}

#[test]
fn forms_differ_in_whether_rows_weigh() {
    let update = |client: u32, moved: f64, n_examples| ClientUpdate {
        client: ClientId(client),
        adapter: scalar(moved),
        n_examples,
        trust: 1.0,
        extras: Payload::default(),
    };
    let updates = [update(0, 1.0, 3.0), update(1, -1.0, 1.0)];
    let after = |algorithm: FederatedAlgorithm| {
        value(&step(&mut *algorithm.server(2)(), RoundId(1), &scalar(0.0), &updates).unwrap())
    };
    assert!((after(FederatedAlgorithm::FedAvgM(MOMENTUM)) - 0.5).abs() < 1e-7);
    assert!(after(FederatedAlgorithm::FedAdam(SETTINGS)).abs() < 1e-12);
    assert!(after(FederatedAlgorithm::FedAdam(AdaptiveSettings { flavour: Flavour::Paper, ..SETTINGS })).abs() < 1e-12);
    assert!(after(FederatedAlgorithm::FedAdam(AdaptiveSettings { flavour: Flavour::Flower, ..SETTINGS })) > 1e-4);
}

#[test]
fn a_first_turn_of_scaffold_has_nothing_to_correct() {
    let instructions = Payload::default();
    let global = scalar(1.0);
    let start = TurnStart { global: &global, instructions: &instructions, memory: None };
    assert_eq!(ScaffoldClients.correction(start).unwrap().drift, None);
}

#[test]
fn what_does_not_fit_is_said() {
    let (mut server, global) = (FederatedAlgorithm::Scaffold { flavour: Flavour::Paper }.server(2)(), scalar(0.0));
    let update = ClientUpdate {
        client: ClientId(1),
        adapter: scalar(1.0),
        n_examples: 1.0,
        trust: 1.0,
        extras: Payload::default(),
    };
    let problem = step(&mut *server, RoundId(1), &global, &[update]).unwrap_err().to_string();
    assert_eq!(problem, "client-1 sent no change of its control variate");
    let problem = server.restore(&[1, 2, 3]).unwrap_err().to_string();
    assert_eq!(problem, "a state of scaffold holds 1 vectors of 4 bytes a number, found 3 bytes in all");
    let instructions = Payload::default();
    let memory = [0_u8; 8];
    let start = TurnStart { global: &global, instructions: &instructions, memory: Some(&memory) };
    let problem = ScaffoldClients.correction(start).unwrap_err().to_string();
    assert_eq!(problem, "a control variate holds 2 numbers, the adapter 1");
    let still = LocalTraining { learning_rate_sum: 0.0, ..descend(0, &global, 0.0, 0.0) };
    let start = TurnStart { memory: None, ..start };
    let problem = ScaffoldClients.conclude(start, &still).unwrap_err().to_string();
    assert_eq!(problem, "learning rates add up to 0; scaffold needs more than 0");
}

#[test]
fn every_server_has_the_name_of_its_algorithm() {
    let algorithms = [
        FederatedAlgorithm::FedAvg,
        FederatedAlgorithm::FedProx { proximal_mu: 0.01 },
        FederatedAlgorithm::FedAvgM(MOMENTUM),
        FederatedAlgorithm::FedAdagrad(SETTINGS),
        FederatedAlgorithm::FedYogi(SETTINGS),
        FederatedAlgorithm::FedAdam(SETTINGS),
        SCAFFOLD,
    ];
    assert_eq!(algorithms.map(|algorithm| algorithm.name()), NAMES);
    for algorithm in algorithms {
        assert_eq!(algorithm.server(4)().name(), algorithm.name());
        let json = serde_json::to_value(algorithm).unwrap();
        assert_eq!(json["name"], algorithm.name());
    }
}
