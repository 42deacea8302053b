//! The server's pipeline: pre-aggregators, an aggregator, a server optimizer, each chosen apart.

use std::{borrow::Cow, collections::BTreeMap};

use fedward_actors::{
    ports::{PortError, PortResult, Strategy},
    protocol::{Adapter, ClientRanks, ClientUpdate, GlobalModel, Payload, RoundId, names},
    streams::{self, Purpose},
};
use fedward_aggregation::{
    AggregationError, AggregatorSettings, Context, Memory, PreAggregatorSettings, Updates, Weighting,
    vectors::weighted_mean,
};
use serde::Serialize;

use super::{
    aggregate::check,
    lora::{Given, LoraRule, Next, with_fixed},
    optimizer::{Combined, OptimizerSettings, ServerOptimizer},
    state::{adapter_like, join, split},
};

/// The parts of a server's pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelineSettings {
    /// What changes updates before they are combined, in this order.
    pub pre: Vec<PreAggregatorSettings>,
    /// What combines them.
    pub aggregator: AggregatorSettings,
    /// What moves the global adapter.
    pub optimizer: OptimizerSettings,
    /// How factors become products.
    #[serde(skip_serializing_if = "is_default")]
    pub lora: LoraRule,
}

fn is_default(rule: &LoraRule) -> bool {
    *rule == LoraRule::default()
}

/// A federated algorithm's server: combines updates, then steps.
///
/// A mean of all updates is taken of adapters. Every other rule works on deltas, local minus global adapter, rounded to
/// `f32`; LASA's layers are the adapter's tensors. Rules that draw do so from the stream of (seed, aggregation, round).
pub struct Pipeline {
    name: &'static str,
    settings: PipelineSettings,
    /// μ of the clients' pull to the global adapter, if they have one.
    proximal_mu: Option<f64>,
    seed: u64,
    optimizer: Box<dyn ServerOptimizer>,
    memory: Memory,
    /// How many updates counted in the last aggregate, where an aggregator chooses.
    kept: Option<usize>,
    /// The ranks that clients train, where they differ.
    ranks: Option<ClientRanks>,
    /// What the rule for adapters said of the last aggregate.
    said: BTreeMap<String, f64>,
}

impl Pipeline {
    /// A pipeline before its first round, under the name of a federated algorithm.
    pub fn new(name: &'static str, settings: PipelineSettings, seed: u64) -> Self {
        let optimizer = settings.optimizer.optimizer();
        Self {
            name,
            settings,
            proximal_mu: None,
            seed,
            optimizer,
            memory: Memory::default(),
            kept: None,
            ranks: None,
            said: BTreeMap::new(),
        }
    }

    /// The same with clients that are pulled to the global adapter with strength μ.
    #[must_use]
    pub const fn with_proximal_mu(mut self, mu: f64) -> Self {
        self.proximal_mu = Some(mu);
        self
    }

    /// The same with clients of different ranks.
    #[must_use]
    pub fn with_ranks(mut self, ranks: Option<ClientRanks>) -> Self {
        self.ranks = ranks;
        self
    }

    /// Whether it remembers anything between rounds.
    pub(super) fn keeps_state(&self) -> bool {
        self.settings.optimizer != OptimizerSettings::Plain || self.keeps_memory()
    }

    fn keeps_memory(&self) -> bool {
        self.settings.aggregator.rule().keeps_memory()
    }

    /// What each update counts.
    fn weights(&self, updates: &[ClientUpdate]) -> Vec<f64> {
        let weighting = self.settings.aggregator.rule().weighting();
        let weight = |update: &ClientUpdate| match weighting {
            Weighting::ByRows => update.n_examples * update.trust,
            Weighting::ByTrust => update.trust,
            Weighting::Uniform => 1.0,
        };
        updates.iter().map(weight).collect()
    }

