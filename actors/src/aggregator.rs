//! The aggregator: the one actor that says what enters the global adapter.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    compute::{Compute, Panicked},
    faults::{Faults, ON_PURPOSE, ServerFault},
    federation::StrategyFactory,
    ports::{Strategy, UpdateScreen},
    protocol::{
        Attempt, Payload, RoundId,
        server::{AggregateOrder, Aggregation, InstructOrder, ScreenOrder, ScreenedUpdate, StrategyState},
    },
    screening::{self, screen_updates},
};

/// To the aggregator.
#[derive(Debug)]
pub(crate) enum AggregatorMessage {
    /// What are this round's clients to be sent?
    Instruct(InstructOrder, RpcReplyPort<Result<Payload, String>>),
    /// Which of these updates may enter the global adapter?
    Screen(ScreenOrder, RpcReplyPort<Vec<ScreenedUpdate>>),
    /// What is the next global adapter?
    Aggregate(AggregateOrder, RpcReplyPort<Aggregation>),
}

/// The actor that screens and combines updates. What it remembers it can lose: each order carries the state to go on from.
#[derive(Clone, Copy)]
pub(crate) struct Aggregator;

/// What an aggregator starts with.
#[derive(Clone)]
pub(crate) struct AggregatorArgs {
    pub(crate) strategy: StrategyFactory,
    /// The update-level defence, if the run has one.
    pub(crate) screen: Option<Arc<dyn UpdateScreen>>,
    /// What goes wrong on purpose.
    pub(crate) faults: Faults,
    pub(crate) compute: Compute,
    /// How long screening or combining may take.
    pub(crate) limit: Duration,
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

impl HeldStrategy {
    /// A strategy of its own, brought to where `state` says.
    fn restored(factory: &StrategyFactory, state: &StrategyState) -> Result<Self, String> {
        let mut strategy = factory();
        if !state.bytes.is_empty() {
            strategy.restore(&state.bytes).map_err(|error| format!("cannot restore {}: {error}", strategy.name()))?;
        }
        Ok(Self { after: state.after, strategy })
    }
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
            AggregatorMessage::Instruct(order, reply) => drop(reply.send(state.instruct(order).await?)),
            AggregatorMessage::Screen(order, reply) => drop(reply.send(state.args.screen(order).await?)),
            AggregatorMessage::Aggregate(order, reply) => drop(reply.send(state.aggregate(order).await?)),
        }
        Ok(())
    }
}

impl AggregatorArgs {
    async fn screen(&self, order: ScreenOrder) -> Result<Vec<ScreenedUpdate>, Panicked> {
        tracing::trace!(id = ?order.id, updates = order.updates.len(), "updates to screen");
        let screen = self.screen.clone();
        let updates = order.updates.len();
        let screened =
            self.compute.run_within(self.limit, move |cancel| screen_updates(screen.as_deref(), &order, cancel));
        Ok(screened.await?.unwrap_or_else(|overdue| screening::unscreened(updates, &overdue.to_string())))
    }
}

impl AggregatorState {
    /// What the strategy has to say to a round's clients.
    async fn instruct(&mut self, order: InstructOrder) -> Result<Result<Payload, String>, Panicked> {
        let InstructOrder { id, global, strategy: state } = order;
        tracing::trace!(?id, "instructions to give");
        let held = self.take_held(&state);
        let factory = Arc::clone(&self.args.strategy);
        let instructed = self.args.compute.run_within(self.args.limit, move |_| -> Result<_, String> {
            let held = held.map_or_else(|| HeldStrategy::restored(&factory, &state), Ok)?;
            let given = held.strategy.instructions(id.round, &global).map_err(|error| error.to_string())?;
            Ok((held, given))
        });
        let instructed = instructed.await?.unwrap_or_else(|overdue| Err(overdue.to_string()));
        Ok(instructed.map(|(held, given)| {
            self.held = Some(held);
            given
        }))
    }

    /// The strategy at hand, if it stands where an order's state says.
    fn take_held(&mut self, state: &StrategyState) -> Option<HeldStrategy> {
        self.held.take().filter(|held| held.after == state.after)
    }

