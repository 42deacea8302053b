//! Federated averaging, and what every pipeline refuses.

use std::sync::Arc;

use fedward_actors::{
    ports::PortResult,
    protocol::{Adapter, AdapterLayout, ClientId, ClientUpdate, Payload, RoundId},
};

use super::*;

fn layout(width: usize) -> Arc<AdapterLayout> {
    Arc::new(AdapterLayout::new([("a".to_owned(), [1, width]), ("b".to_owned(), [width, 1])]))
}

fn update(client: u32, value: f32, n_examples: f64) -> ClientUpdate {
    let layout = layout(2);
    let values = vec![value; layout.len()];
    let adapter = Adapter::new(layout, values).unwrap();
    ClientUpdate { client: ClientId(client), adapter, n_examples, trust: 1.0, extras: Payload::default() }
}

fn aggregate(updates: &[ClientUpdate]) -> PortResult<Adapter> {
    step(&mut *FederatedAlgorithm::FedAvg.server(1)(), RoundId(1), &Adapter::zeros(layout(2)), updates)
}

#[test]
fn rows_are_the_weights_and_light_rows_count_less() {
    let mean = aggregate(&[update(0, 1.0, 300.0), update(4, 5.0, 100.0), update(9, 77.0, 0.0)]).unwrap();
    assert_eq!(mean.values(), [2.0; 4]);
    let light = aggregate(&[update(0, 1.0, 0.75), update(1, 5.0, 0.25)]).unwrap();
    assert_eq!(light.values(), [2.0; 4]);
}

#[test]
fn trust_multiplies_the_weight() {
    let half = ClientUpdate { trust: 0.5, ..update(1, 5.0, 200.0) };
    assert_eq!(aggregate(&[update(0, 1.0, 300.0), half]).unwrap().values(), [2.0; 4]);
    let none = ClientUpdate { trust: 0.0, ..update(1, 5.0, 200.0) };
    assert!(aggregate(&[none]).is_err());
}

#[test]
fn one_client_is_its_own_mean() {
    assert_eq!(aggregate(&[update(3, 0.1, 7.0)]).unwrap().values(), [0.1; 4]);
}

#[test]
fn what_cannot_be_averaged_is_said() {
    let problem = |updates: &[ClientUpdate]| aggregate(updates).unwrap_err().to_string();
    assert_eq!(problem(&[]), "0 updates rest on 0 rows, expected at least one row in one update");
    assert_eq!(problem(&[update(0, 1.0, 0.0)]), "1 updates rest on 0 rows, expected at least one row in one update");
    let wide = ClientUpdate { adapter: Adapter::zeros(layout(3)), ..update(2, 1.0, 1.0) };
    assert_eq!(
        problem(&[update(0, 1.0, 1.0), wide]),
        "client-2: adapter layouts differ: tensor a: expected shape [1, 2], found [1, 3]"
    );
}

#[test]
fn no_state_is_kept() {
    let mut server = FederatedAlgorithm::FedAvg.server(1)();
    assert!(server.state().is_empty());
    assert_eq!(server.restore(&[]), Ok(()));
    assert!(server.restore(&[1]).is_err());
}