    fn combine(&mut self, round: RoundId, global: &Adapter, updates: &[ClientUpdate]) -> PortResult<Combined> {
        let weights = self.weights(updates);
        if self.settings.pre.is_empty() && matches!(self.settings.aggregator, AggregatorSettings::Mean(_)) {
            let adapters: Vec<&[f32]> = updates.iter().map(|update| update.adapter.values()).collect();
            return Ok(Combined::Adapter(weighted_mean(&adapters, &weights)));
        }
        let problem = |error: AggregationError| PortError::Failed(error.to_string());
        let updates = deltas(global, updates, &weights).map_err(problem)?;
        let mut random = streams::stream(self.seed, Purpose::Aggregation, round, None);
        let mut context = Context { memory: &mut self.memory, random: &mut random };
        let PipelineSettings { pre, aggregator, .. } = &self.settings;
        let aggregate = fedward_aggregation::combine(pre, aggregator, updates, &mut context).map_err(problem)?;
        self.kept = aggregate.shares.map(|shares| shares.iter().filter(|&&share| share > 0.0).count());
        Ok(Combined::Delta(aggregate.values))
    }
}

/// The updates as rules take them.
fn deltas<'a>(global: &Adapter, updates: &[ClientUpdate], weights: &[f64]) -> Result<Updates<'a>, AggregationError> {
    let delta = |update: &ClientUpdate| {
        let values = update.adapter.values().iter().zip(global.values());
        Cow::Owned(values.map(|(&local, &global)| (f64::from(local) - f64::from(global)) as f32).collect())
    };
    Updates::from_vectors(updates.iter().map(delta).collect())?
        .weighted(weights)?
        .of_clients(updates.iter().map(|update| u64::from(update.client.0)).collect())?
        .in_layers(global.layout().tensors().iter().map(fedward_actors::protocol::AdapterTensor::range).collect())
}

impl Strategy for Pipeline {
    fn name(&self) -> &'static str {
        self.name
    }

    fn instructions(&self, round: RoundId, _: &GlobalModel) -> PortResult<Payload> {
        let fixed = self.settings.lora.fixed(round).map(|factor| (names::FIXED_FACTOR, factor.to_number()));
        let numbers = self.proximal_mu.map(|mu| (names::PROXIMAL_MU, mu)).into_iter().chain(fixed);
        Ok(numbers.fold(Payload::default(), |payload, (name, number)| payload.with_number(name, number)))
    }

    fn aggregate(&mut self, round: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let start = global.trainable();
        check(start, updates)?;
        if self.settings.lora.combines() {
            let weights = self.weights(updates);
            let total: f64 = weights.iter().sum();
            let shares = weights.iter().map(|weight| weight / total).collect();
            let given = Given { round, seed: self.seed, global, updates, shares, ranks: self.ranks.as_ref() };
            let Next { model, report } = self.settings.lora.combine(&given)?;
            self.said = report;
            return Ok(model);
        }
        let fixed =
            self.settings.lora.fixed(round).map(|fixed| {
                updates.iter().map(|update| with_fixed(fixed, start, update)).collect::<PortResult<Vec<_>>>()
            });
        let fixed = fixed.transpose()?;
        let combined = self.combine(round, start, fixed.as_deref().unwrap_or(updates))?;
        let next = adapter_like(start, self.optimizer.step(round, start.values(), combined))?;
        Ok(global.with_trainable(self.settings.lora.finish(next)?))
    }

    fn keeps_basis(&self) -> bool {
        !self.settings.lora.changes_basis()
    }

    fn state(&self) -> Vec<u8> {
        let state = self.optimizer.state();
        if self.keeps_memory() { join(&state, &self.memory.to_bytes()) } else { state }
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        if !self.keeps_memory() {
            return self.optimizer.restore(state);
        }
        let aggregator = self.settings.aggregator.name();
        let broken = || PortError::Failed(format!("found {} bytes that are no state of {aggregator}", state.len()));
        let (optimizer, memory) = split(state).ok_or_else(broken)?;
        self.optimizer.restore(optimizer)?;
        self.memory = Memory::from_bytes(memory).ok_or_else(broken)?;
        Ok(())
    }

    fn report(&self) -> BTreeMap<String, f64> {
        let mut report = self.optimizer.report();
        report.extend(self.kept.map(|kept| ("updates_kept".to_owned(), kept as f64)));
        report.extend(self.said.clone());
        report
    }
}
