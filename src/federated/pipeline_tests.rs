//! Pipelines of parts that no strategy has: against `tests/reference/robust_aggregation.py`, over rounds and restarts.

use std::sync::Arc;

use fedward_actors::{
    ports::{PortResult, Strategy},
    protocol::{Adapter, AdapterLayout, ClientId, ClientUpdate, Payload, RoundId},
};
use fedward_aggregation::{AggregatorSettings, PreAggregatorSettings};
use serde_json::{Value, json};

use super::*;

const CLIENTS: u32 = 7;
const LENGTH: usize = 12;

/// The reference's numbers: splitmix64 of where they stand, from −1 to 1.
fn unit(stream: u64, i: u64, j: u64) -> f64 {
    let z = ((stream << 48) ^ (i << 32) ^ j).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

fn adapter(values: Vec<f32>) -> Adapter {
    let layout = AdapterLayout::new([("a".to_owned(), [2, 4]), ("b".to_owned(), [4, 1])]);
    Adapter::new(Arc::new(layout), values).unwrap()
}

fn start() -> Adapter {
    adapter((0..LENGTH as u64).map(|j| unit(9, 500, j) as f32).collect())
}

/// What seven clients send in a round, of which the last is malicious.
fn updates(round: u32, global: &Adapter) -> Vec<ClientUpdate> {
    let stream = 19 + u64::from(round);
    let delta = |i: u32, j: u64| {
        let (common, own) = (unit(stream, 999, j), unit(stream, u64::from(i), j));
        (if i == CLIENTS - 1 { -3.0 * common + 0.25 * own } else { common + own }) as f32
    };
    let update = |client: u32| {
        let values = global.values().iter().enumerate().map(|(j, value)| value + delta(client, j as u64));
        let (adapter, extras) = (adapter(values.collect()), Payload::default());
        ClientUpdate { client: ClientId(client), adapter, n_examples: 1.0 + f64::from(client), trust: 1.0, extras }
    };
    (0..CLIENTS).map(update).collect()
}

fn settings(pre: Value, aggregator: Value, optimizer: OptimizerSettings) -> PipelineSettings {
    let pre: Vec<PreAggregatorSettings> = serde_json::from_value(pre).unwrap();
    let aggregator: AggregatorSettings = serde_json::from_value(aggregator).unwrap();
    PipelineSettings { pre, aggregator, optimizer, lora: LoraRule::default() }
}

const ADAM: OptimizerSettings = OptimizerSettings::Adam(AdaptiveSettings {
    flavour: Flavour::Paper,
    server_learning_rate: 0.1,
    beta1: 0.9,
    beta2: 0.99,
    tau: 1e-3,
});

/// The global adapter after each of three rounds, the server being made anew from its state after each if so asked.
fn three_rounds(algorithm: FederatedAlgorithm, settings: &PipelineSettings, anew: bool) -> Vec<Adapter> {
    let factory = algorithm.server_with(CLIENTS, settings.clone(), None, 3);
    let (mut server, mut global) = (factory(), start());
    let round = |round| {
        global = step(&mut *server, RoundId(round), &global, &updates(round, &global)).unwrap();
        if anew {
            let state = server.state();
            server = factory();
            server.restore(&state).unwrap();
            assert_eq!(server.state(), state);
        }
        global.clone()
    };
    (1..=3).map(round).collect()
}

/// Deltas are differences of `f32` near 1, known to 1e-7, and Adam divides by roots of about 0.1.
#[test]
fn krum_behind_a_norm_bound_stepped_by_adam_follows_byzfl_and_numpy() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/fixtures/robust_aggregation.json");
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let expected: Vec<Vec<f64>> = serde_json::from_value(fixture["pipeline"].clone()).unwrap();
    let krum = json!({"kind": "krum", "byzantine": 1, "neighbours": "byzfl"});
    let settings = settings(json!([{"kind": "clip", "max_norm_ratio": 1.0}]), krum, ADAM);
    let found = three_rounds(FederatedAlgorithm::FedAvg, &settings, true);
    for (round, (found, expected)) in found.iter().zip(&expected).enumerate() {
        for (&found, expected) in found.values().iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "round {}: {found}, not {expected}", round + 1);
        }
    }
    assert_eq!((found.len(), expected.len()), (3, 3));
}

#[test]
fn what_remembers_or_draws_goes_on_from_its_state_to_the_byte() {
    for aggregator in [
        json!({"kind": "foolsgold"}),
        json!({"kind": "centred_clipping", "tau": 1.0}),
        json!({"kind": "flame", "noise": 0.1}),
        json!({"kind": "dnc", "byzantine": 1, "coordinates": 5}),
    ] {
        for optimizer in [OptimizerSettings::Plain, ADAM] {
            let settings = settings(json!([]), aggregator.clone(), optimizer);
            let through = three_rounds(FederatedAlgorithm::FedAvg, &settings, false);
            assert_eq!(three_rounds(FederatedAlgorithm::FedAvg, &settings, true), through, "{aggregator}");
        }
    }
}

#[test]
fn noise_and_buckets_come_from_the_seed() {
    let settings =
        settings(json!([{"kind": "bucketing", "size": 2}]), json!({"kind": "median"}), OptimizerSettings::Plain);
    let first = |seed| {
        let mut server = FederatedAlgorithm::FedAvg.server_with(CLIENTS, settings.clone(), None, seed)();
        step(&mut *server, RoundId(1), &start(), &updates(1, &start())).unwrap()
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

#[test]
fn scaffold_keeps_its_variates_beside_a_pipeline_with_memory() {
    let settings = settings(json!([]), json!({"kind": "centred_clipping", "tau": 1.0}), ADAM);
    let factory = FederatedAlgorithm::Scaffold { flavour: Flavour::Paper }.server_with(CLIENTS, settings, None, 3);
    let with_variates = |round: u32, global: &Adapter| -> Vec<ClientUpdate> {
        let name = fedward_actors::protocol::names::CONTROL_DELTA;
        let add =
            |update: ClientUpdate| ClientUpdate { extras: Payload::default().with_vector(name, start()), ..update };
        updates(round, global).into_iter().map(add).collect()
    };
    let mut server = factory();
    let global = step(&mut *server, RoundId(1), &start(), &with_variates(1, &start())).unwrap();
    let mut restored = factory();
    restored.restore(&server.state()).unwrap();
    let next = |server: &mut dyn Strategy| step(server, RoundId(2), &global, &with_variates(2, &global));
    assert_eq!(next(&mut *restored), next(&mut *server));
    assert!(server.report()["control_norm"] > 0.0 && server.report()["momentum_norm"] > 0.0);
    assert!(factory().restore(&[1, 2, 3]).is_err());
}

#[test]
fn too_few_updates_fail_the_round_in_words() {
    let settings = settings(json!([]), json!({"kind": "krum", "byzantine": 2}), OptimizerSettings::Plain);
    let mut server = FederatedAlgorithm::FedAvg.server_with(CLIENTS, settings, None, 3)();
    let mut aggregate = |count: usize| -> PortResult<Adapter> {
        step(&mut *server, RoundId(1), &start(), &updates(1, &start())[..count])
    };
    let problem = aggregate(6).unwrap_err().to_string();
    assert_eq!(problem, "krum needs n ≥ 2f + 3, which is 7 or more updates; found 6");
    assert!(aggregate(7).is_ok());
    assert!((server.report()["updates_kept"] - 1.0).abs() < f64::EPSILON);
}
