//! SCAFFOLD ("SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", 2020): control variates against the
//! drift of clients, the second of the paper's two rules for them. The correction follows each optimizer step, as in
//! `OpenFedLLM`; with the paper's plain gradient steps that is the same as to correct the gradient.

use std::{collections::BTreeMap, sync::Arc};

use fedward_actors::{
    ports::{
        ClientAlgorithm, ClientUpdate, LocalCorrection, LocalTraining, PortError, PortResult, Strategy, TurnEnd,
        TurnStart,
    },
    protocol::{Adapter, GlobalModel, Payload, RoundId, names},
};

use super::{
    aggregate::l2_norm,
    pipeline::Pipeline,
    state::{adapter_like, from_bytes, join, split, to_bytes},
};

/// The server's side: `c ← c + Σ Δc_i / N` over the clients that took part, N being all clients, beside a pipeline that combines
/// their adapters. In the paper's form (its step size 1) each counts the same in the mean, in `OpenFedLLM`'s by its rows.
pub struct Scaffold {
    /// N.
    clients: u32,
    pipeline: Pipeline,
    /// c; empty before the first round that moved it, where it is zero.
    control: Vec<f32>,
}

impl Scaffold {
    /// Its name in scenarios and records.
    pub const NAME: &'static str = "scaffold";

    /// SCAFFOLD in a federation of `clients`.
    pub const fn new(clients: u32, pipeline: Pipeline) -> Self {
        Self { clients, pipeline, control: Vec::new() }
    }
}

impl Strategy for Scaffold {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn instructions(&self, _: RoundId, global: &GlobalModel) -> PortResult<Payload> {
        if self.control.is_empty() {
            return Ok(Payload::default());
        }
        Ok(Payload::default().with_vector(names::CONTROL, adapter_like(global.trainable(), self.control.clone())?))
    }

    fn aggregate(&mut self, round: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let next = self.pipeline.aggregate(round, global, updates)?;
        let mut control: Vec<f64> = self.control.iter().map(|&value| f64::from(value)).collect();
        control.resize(global.trainable().values().len(), 0.0);
        for update in updates {
            let delta = update
                .extras
                .vector(names::CONTROL_DELTA)
                .ok_or_else(|| PortError::Failed(format!("{} sent no change of its control variate", update.client)))?;
            for (control, &delta) in control.iter_mut().zip(delta.values()) {
                *control += f64::from(delta) / f64::from(self.clients);
            }
        }
        self.control = control.into_iter().map(|value| value as f32).collect();
        if self.control.iter().any(|value| !value.is_finite()) {
            return Err(PortError::Failed("the server's control variate is no longer finite".to_owned()));
        }
        Ok(next)
    }

    fn state(&self) -> Vec<u8> {
        let control = to_bytes(&[&self.control]);
        if self.pipeline.keeps_state() { join(&control, &self.pipeline.state()) } else { control }
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        let control = if self.pipeline.keeps_state() {
            let broken = || PortError::Failed(format!("found {} bytes that are no state of scaffold", state.len()));
            let (control, pipeline) = split(state).ok_or_else(broken)?;
            self.pipeline.restore(pipeline)?;
            control
        } else {
            state
        };
        let [control] = from_bytes(Self::NAME, control)?;
        self.control = control;
        Ok(())
    }

    fn report(&self) -> BTreeMap<String, f64> {
        let mut report = self.pipeline.report();
        report.insert("control_norm".to_owned(), l2_norm(&self.control));
        report
    }
}

/// The clients' side: `w ← w − lr (c − c_i)` after each optimizer step, and at the end of K steps
/// `c_i⁺ = (w_global − w) / (K lr) − (c − c_i)`; where the rate changes from step to step, `K lr` is the sum of the rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScaffoldClients;

impl ClientAlgorithm for ScaffoldClients {
    fn keeps_memory(&self) -> bool {
        true
    }

    fn correction(&self, start: TurnStart<'_>) -> PortResult<LocalCorrection> {
        Ok(LocalCorrection { drift: Variates::of(start)?.drift().map(Arc::new), ..LocalCorrection::default() })
    }

    fn conclude(&self, start: TurnStart<'_>, training: &LocalTraining) -> PortResult<TurnEnd> {
        let rates = training.learning_rate_sum;
        if !(rates > 0.0 && rates.is_finite()) {
            return Err(PortError::Failed(format!("learning rates add up to {rates}; scaffold needs more than 0")));
        }
        let variates = Variates::of(start)?;
        let moved = start.global.values().iter().zip(training.adapter.values());
        let own: Vec<f32> = moved
            .enumerate()
            .map(|(index, (&from, &to))| {
                ((f64::from(from) - f64::from(to)) / rates - variates.difference(index)) as f32
            })
            .collect();
        let delta = own.iter().enumerate().map(|(index, &own)| own - variates.own(index)).collect();
        let extras = Payload::default().with_vector(names::CONTROL_DELTA, adapter_like(start.global, delta)?);
        Ok(TurnEnd { extras, memory: Some(to_bytes(&[&own]).into()) })
    }
}

/// `c` and `c_i` at the beginning of a turn; either may be zero by never having been moved.
struct Variates<'a> {
    server: Option<&'a [f32]>,
    own: Option<Vec<f32>>,
}

impl<'a> Variates<'a> {
    fn of(start: TurnStart<'a>) -> PortResult<Self> {
        let server = start.instructions.vector(names::CONTROL).map(Adapter::values);
        let own = start.memory.map(|memory| from_bytes::<1>(Scaffold::NAME, memory)).transpose()?.map(|[own]| own);
        let wanted = start.global.values().len();
        let lengths = [server.map(<[f32]>::len), own.as_ref().map(Vec::len)];
        match lengths.into_iter().flatten().find(|&found| found != wanted) {
            None => Ok(Self { server, own }),
            Some(found) => {
                Err(PortError::Failed(format!("a control variate holds {found} numbers, the adapter {wanted}")))
            }
        }
    }

    fn own(&self, index: usize) -> f32 {
        self.own.as_ref().map_or(0.0, |own| own[index])
    }

    /// `c − c_i`.
    fn difference(&self, index: usize) -> f64 {
        self.server.map_or(0.0, |server| f64::from(server[index])) - f64::from(self.own(index))
    }

    /// `c − c_i` for all numbers; `None` where both are zero, so that such a training equals one without SCAFFOLD.
    fn drift(&self) -> Option<Vec<f32>> {
        let length = self.server.map(<[f32]>::len).or(self.own.as_ref().map(Vec::len))?;
        Some((0..length).map(|index| self.difference(index) as f32).collect())
    }
}
