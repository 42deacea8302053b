//! What each rule makes of clients' products, against products written out in full.

use std::sync::Arc;

use fedward_actors::{
    ports::{PortResult, Strategy},
    protocol::{
        Adapter, AdapterLayout, ClientId, ClientRanks, ClientUpdate, Factor, GlobalModel, Payload, RoundId, names,
    },
};
use serde_json::json;

use super::*;
use crate::federated::{FederatedAlgorithm, PipelineSettings};

const RANK: usize = 3;
const OUTPUTS: usize = 7;
const INPUTS: usize = 5;

fn layout(rank: usize) -> Arc<AdapterLayout> {
    let pair = |layer: usize| {
        [
            (format!("model.layers.{layer}.q_proj.lora_A.weight"), [rank, INPUTS]),
            (format!("model.layers.{layer}.q_proj.lora_B.weight"), [OUTPUTS, rank]),
        ]
    };
    Arc::new(AdapterLayout::new([0, 1].into_iter().flat_map(pair)).with_scaling(2.0))
}

/// Numbers from −1 to 1 that depend on nothing but `seed` and their place.
fn adapter(rank: usize, seed: u64) -> Adapter {
    let value = |index: usize| {
        let mut x = seed << 32 ^ index as u64;
        for _ in 0..3 {
            x = (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
        }
        ((x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0) as f32
    };
    Adapter::new(layout(rank), (0..layout(rank).len()).map(value).collect()).unwrap()
}

/// `s B A` of both layers, number by number.
fn product(adapter: &Adapter) -> Vec<f64> {
    let dense = |(a, b): (&AdapterTensor, &AdapterTensor)| {
        let (rank, a, b) = (a.shape[0], adapter.tensor(a), adapter.tensor(b));
        let entry = |place: usize| {
            let (row, column) = (place / INPUTS, place % INPUTS);
            let terms = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * INPUTS + column]));
            adapter.layout().scaling() * terms.sum::<f64>()
        };
        (0..OUTPUTS * INPUTS).map(entry).collect::<Vec<_>>()
    };
    pairs(adapter).flat_map(dense).collect()
}

