//! Federated averaging.

use fedward_actors::{
    ports::{ClientUpdate, PortResult, Strategy},
    protocol::{Adapter, RoundId},
};

use super::aggregate::mean_by_examples;

/// `FedAvg` ("Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017): the mean of the clients' adapters, weighted by the rows each trained on (a reweighted row
/// counts as its weight). A and B are
/// averaged apart, as `OpenFedLLM` does it, so `mean(B) mean(A)` stands for `mean(B A)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FedAvg;

impl FedAvg {
    /// Its name in scenarios and records.
    pub const NAME: &'static str = "fedavg";
}

impl Strategy for FedAvg {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn aggregate(&mut self, _round: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
        mean_by_examples(global, updates)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fedward_actors::protocol::{AdapterLayout, ClientId, Payload};

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
        FedAvg.aggregate(RoundId(1), &Adapter::zeros(layout(2)), updates)
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
        assert_eq!(
            problem(&[update(0, 1.0, 0.0)]),
            "1 updates rest on 0 rows, expected at least one row in one update"
        );
        let wide = ClientUpdate { adapter: Adapter::zeros(layout(3)), ..update(2, 1.0, 1.0) };
        assert_eq!(
            problem(&[update(0, 1.0, 1.0), wide]),
            "client-2: adapter layouts differ: tensor a: expected shape [1, 2], found [1, 3]"
        );
    }

    #[test]
    fn no_state_is_kept() {
        assert!(FedAvg.state().is_empty());
        assert_eq!(FedAvg.restore(&[]), Ok(()));
        assert!(FedAvg.restore(&[1]).is_err());
    }
}
