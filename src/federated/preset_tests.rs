//! The presets give the bytes that they gave when each was a strategy of its own.

use std::sync::Arc;

use fedward_actors::protocol::{Adapter, AdapterLayout, ClientId, ClientUpdate, Payload, RoundId, names};
use sha2::{Digest, Sha256};

use super::*;

/// SHA-256 of all global adapters and states of four rounds, as computed by the strategies before there was a pipeline.
const BEFORE: [(&str, &str); 17] = [
    ("fedavg paper", "3603ee659e069d29ff35b7b2bd6c5941be62d9841b8863f25be8b26f7e606c6b"),
    ("fedprox paper", "cd93f30c9751e8ebadefd59560456201bb09f3d9bac7547d81c64cdde8b629cf"),
    ("fedavgm paper", "b91b02b1ba7f2d3df8c8a530b3d32e662cc43283a670994954927b3bbe744bfd"),
    ("fedadagrad paper", "99b351306da580e62dcf7a5d31a70887a7456af72d848c4f80016f773623ce5d"),
    ("fedyogi paper", "db2faefbfb19fe28cd0e0e33a54af5d21ffc7a69489f05fd0a288c1f1b3d9de6"),
    ("fedadam paper", "7e88b62a0ee105f48b1d83ebbddd7aaba0a2526b2b13a5c634a7e28d1634b509"),
    ("scaffold paper", "31eac1d15c4086574907c018c2ad2866f6e1182639a83ca5130ad8e72c174dbe"),
    ("fedavgm openfedllm", "e54a15152a520639795389df38adb9b5969b2f03f0fdd13f86f42896cbd7b77f"),
    ("fedadagrad openfedllm", "4d161466bab04b8de85be16d33ea3cda7034b3ba27b8a867da0f7ef079caa8d3"),
    ("fedyogi openfedllm", "ef2b409257b239b0c40e6b6725fc4b99ac1f2d83fcb1c457f17f4f7c0f2eb1d8"),
    ("fedadam openfedllm", "cf96bf7fe120a75598d788ee6eb9bee472f00608931c011e577ed9c0297cef34"),
    ("scaffold openfedllm", "88378ed3cf1bf9bba397d7bc6a91d2709a2c2b528c8f8cd41ccaddbc987c28b6"),
    ("fedavgm flower", "b91b02b1ba7f2d3df8c8a530b3d32e662cc43283a670994954927b3bbe744bfd"),
    ("fedadagrad flower", "cff00dfaa89e1062dcc2a8d728f86d19d7143c0a5f03a2b9dd4e952ddf3fc96c"),
    ("fedyogi flower", "ebcf43fb51e7960462bb7e2128d01f7786a427d7a1d498c0e74f6c3b7318c746"),
    ("fedadam flower", "08740b45b7b3a04bdee76b6aa8155835f5e90400acdd34e8395ef84d69c05396"),
    ("scaffold flower", "31eac1d15c4086574907c018c2ad2866f6e1182639a83ca5130ad8e72c174dbe"),
];

/// From -1 to 1, of all magnitudes down to 1e-6, so that roundings differ.
fn value(round: u32, client: u32, index: usize) -> f32 {
    let mut x = u64::from(round) << 48 ^ u64::from(client) << 32 ^ index as u64;
    for _ in 0..3 {
        x = (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    }
    let unit = (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
    (unit * 10_f64.powi(-((index % 7) as i32))) as f32
}

fn algorithm(name: &str) -> FederatedAlgorithm {
    let (strategy, flavour) = name.split_once(' ').unwrap();
    let flavour: Flavour = flavour.parse().unwrap();
    let momentum = MomentumSettings { flavour, server_learning_rate: 0.7, beta1: 0.9 };
    let adaptive = AdaptiveSettings { flavour, server_learning_rate: 0.03, beta1: 0.9, beta2: 0.99, tau: 1e-3 };
    match strategy {
        "fedavg" => FederatedAlgorithm::FedAvg,
        "fedprox" => FederatedAlgorithm::FedProx { proximal_mu: 0.3 },
        "fedavgm" => FederatedAlgorithm::FedAvgM(momentum),
        "fedadagrad" => FederatedAlgorithm::FedAdagrad(adaptive),
        "fedyogi" => FederatedAlgorithm::FedYogi(adaptive),
        "fedadam" => FederatedAlgorithm::FedAdam(adaptive),
        "scaffold" => FederatedAlgorithm::Scaffold { flavour },
        other => panic!("{other}"),
    }
}

fn digest(algorithm: FederatedAlgorithm) -> String {
    let layout = Arc::new(AdapterLayout::new([("a".to_owned(), [2, 9]), ("b".to_owned(), [5, 2])]));
    let adapter = |round, client, scale: f32| {
        let values = (0..layout.len()).map(|index| scale * value(round, client, index)).collect();
        Adapter::new(Arc::clone(&layout), values).unwrap()
    };
    let mut server = algorithm.server(10)();
    let (mut global, mut hash) = (adapter(0, 0, 1.0), Sha256::new());
    for round in 1..=4 {
        let update = |client: u32| ClientUpdate {
            client: ClientId(client),
            adapter: adapter(round, client, 1.0),
            n_examples: f64::from(client * client) + 0.5,
            trust: 1.0,
            extras: Payload::default().with_vector(names::CONTROL_DELTA, adapter(round, client + 100, 0.1)),
        };
        let updates: Vec<_> = (round..round + 5).map(update).collect();
        let instructions = server.instructions(RoundId(round), &global.clone().into()).unwrap();
        hash.update(format!("{:?}", instructions.number(names::PROXIMAL_MU)));
        global = step(&mut *server, RoundId(round), &global, &updates).unwrap();
        hash.update(global.values().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
        hash.update(server.state());
        for (name, value) in server.report() {
            hash.update(name);
            hash.update(value.to_le_bytes());
        }
        let state = server.state();
        server = algorithm.server(10)();
        server.restore(&state).unwrap();
    }
    fedward_actors::protocol::hex(&hash.finalize())
}

#[test]
fn presets_give_the_bytes_of_the_strategies_that_they_were() {
    let found: Vec<_> = BEFORE.map(|(name, _)| (name, digest(algorithm(name)))).into();
    let found: Vec<_> = found.iter().map(|(name, digest)| (*name, digest.as_str())).collect();
    assert_eq!(found, BEFORE, "{found:#?}");
}
