//! How orders reach clients and reports come back: at once, or in simulated time.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    address::{Address, Answer},
    client::ClientMessage,
    devices::{DeviceProfile, TaskCost},
    faults::ClientFault,
    ledger::Reported,
    protocol::{
        Adapter, Attempt, ClientId, LocalWork, ModelVersion, RequestId, RoundId, SimTime, TrainOrder, TrainReport,
        wire::{self, WireError},
    },
    records::DropReason,
};

/// An order on its way, with the address that it goes to; without instructions nothing is sent.
pub(crate) struct Dispatch {
    pub(crate) client: ClientId,
    pub(crate) round: RoundId,
    pub(crate) address: Address<ClientMessage>,
    pub(crate) order: Result<TrainOrder, String>,
    /// What is put in to go wrong.
    pub(crate) fault: Option<ClientFault>,
    pub(crate) max_attempts: u32,
    /// How long one attempt may take on the clock.
    pub(crate) limit: Duration,
}

/// What came back of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// When it arrived.
    pub(crate) at: SimTime,
    pub(crate) reported: Reported,
    /// What the client started from; nothing was sent without instructions.
    pub(crate) sent: Option<(ModelVersion, Adapter)>,
}

pub(crate) type Arriving<'a> = Pin<Box<dyn Future<Output = Option<Arrival>> + Send + 'a>>;

/// Carries orders to clients and brings what comes back.
pub(crate) trait Transport: Send + Sync {
    /// Sends an order off.
    fn dispatch(&mut self, dispatch: Dispatch);

    /// Waits for the next arrival that is not later than `deadline`; what is later stays under way. `None` if there is none.
    fn next(&mut self, deadline: SimTime) -> Arriving<'_>;

    /// Returns whose reports are under way, in order of client.
    fn in_flight(&self) -> Vec<ClientId>;

    /// Forgets what is under way and returns whose it was.
    fn abandon(&mut self) -> Vec<Arrival>;

    /// Returns the simulated time: that of the last arrival.
    fn now(&self) -> SimTime;

    /// Lets simulated time pass up to `moment`, if that lies ahead.
    fn wait_until(&mut self, moment: SimTime);

    /// Returns what a checkpoint has to hold of it: nothing if nothing is under way and no time has passed.
    ///
    /// # Errors
    ///
    /// As [`wire::encode`].
    fn state(&self) -> Result<Vec<u8>, WireError>;
}

/// Runs clients' tasks as they come, as many at a time as there are compute slots, and brings reports as they are ready.
/// It knows no time.
pub(crate) struct LocalTransport {
    slots: Arc<Semaphore>,
    tasks: JoinSet<Arrival>,
}

impl LocalTransport {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots)), tasks: JoinSet::new() }
    }

    /// # Panics
    ///
    /// If a task does: a bug that belongs to whoever asked. Nobody aborts tasks but a runtime that shuts down.
    async fn next_ready(&mut self) -> Option<Arrival> {
        loop {
            match self.tasks.join_next().await? {
                Ok(arrival) => return Some(arrival),
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }
}

impl Transport for LocalTransport {
    fn dispatch(&mut self, dispatch: Dispatch) {
        let slots = Arc::clone(&self.slots);
        self.tasks.spawn(async move {
            let _slot = slots.acquire().await;
            dispatch.run().await
        });
    }

    fn next(&mut self, _: SimTime) -> Arriving<'_> {
        Box::pin(self.next_ready())
    }

    fn in_flight(&self) -> Vec<ClientId> {
        Vec::new()
    }

    fn abandon(&mut self) -> Vec<Arrival> {
        self.tasks.abort_all();
        Vec::new()
    }

    fn now(&self) -> SimTime {
        SimTime::START
    }

    fn wait_until(&mut self, _: SimTime) {}

    fn state(&self) -> Result<Vec<u8>, WireError> {
        Ok(Vec::new())
    }
}

/// Computes tasks as early as it can, and delivers their reports in the order of simulated time.
///
/// When a report arrives depends on what its client was sent and did, never on the clock: same seed, same order, whatever
/// the number of slots (invariant D-1).
pub(crate) struct SimulatedTransport {
    local: LocalTransport,
    devices: DeviceProfile,
    seed: u64,
    ledger: InFlight,
}

/// What is under way, and the time.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct InFlight {
    pub(crate) now: SimTime,
    pub(crate) arrivals: BTreeMap<(SimTime, ClientId), Arrival>,
}

