//! The aggregator: the one actor that says what enters the global adapter.

use std::{collections::HashSet, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use rayon::prelude::*;

use crate::{
    compute::{Compute, Panicked},
    federation::StrategyFactory,
    ports::{ClientUpdate, Strategy},
    protocol::{
        Adapter, AdapterError, RoundId,
        messages::{AggregateRequest, Aggregation, AggregatorMessage, ScreenRequest, ScreenedUpdate, StrategyState},
    },
    records::RejectReason,
};

/// The actor that screens and combines updates. What it remembers it can lose: each request carries the state to go on from.
#[derive(Clone, Copy)]
pub(crate) struct Aggregator;

/// What an aggregator starts with.
#[derive(Clone)]
pub(crate) struct AggregatorArgs {
    pub(crate) strategy: StrategyFactory,
    pub(crate) compute: Compute,
}

pub(crate) struct AggregatorState {
    args: AggregatorArgs,
    /// The strategy as it stood after the last aggregation that succeeded.
    held: Option<HeldStrategy>,
}

struct HeldStrategy {
    after: RoundId,
    strategy: Box<dyn Strategy>,
}

impl Actor for Aggregator {
    type Msg = AggregatorMessage;
    type State = AggregatorState;
    type Arguments = AggregatorArgs;

    async fn pre_start(
        &self,
        _: ActorRef<AggregatorMessage>,
        args: AggregatorArgs,
    ) -> Result<AggregatorState, ActorProcessingErr> {
        Ok(AggregatorState { args, held: None })
    }

    async fn handle(
        &self,
        _: ActorRef<AggregatorMessage>,
        message: AggregatorMessage,
        state: &mut AggregatorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AggregatorMessage::Screen(request, reply) => drop(reply.send(state.args.screen(request).await?)),
            AggregatorMessage::Aggregate(request, reply) => drop(reply.send(state.aggregate(request).await?)),
        }
        Ok(())
    }
}

impl AggregatorArgs {
    async fn screen(&self, request: ScreenRequest) -> Result<Vec<ScreenedUpdate>, Panicked> {
        tracing::trace!(ticket = ?request.ticket, updates = request.updates.len(), "updates to screen");
        self.compute.run(move |_| screen_updates(&request.global, &request.updates)).await
    }
}

impl AggregatorState {
    /// Combines updates with the strategy as of the request's state. A strategy that fails is discarded, half-changed as
    /// it may be; the next round builds it anew from the last good state.
    async fn aggregate(&mut self, request: AggregateRequest) -> Result<Aggregation, Panicked> {
        let accepted = request.updates.len() as u32;
        if accepted < request.quorum.max(1) {
            return Ok(Aggregation::BelowQuorum { accepted, quorum: request.quorum });
        }
        let held = self.held.take().filter(|held| held.after == request.strategy.after);
        let factory = Arc::clone(&self.args.strategy);
        let aggregated = self.args.compute.run(move |_| aggregate_updates(held, &factory, request)).await?;
        Ok(match aggregated {
            Ok((held, done)) => {
                self.held = Some(held);
                done
            }
            Err(reason) => Aggregation::Failed(reason),
        })
    }
}

/// Checks updates against the adapter that they started from (invariants) and against each other.
fn screen_updates(global: &Adapter, updates: &[ClientUpdate]) -> Vec<ScreenedUpdate> {
    let mut seen = HashSet::new();
    let repeated: Vec<bool> = updates.iter().map(|update| !seen.insert(update.client)).collect();
    let check = |(update, repeated): (&ClientUpdate, bool)| {
        let verdict = if repeated { Err(RejectReason::Stale) } else { screen_update(global, &update.adapter) };
        ScreenedUpdate { client: update.client, verdict }
    };
    updates.par_iter().zip(repeated).map(check).collect()
}

/// The norm of an update's delta, or why the update is refused.
fn screen_update(global: &Adapter, local: &Adapter) -> Result<f64, RejectReason> {
    check(global, local).map_err(|error| match error {
        AdapterError::NotFinite { tensor } => RejectReason::NotFinite(tensor),
        AdapterError::LayoutMismatch(difference) => RejectReason::LayoutMismatch(difference),
        AdapterError::WrongLength { .. } => RejectReason::LayoutMismatch(error.to_string()),
    })?;
    Ok(distance(local, global))
}

fn check(global: &Adapter, other: &Adapter) -> Result<(), AdapterError> {
    global.check_same_layout(other)?;
    other.check_finite()
}

/// Euclidean distance of two adapters of one layout, without a buffer for their difference.
fn distance(a: &Adapter, b: &Adapter) -> f64 {
    let squares = a.values().iter().zip(b.values()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Runs the strategy on updates in order of client, and checks what comes out as strictly as what went in.
fn aggregate_updates(
    held: Option<HeldStrategy>,
    factory: &StrategyFactory,
    mut request: AggregateRequest,
) -> Result<(HeldStrategy, Aggregation), String> {
    let mut strategy = match held {
        Some(held) => held.strategy,
        None => restored(factory, &request.strategy)?,
    };
    request.updates.sort_by_key(|update| update.client);
    let round = request.ticket.round;
    let global = strategy.aggregate(round, &request.global, &request.updates).map_err(|error| error.to_string())?;
    check(&request.global, &global).map_err(|error| format!("{} gave no usable adapter: {error}", strategy.name()))?;
    let update_norm = distance(&global, &request.global);
    let state = StrategyState { after: round, bytes: strategy.state().into() };
    Ok((HeldStrategy { after: round, strategy }, Aggregation::Done { global, strategy: state, update_norm }))
}

fn restored(factory: &StrategyFactory, state: &StrategyState) -> Result<Box<dyn Strategy>, String> {
    let mut strategy = factory();
    if !state.bytes.is_empty() {
        strategy.restore(&state.bytes).map_err(|error| format!("cannot restore {}: {error}", strategy.name()))?;
    }
    Ok(strategy)
}