/// What the base model is changed by.
fn change(model: &GlobalModel) -> Vec<f64> {
    let terms = model.frozen().iter().map(AsRef::as_ref).chain([model.trainable()]);
    terms.map(product).reduce(|sum, term| sum.iter().zip(term).map(|(a, b)| a + b).collect()).unwrap()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

fn server(rule: serde_json::Value, ranks: Option<&ClientRanks>) -> Box<dyn Strategy> {
    let lora: LoraRule = serde_json::from_value(rule).unwrap();
    let settings = PipelineSettings { lora, ..FederatedAlgorithm::FedAvg.preset() };
    FederatedAlgorithm::FedAvg.server_with(8, settings, ranks.cloned(), 9)()
}

/// Three clients of 1, 2 and 3 rows that go on from the global adapter in directions of their own.
fn updates(round: u32, global: &GlobalModel, ranks: Option<&ClientRanks>) -> Vec<ClientUpdate> {
    let update = |client: u32| {
        let moved = adapter(RANK, u64::from(10 * round + client));
        let sent = |index: usize| f64::from(global.trainable().values()[index]);
        let values = (0..moved.values().len()).map(|i| (sent(i) + 0.3 * f64::from(moved.values()[i])) as f32);
        let local = Adapter::new(layout(RANK), values.collect()).unwrap();
        // What a client was not sent is the global adapter's.
        let leading = local.truncated(ranks.map_or(RANK, |ranks| ranks.of(ClientId(client))));
        let back = put_back(global.trainable(), &leading);
        ClientUpdate {
            client: ClientId(client),
            adapter: back,
            n_examples: f64::from(client + 1),
            trust: 1.0,
            extras: Payload::default(),
        }
    };
    (0..3).map(update).collect()
}

fn put_back(global: &Adapter, leading: &Adapter) -> Adapter {
    let mut values = global.values().to_vec();
    for (large, small) in global.layout().tensors().iter().zip(leading.layout().tensors()) {
        for row in 0..small.shape[0] {
            let (to, from) = (large.offset + row * large.shape[1], small.offset + row * small.shape[1]);
            values[to..to + small.shape[1]].copy_from_slice(&leading.values()[from..from + small.shape[1]]);
        }
    }
    Adapter::new(Arc::clone(global.layout()), values).unwrap()
}

/// The mean of what clients' models change the base by, `Σ frozen + Σ p_k s B_k A_k`: what a client was not sent is in its model as it is
/// in the global one.
fn mean_change(global: &GlobalModel, updates: &[ClientUpdate]) -> Vec<f64> {
    let total: f64 = updates.iter().map(|update| update.n_examples).sum();
    let mut mean = change(&global.with_trainable(Adapter::zeros(layout(RANK))));
    for update in updates {
        for (mean, value) in mean.iter_mut().zip(product(&update.adapter)) {
            *mean += update.n_examples / total * value;
        }
    }
    mean
}

/// The models after three rounds, and how far each is from the mean of its clients' models.
fn three_rounds(rule: &serde_json::Value, ranks: Option<&ClientRanks>) -> PortResult<Vec<(GlobalModel, f64)>> {
    let mut server = server(rule.clone(), ranks);
    let mut global = GlobalModel::from(adapter(RANK, 1));
    (1..=3)
        .map(|round| {
            let updates = updates(round, &global, ranks);
            let mean = mean_change(&global, &updates);
            global = server.aggregate(RoundId(round), &global, &updates)?;
            Ok((global.clone(), distance(&change(&global), &mean)))
        })
        .collect()
}

/// Products are of size 1 and sums of some 15 of them; `f32` keeps seven digits of each.
#[test]
fn fedex_and_flora_are_the_mean_of_products_to_1e_5_over_three_rounds_whatever_the_ranks() {
    let ranks = ClientRanks::new(vec![3, 1, 2]).unwrap();
    for ranks in [None, Some(&ranks)] {
        for kind in ["fedex", "flora"] {
            let rounds = three_rounds(&json!({"kind": kind}), ranks).unwrap();
            for (round, (model, distance)) in rounds.iter().enumerate() {
                assert!(*distance < 1e-5, "{kind}, round {}: {distance:e}", round + 1);
                // A weight of 7 × 5 has five ranks, however many terms there were.
                let ranks: usize = model.frozen().iter().map(|term| rank(term)).sum();
                assert!((1..=5).contains(&ranks), "{kind}, round {}: {ranks}", round + 1);
            }
        }
        // The mean of factors is another one: what the rules are for.
        let (_, distance) = three_rounds(&json!({"kind": "factors"}), None).unwrap().remove(0);
        assert!(distance > 0.1, "{distance}");
    }
}

#[test]
fn flora_trains_a_new_adapter_in_each_round() {
    let rounds = three_rounds(&json!({"kind": "flora"}), None).unwrap();
    let fresh = |model: &GlobalModel| model.trainable().clone();
    for (model, _) in &rounds {
        assert!(product(&fresh(model)).iter().all(|value| value.abs() < f64::EPSILON));
    }
    assert_ne!(fresh(&rounds[0].0), fresh(&rounds[1].0), "each round draws its own");
    let bound = 1.0 / (INPUTS as f32).sqrt();
    assert!(fresh(&rounds[0].0).values().iter().all(|value| value.abs() <= bound));
}

#[test]
fn a_bound_on_frozen_ranks_keeps_what_fits_and_says_what_it_loses() {
    // Frozen terms of 5 × 7 have rank 5 at most: nothing is lost.
    let whole = three_rounds(&json!({"kind": "flora", "max_rank": 5}), None).unwrap();
    assert!(whole.iter().all(|(model, distance)| *distance < 1e-5 && model.frozen().len() == 1));
    let mut server = server(json!({"kind": "fedex", "max_rank": 2}), None);
    let global = GlobalModel::from(adapter(RANK, 1));
    let updates = updates(1, &global, None);
    let mean = mean_change(&global, &updates);
    let next = server.aggregate(RoundId(1), &global, &updates).unwrap();
    let report = server.report();
    assert_eq!((next.frozen().len(), report["frozen_rank"]), (1, 2.0));
    // What the frozen term misses is what the model misses, and its share of what should be frozen is reported.
    let missed = distance(&change(&next), &mean);
    let residual = distance(&mean, &product(next.trainable()));
    assert!((report["frozen_loss_ratio"] - missed / residual).abs() < 1e-4, "{report:?}: {missed} of {residual}");
    assert!(missed > 1e-3);
}

#[test]
fn flexlora_is_as_near_to_the_mean_of_products_as_its_rank_allows() {
    let global = GlobalModel::from(adapter(RANK, 1));
    let ranks = ClientRanks::new(vec![1, 2, 3]).unwrap();
    for ranks in [None, Some(&ranks)] {
        let mut server = server(json!({"kind": "flexlora"}), ranks);
        let updates = updates(1, &global, ranks);
        let mean = mean_change(&global, &updates);
        let next = server.aggregate(RoundId(1), &global, &updates).unwrap();
        let missed = distance(&change(&next), &mean);
        let norm = distance(&mean, &vec![0.0; mean.len()]);
        assert!((server.report()["rank_loss_ratio"] - missed / norm).abs() < 1e-5, "{missed} of {norm}");
        // The mean of factors is of the same rank, and no nearer.
        let (factors, _) = three_rounds(&json!({"kind": "hetlora"}), ranks).unwrap().remove(0);
        assert!(missed < distance(&change(&factors), &mean));
    }
}

#[test]
fn ffa_rolora_and_fedsvd_fix_a_factor_so_that_the_mean_of_factors_is_exact() {
    for (kind, fixed) in [
        ("ffa", [Some(Factor::A); 3]),
        ("fedsvd", [Some(Factor::A); 3]),
        ("rolora", [Some(Factor::A), Some(Factor::B), Some(Factor::A)]),
        ("factors", [None; 3]),
    ] {
        let mut server = server(json!({"kind": kind}), None);
        let mut global = GlobalModel::from(adapter(RANK, 1));
        for (round, fixed) in (1..=3).zip(fixed) {
            let instructions = server.instructions(RoundId(round), &global).unwrap();
            let said = instructions.number(names::FIXED_FACTOR).and_then(Factor::from_number);
            assert_eq!(said, fixed, "{kind}, round {round}");
            let Some(fixed) = fixed else { continue };
            // Clients do as they are told.
            let mut updates = updates(round, &global, None);
            for update in &mut updates {
                let mut values = update.adapter.values().to_vec();
                for tensor in global.trainable().layout().tensors() {
                    if Factor::of(tensor) == Some(fixed) {
                        values[tensor.range()].copy_from_slice(global.trainable().tensor(tensor));
                    }
                }
                update.adapter = Adapter::new(layout(RANK), values).unwrap();
            }
            let mean = mean_change(&global, &updates);
            global = server.aggregate(RoundId(round), &global, &updates).unwrap();
            let missed = distance(&change(&global), &mean);
            assert!(missed < 1e-5, "{kind}, round {round}: {missed:e}");
        }
        if kind == "fedsvd" {
            let a = global.trainable().layout().tensors()[0].clone();
            let a = global.trainable().tensor(&a);
            for (i, j) in [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)] {
                let inner: f64 = (0..INPUTS).map(|k| f64::from(a[i * INPUTS + k] * a[j * INPUTS + k])).sum();
                assert!((inner - f64::from(u8::from(i == j))).abs() < 1e-5, "rows {i} and {j}: {inner}");
            }
        }
    }
}