impl SimulatedTransport {
    pub(crate) fn new(slots: usize, devices: DeviceProfile, seed: u64, ledger: InFlight) -> Self {
        Self { local: LocalTransport::new(slots), devices, seed, ledger }
    }

    /// Waits until everything that was dispatched is computed: only then is it known what arrives first.
    async fn settle(&mut self) {
        while let Some(mut arrival) = self.local.next_ready().await {
            let client = arrival.reported.client;
            // Where nothing was sent there is nothing to wait for: that is known before whatever is under way.
            if arrival.sent.is_some() {
                let seconds = self.devices.seconds(self.seed, arrival.reported.id.round, client, arrival.cost());
                arrival.at = self.ledger.now.after(seconds);
            }
            self.ledger.arrivals.insert((arrival.at, client), arrival);
        }
    }
}

impl Transport for SimulatedTransport {
    fn dispatch(&mut self, dispatch: Dispatch) {
        self.local.dispatch(dispatch);
    }

    fn next(&mut self, deadline: SimTime) -> Arriving<'_> {
        Box::pin(async move {
            self.settle().await;
            let first = self.ledger.arrivals.first_entry().filter(|first| first.key().0 <= deadline)?;
            let arrival = first.remove();
            self.wait_until(arrival.at);
            Some(arrival)
        })
    }

    fn in_flight(&self) -> Vec<ClientId> {
        let mut clients: Vec<ClientId> = self.ledger.arrivals.keys().map(|&(_, client)| client).collect();
        clients.sort_unstable();
        clients
    }

    fn abandon(&mut self) -> Vec<Arrival> {
        std::mem::take(&mut self.ledger.arrivals).into_values().collect()
    }

    fn now(&self) -> SimTime {
        self.ledger.now
    }

    fn wait_until(&mut self, moment: SimTime) {
        self.ledger.now = self.ledger.now.max(moment);
    }

    fn state(&self) -> Result<Vec<u8>, WireError> {
        if self.ledger == InFlight::default() { Ok(Vec::new()) } else { wire::encode(&self.ledger) }
    }
}

impl Arrival {
    fn cost(&self) -> TaskCost {
        let report = self.reported.answer.as_ref().ok();
        let trained = report.and_then(|report| match &report.work {
            LocalWork::Trained { training, .. } => Some(training.tokens),
            LocalWork::Dropped(_) => None,
        });
        TaskCost {
            bytes_down: self.reported.bytes_down,
            tokens: trained.unwrap_or(0),
            bytes_up: report.map_or(0, TrainReport::size_bytes),
        }
    }
}

impl Dispatch {
    /// Asks until the client answers, its time is up, or its attempts are used up.
    async fn run(self) -> Arrival {
        let Self { client, round, address, order, fault, max_attempts, limit } = self;
        let sent = order.as_ref().ok().map(|order| (order.version, order.global.trainable().clone()));
        let arrival = |reported| Arrival { at: SimTime::START, reported, sent };
        let unasked = |reason, fault| {
            let id = RequestId::first(round);
            Reported { client, id, bytes_down: 0, answer: Err(reason), fault, misfit: None }
        };
        let order = match order {
            Ok(order) => order,
            Err(reason) => return arrival(unasked(DropReason::NoInstructions(reason), None)),
        };
        if fault == Some(ClientFault::Offline) {
            return arrival(unasked(DropReason::Offline, fault));
        }
        let question = |attempt, reply| {
            ClientMessage::Train(TrainOrder { id: RequestId { round, attempt }, ..order.clone() }, reply)
        };
        let (attempt, answer) = address.ask_with_retry(max_attempts, Some(limit), question).await;
        let id = RequestId { round, attempt };
        // Of a death only those who wait for the dead can tell.
        let has_died = attempt > Attempt::FIRST || matches!(answer, Answer::Died(_));
        let death = fault.filter(|&fault| fault == ClientFault::Crash && has_died);
        let answer = match answer {
            Answer::Reply(report) => Ok(report),
            Answer::TimedOut => {
                address.tell(ClientMessage::Abandon(id));
                Err(DropReason::TimedOut)
            }
            Answer::Died(_) => Err(DropReason::Crashed),
        };
        let bytes_down = u64::from(attempt.0) * order.size_bytes();
        let fault = death.or(answer.as_ref().ok().and_then(|report| report.fault));
        arrival(Reported { client, id, bytes_down, answer, fault, misfit: None })
    }
}
