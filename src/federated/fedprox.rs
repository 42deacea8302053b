//! `FedProx` ("Federated Optimization in Heterogeneous Networks", 2020).

use fedward_actors::{
    ports::{ClientUpdate, PortResult, Strategy},
    protocol::{Adapter, Payload, RoundId, names},
};

use super::aggregate::mean_by_examples;

/// [`FedAvg`](super::FedAvg) of clients whose loss gains μ/2 · ‖w − `w_global`‖², so that they stay near.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FedProx {
    /// μ.
    pub proximal_mu: f64,
}

impl FedProx {
    /// Its name in scenarios and records.
    pub const NAME: &'static str = "fedprox";
}

impl Strategy for FedProx {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn instructions(&self, _: RoundId, _: &Adapter) -> PortResult<Payload> {
        Ok(Payload::default().with_number(names::PROXIMAL_MU, self.proximal_mu))
    }

    fn aggregate(&mut self, _: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Adapter> {
        mean_by_examples(global, updates)
    }
}