#[test]
fn hetlora_weighs_by_products_and_pads_with_zeros() {
    let ranks = ClientRanks::new(vec![1, 3]).unwrap();
    let global = GlobalModel::from(adapter(RANK, 1));
    let updates = updates(1, &global, Some(&ranks));
    let norm = |update: &ClientUpdate| {
        let product = product(&update.adapter.truncated(ranks.of(update.client)).with_scaling(1.0));
        distance(&product, &vec![0.0; product.len()])
    };
    let total: f64 = updates.iter().map(norm).sum();
    let next = server(json!({"kind": "hetlora"}), Some(&ranks)).aggregate(RoundId(1), &global, &updates).unwrap();
    for index in 0..next.trainable().values().len() {
        let padded = |update: &ClientUpdate| update.adapter.zero_padded(ranks.of(update.client)).values()[index];
        let expected: f64 = updates.iter().map(|update| norm(update) / total * f64::from(padded(update))).sum();
        let found = f64::from(next.trainable().values()[index]);
        assert!((found - expected).abs() < 1e-6, "{index}: {found}, not {expected}");
    }
}

/// Clients of one rank each: nobody trains the others for three rounds, and then somebody does.
#[test]
fn a_rank_that_nobody_trains_stays_or_can_be_trained_again() {
    let (few, all) = (ClientRanks::new(vec![1]).unwrap(), None);
    for (kind, keeps) in [("hetlora", true), ("fedex", true), ("factors", true), ("flexlora", false)] {
        // A start without a product, of which most ranks have nothing in B.
        let mut values = adapter(RANK, 1).values().to_vec();
        for (_, b) in pairs(&adapter(RANK, 1)) {
            values[b.range()].fill(0.0);
        }
        let start = GlobalModel::from(Adapter::new(layout(RANK), values).unwrap());
        let mut global = start.clone();
        let mut server = server(json!({"kind": kind}), Some(&few));
        for round in 1..=3 {
            let updates = updates(round, &global, Some(&few));
            global = server.aggregate(RoundId(round), &global, &updates).unwrap();
        }
        let next = global.trainable();
        for (a, b) in pairs(next) {
            for k in 0..RANK {
                let row = &next.tensor(a)[k * INPUTS..(k + 1) * INPUTS];
                let column = next.tensor(b).iter().skip(k).step_by(RANK);
                let is_alive = row.iter().chain(column).any(|value| value.abs() > 0.0);
                assert!(is_alive, "{kind}: rank {k} of {} has no gradient any more", a.name);
            }
            let untouched = |model: &Adapter| model.tensor(a)[INPUTS..].to_vec();
            assert_eq!(untouched(next) == untouched(start.trainable()), keeps, "{kind}");
        }
        let trained = updates(4, &global, all);
        assert_ne!(server.aggregate(RoundId(4), &global, &trained).unwrap(), global);
    }
}

#[test]
fn what_a_client_sends_of_a_fixed_factor_is_not_read() {
    for kind in ["ffa", "rolora"] {
        let global = GlobalModel::from(adapter(RANK, 1));
        let next =
            server(json!({"kind": kind}), None).aggregate(RoundId(1), &global, &updates(1, &global, None)).unwrap();
        for (a, b) in pairs(next.trainable()) {
            assert_eq!(next.trainable().tensor(a), global.trainable().tensor(a), "{kind}");
            assert_ne!(next.trainable().tensor(b), global.trainable().tensor(b), "{kind}");
        }
    }
}