    /// Combines updates with the strategy as of the order's state. A strategy that fails is discarded, half-changed as
    /// it may be; the next round builds it anew from the last good state.
    async fn aggregate(&mut self, order: AggregateOrder) -> Result<Aggregation, Panicked> {
        let (round, attempt) = (order.id.round, order.id.attempt);
        let fault = self.args.faults.of_server(round, ServerFault::AggregatorCrash);
        if attempt == Attempt::FIRST && fault.is_some() {
            return Err(Panicked(ON_PURPOSE.to_owned()));
        }
        let accepted = order.updates.len() as u32;
        if accepted < order.quorum.max(1) {
            return Ok(Aggregation::BelowQuorum { accepted, quorum: order.quorum });
        }
        let held = self.take_held(&order.strategy);
        let factory = Arc::clone(&self.args.strategy);
        let work = move |_: &_| aggregate_updates(held, &factory, order);
        Ok(match self.args.compute.run_within(self.args.limit, work).await? {
            Ok(Ok((held, done))) => {
                self.held = Some(held);
                done
            }
            Ok(Err(reason)) => Aggregation::Failed(reason),
            Err(overdue) => Aggregation::Failed(format!("aggregation {overdue}")),
        })
    }
}

/// Runs the strategy on updates in order of client, and checks what comes out as strictly as what went in.
fn aggregate_updates(
    held: Option<HeldStrategy>,
    factory: &StrategyFactory,
    mut order: AggregateOrder,
) -> Result<(HeldStrategy, Aggregation), String> {
    let HeldStrategy { mut strategy, .. } =
        held.map_or_else(|| HeldStrategy::restored(factory, &order.strategy), Ok)?;
    order.updates.sort_by_key(|update| update.client);
    let round = order.id.round;
    let global = strategy.aggregate(round, &order.global, &order.updates).map_err(|error| error.to_string())?;
    order
        .global
        .check_successor(&global)
        .map_err(|error| format!("{} gave no usable adapter: {error}", strategy.name()))?;
    let update_norm = strategy.keeps_basis().then(|| screening::distance(global.trainable(), order.global.trainable()));
    let report = strategy.report();
    let state = StrategyState { after: round, bytes: strategy.state().into() };
    Ok((HeldStrategy { after: round, strategy }, Aggregation::Done { global, strategy: state, update_norm, report }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cancel::CancelFlag,
        faults::FaultPlan,
        ports::{ClientUpdate, PortError, PortResult},
        protocol::{Adapter, Attempt, ClientId, GlobalModel, Payload, RequestId},
        testing::{Rehearsal, WeightedMean, layout_of_rank, tiny_layout},
    };

    fn update(client: u32, value: f32) -> ClientUpdate {
        let adapter = Adapter::new(tiny_layout(), vec![value; 8]).unwrap();
        ClientUpdate { client: ClientId(client), adapter, n_examples: 1.0, trust: 1.0, extras: Payload::default() }
    }

    fn combine(round: u32, updates: Vec<ClientUpdate>) -> AggregateOrder {
        AggregateOrder {
            id: RequestId { round: RoundId(round), attempt: Attempt::FIRST },
            quorum: 2,
            global: Adapter::zeros(tiny_layout()).into(),
            strategy: StrategyState { after: RoundId(round - 1), bytes: Arc::default() },
            updates,
        }
    }

    fn state(strategy: StrategyFactory) -> AggregatorState {
        let compute = Compute::new(1, CancelFlag::new(), Duration::from_secs(1));
        let faults = Faults::new(1, FaultPlan::default());
        let args = AggregatorArgs { strategy, screen: None, faults, compute, limit: Duration::from_mins(1) };
        AggregatorState { args, held: None }
    }

    /// Remembers in which order it saw its clients.
    struct Witness(Vec<u8>);

    impl Strategy for Witness {
        fn name(&self) -> &'static str {
            "witness"
        }

        fn aggregate(&mut self, _: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
            self.0 = updates.iter().map(|update| update.client.0 as u8).collect();
            Ok(global.clone())
        }

        fn state(&self) -> Vec<u8> {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn d_1_the_strategy_sees_updates_in_order_of_client() {
        let mut state = state(Arc::new(|| Box::new(Witness(Vec::new()))));
        let updates = vec![update(5, 1.0), update(0, 1.0), update(3, 1.0)];
        let Aggregation::Done { strategy, .. } = state.aggregate(combine(1, updates)).await.unwrap() else { panic!() };
        assert_eq!(strategy, StrategyState { after: RoundId(1), bytes: [0, 3, 5].into() });
    }

    #[tokio::test]
    async fn r_3_too_few_updates_do_not_reach_the_strategy() {
        let mut state = state(Arc::new(|| panic!("strategy made below quorum")));
        let result = state.aggregate(combine(1, vec![update(0, 1.0)])).await;
        assert_eq!(result, Ok(Aggregation::BelowQuorum { accepted: 1, quorum: 2 }));
    }

    #[tokio::test]
    async fn r_2_a_round_asked_for_again_is_not_aggregated_on_top_of_itself() {
        let mut state = state(Rehearsal::new(2, 2, 1).strategy);
        let updates = || vec![update(0, 1.0), update(1, 3.0)];
        let first = state.aggregate(combine(1, updates())).await.unwrap();
        assert_eq!(state.aggregate(combine(1, updates())).await.unwrap(), first);
        let mut second = combine(2, updates());
        let Aggregation::Done { strategy, .. } = first.clone() else { panic!("{first:?}") };
        second.strategy = strategy;
        assert_ne!(state.aggregate(second).await.unwrap(), first, "the strategy has no memory to test");
    }

    #[tokio::test]
    async fn a_state_that_cannot_be_restored_fails_the_round_in_words() {
        let mut state = state(Arc::new(|| Box::new(WeightedMean)));
        let mut order = combine(3, vec![update(0, 1.0), update(1, 1.0)]);
        order.strategy.bytes = [1, 2].into();
        let failed = "cannot restore weighted mean: weighted mean keeps no state, found 2 bytes";
        assert_eq!(state.aggregate(order).await, Ok(Aggregation::Failed(failed.to_owned())));
    }

    #[tokio::test]
    async fn instructions_that_hang_are_given_up_in_words() {
        struct Hesitates;
        impl Strategy for Hesitates {
            fn name(&self) -> &'static str {
                "hesitates"
            }

            fn instructions(&self, _: RoundId, _: &GlobalModel) -> PortResult<Payload> {
                std::thread::sleep(Duration::from_millis(300));
                Ok(Payload::default())
            }

            fn aggregate(&mut self, _: RoundId, global: &GlobalModel, _: &[ClientUpdate]) -> PortResult<GlobalModel> {
                Ok(global.clone())
            }
        }
        let mut state = state(Arc::new(|| Box::new(Hesitates)));
        state.args.limit = Duration::from_millis(10);
        let AggregateOrder { id, global, strategy, .. } = combine(1, Vec::new());
        let instructed = state.instruct(InstructOrder { id, global, strategy }).await.unwrap();
        assert_eq!(instructed, Err("did not end within 10ms".to_owned()));
    }

    #[test]
    fn a_2_a_result_of_another_layout_is_no_result() {
        struct Grows;
        impl Strategy for Grows {
            fn name(&self) -> &'static str {
                "grows"
            }

            fn aggregate(&mut self, _: RoundId, _: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
                if updates.is_empty() {
                    return Err(PortError::Failed("no updates".to_owned()));
                }
                Ok(Adapter::zeros(layout_of_rank(2)).into())
            }
        }
        let factory: StrategyFactory = Arc::new(|| Box::new(Grows));
        let failed = aggregate_updates(None, &factory, combine(1, vec![update(0, 1.0)])).err().unwrap();
        assert!(failed.starts_with("grows gave no usable adapter: adapter layouts differ"), "{failed}");
    }
}
