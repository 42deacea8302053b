//! The guard: one verdict a row, computed once a guard version, or none at all.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    compute::{AbortOnDrop, Compute, Panicked},
    ports::{GuardModel, PortError, PortResult},
    protocol::{AssessOrder, Assessment, ChatRow, RowDigest, Verdict},
};

/// To the guard.
#[derive(Debug)]
pub(crate) enum GuardMessage {
    /// Which of these rows are unsafe?
    Assess(AssessOrder, RpcReplyPort<Assessment>),
    /// From its own work: a batch is done.
    BatchDone(Arc<[RowDigest]>, Result<PortResult<()>, Panicked>),
}

/// The actor that screens clients' rows. It stands for the filter that the server hands out: what it is shown stays here.
#[derive(Clone, Copy)]
pub(crate) struct Guard;

/// How often a client asks a guard that dies before it has looked at the question: over the client's own rows it dies with an answer.
pub(crate) const ATTEMPTS: u32 = 3;

/// Verdicts by guard version and row (invariant S-2). Outlives the actor, so that a restart computes nothing twice.
#[derive(Clone, Debug, Default)]
pub(crate) struct VerdictCache(Arc<Mutex<Verdicts>>);

type Verdicts = HashMap<(Arc<str>, RowDigest), Verdict>;

/// What a guard starts with.
#[derive(Clone)]
pub(crate) struct GuardArgs {
    pub(crate) model: Arc<dyn GuardModel>,
    pub(crate) compute: Compute,
    pub(crate) cache: VerdictCache,
    /// How long one batch may take before it is given up.
    pub(crate) limit: Duration,
}

pub(crate) struct GuardState {
    args: GuardArgs,
    /// Rows that a batch at hand will give verdicts for: not asked for again meanwhile.
    in_flight: HashSet<RowDigest>,
    /// Requests that wait for batches, their own or another's.
    waiting: Vec<Waiting>,
    /// Batches at hand by the rows that they began with; dropped with the actor, which cancels them.
    batches: Vec<(Arc<[RowDigest]>, AbortOnDrop)>,
    /// What a model died of: the actor does so, too, once nobody waits for its other batches. Who is told of a death must not
    /// depend on who else was being served (invariant D-1).
    broken: Option<Panicked>,
}

/// What those are told whose rows a model died of.
pub(crate) const STOPPED: &str = "the guard stopped while it assessed the rows";

struct Waiting {
    digests: Vec<RowDigest>,
    reply: RpcReplyPort<Assessment>,
}

impl GuardState {
    pub(crate) fn new(args: GuardArgs) -> Self {
        Self { args, in_flight: HashSet::new(), waiting: Vec::new(), batches: Vec::new(), broken: None }
    }
}

impl Actor for Guard {
    type Msg = GuardMessage;
    type State = GuardState;
    type Arguments = GuardArgs;

    async fn pre_start(&self, _: ActorRef<GuardMessage>, args: GuardArgs) -> Result<GuardState, ActorProcessingErr> {
        Ok(GuardState::new(args))
    }

    async fn handle(
        &self,
        myself: ActorRef<GuardMessage>,
        message: GuardMessage,
        state: &mut GuardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GuardMessage::Assess(order, reply) => state.assess(&myself, order, reply).await?,
            GuardMessage::BatchDone(digests, result) => state.end_batch(&digests, result),
        }
        // Without a batch at hand nobody waits.
        match state.broken.take_if(|_| state.batches.is_empty()) {
            Some(panicked) => Err(panicked.into()),
            None => Ok(()),
        }
    }
}

impl GuardState {
    async fn assess(
        &mut self,
        myself: &ActorRef<GuardMessage>,
        order: AssessOrder,
        reply: RpcReplyPort<Assessment>,
    ) -> Result<(), Panicked> {
        tracing::trace!(client = %order.client, id = ?order.id, rows = order.rows.len(), "rows to assess");
        let rows = Arc::clone(&order.rows);
        // The guard digests rows itself: a client's word for them would let it pass one row off as another.
        let digests: Vec<RowDigest> =
            self.args.compute.run_without_slot(move |_| rows.iter().map(ChatRow::digest).collect()).await?;
        let (batch, batch_rows) = self.missing(&digests, &order.rows);
        if !batch.is_empty() {
            self.start_batch(myself, batch, batch_rows);
        }
        self.waiting.push(Waiting { digests, reply });
        self.answer_complete();
        Ok(())
    }

    fn start_batch(&mut self, myself: &ActorRef<GuardMessage>, digests: Arc<[RowDigest]>, rows: Vec<ChatRow>) {
        self.in_flight.extend(digests.iter());
        let (myself, batch, kept) = (myself.clone(), Arc::clone(&digests), Arc::clone(&digests));
        let GuardArgs { model, compute, cache, limit } = self.args.clone();
        let work = AbortOnDrop::spawn(async move {
            // Verdicts are kept by the thread that computed them: an actor that dies meanwhile would lose the message.
            let assessed = compute.run(move |cancel| {
                let verdicts = checked(model.assess(&rows, cancel)?, rows.len())?;
                cache.extend(model.version(), &kept, verdicts);
                Ok(())
            });
            let result = tokio::time::timeout(limit, assessed)
                .await
                .unwrap_or_else(|_| Ok(Err(PortError::Failed(format!("the guard gave no verdict within {limit:?}")))));
            let _ = myself.cast(GuardMessage::BatchDone(batch, result));
        });
        self.batches.push((digests, work));
    }

    /// Answers who waited for a batch's verdicts, or fails every request that needs one of them (invariant S-1).
    fn end_batch(&mut self, batch: &Arc<[RowDigest]>, result: Result<PortResult<()>, Panicked>) {
        self.batches.retain(|(digests, _)| !Arc::ptr_eq(digests, batch));
        for digest in batch.iter() {
            self.in_flight.remove(digest);
        }
        match result {
            Ok(Ok(())) => self.answer_complete(),
            Ok(Err(error)) => self.fail_those_waiting_for(batch, &error.to_string()),
            Err(panicked) => {
                self.fail_those_waiting_for(batch, STOPPED);
                self.broken = Some(panicked);
            }
        }
    }

    /// The rows without a verdict known or under way, each once.
    fn missing(&self, digests: &[RowDigest], rows: &[ChatRow]) -> (Arc<[RowDigest]>, Vec<ChatRow>) {
        let version = self.version();
        let cache = self.cache();
        let mut seen = HashSet::new();
        let missing = digests.iter().zip(rows).filter(|&(&digest, _)| {
            !self.in_flight.contains(&digest)
                && !cache.contains_key(&(Arc::clone(&version), digest))
                && seen.insert(digest)
        });
        let (digests, rows): (Vec<RowDigest>, Vec<ChatRow>) =
            missing.map(|(digest, row)| (*digest, row.clone())).unzip();
        (digests.into(), rows)
    }

    /// Answers every request whose verdicts are all known.
    fn answer_complete(&mut self) {
        let version = self.version();
        for request in std::mem::take(&mut self.waiting) {
            let verdict = |&digest: &RowDigest| self.cache().get(&(Arc::clone(&version), digest)).cloned();
            match request.digests.iter().map(verdict).collect::<Option<Vec<Verdict>>>() {
                Some(verdicts) => drop(request.reply.send(Ok(verdicts))),
                None => self.waiting.push(request),
            }
        }
    }

    fn fail_those_waiting_for(&mut self, batch: &[RowDigest], reason: &str) {
        let batch: HashSet<&RowDigest> = batch.iter().collect();
        for request in std::mem::take(&mut self.waiting) {
            if request.digests.iter().any(|digest| batch.contains(digest)) {
                let _ = request.reply.send(Err(reason.to_owned()));
            } else {
                self.waiting.push(request);
            }
        }
    }

    fn version(&self) -> Arc<str> {
        self.args.model.version().into()
    }

    fn cache(&self) -> MutexGuard<'_, Verdicts> {
        self.args.cache.lock()
    }
}

impl VerdictCache {
    fn lock(&self) -> MutexGuard<'_, Verdicts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, version: &str, digests: &[RowDigest], verdicts: Vec<Verdict>) {
        let version: Arc<str> = version.into();
        self.lock().extend(digests.iter().map(|&digest| (Arc::clone(&version), digest)).zip(verdicts));
    }
}

/// A guard that answers for the wrong number of rows, or with a probability that is no number, has not answered.
fn checked(verdicts: Vec<Verdict>, rows: usize) -> PortResult<Vec<Verdict>> {
    if verdicts.len() != rows {
        return Err(PortError::Failed(format!("the guard gave {} verdicts for {rows} rows", verdicts.len())));
    }
    match verdicts.iter().find(|verdict| !(0.0..=1.0).contains(&verdict.unsafe_probability)) {
        Some(verdict) => {
            Err(PortError::Failed(format!("the guard gave {} as a probability", verdict.unsafe_probability)))
        }
        None => Ok(verdicts),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        cancel::CancelFlag,
        testing::{Conduct, FakeGuard},
    };

    fn verdict(unsafe_probability: f32) -> Verdict {
        Verdict::of_probability(unsafe_probability.into(), 0.5)
    }

    fn state() -> GuardState {
        GuardState::new(GuardArgs {
            model: Arc::new(FakeGuard::new(|_| Conduct::Honest)),
            compute: Compute::new(1, CancelFlag::new(), Duration::from_secs(1)),
            cache: VerdictCache::default(),
            limit: Duration::from_secs(1),
        })
    }

    fn rows(names: &[&str]) -> (Vec<ChatRow>, Vec<RowDigest>) {
        let rows: Vec<ChatRow> = names.iter().map(|&name| ChatRow::single_turn(name, "answer")).collect();
        let digests = rows.iter().map(ChatRow::digest).collect();
        (rows, digests)
    }

    #[test]
    fn s_1_an_answer_of_the_wrong_size_or_without_a_probability_is_none() {
        assert!(checked(vec![verdict(0.0), verdict(1.0)], 2).is_ok());
        assert!(checked(vec![verdict(0.0)], 2).is_err());
        for no_probability in [f32::NAN, f32::INFINITY, -0.1, 1.1] {
            assert!(checked(vec![verdict(no_probability)], 1).is_err(), "{no_probability}");
        }
    }

    #[test]
    fn s_2_rows_known_under_way_or_repeated_are_not_asked_for() {
        let mut state = state();
        let (rows, digests) = rows(&["known", "under way", "new", "new"]);
        state.cache().insert(("fake-1".into(), digests[0]), verdict(0.0));
        state.in_flight.insert(digests[1]);
        let (batch, batch_rows) = state.missing(&digests, &rows);
        assert_eq!((&*batch, batch_rows), (&digests[2..3], rows[2..3].to_vec()));
    }

    #[test]
    fn s_1_a_failed_batch_fails_whoever_needs_it_and_nobody_else() {
        let mut state = state();
        let (_, digests) = rows(&["one", "two"]);
        let (needs_both, mut both) = oneshot::channel();
        let (needs_two, mut two) = oneshot::channel();
        state.waiting.push(Waiting { digests: digests.clone(), reply: needs_both.into() });
        state.waiting.push(Waiting { digests: digests[1..].to_vec(), reply: needs_two.into() });
        state.end_batch(&digests[..1].into(), Ok(Err(PortError::Failed("out of memory".to_owned()))));
        assert_eq!(both.try_recv().unwrap(), Err("out of memory".to_owned()));
        assert!(two.try_recv().is_err());
        state.args.cache.extend("fake-1", &digests[1..], vec![verdict(0.9)]);
        state.end_batch(&digests[1..].into(), Ok(Ok(())));
        assert_eq!(two.try_recv().unwrap(), Ok(vec![verdict(0.9)]));
        assert!(state.waiting.is_empty());
    }

    #[test]
    fn d_1_a_model_that_dies_over_some_rows_keeps_nobody_else_from_verdicts() {
        let mut state = state();
        let (_, digests) = rows(&["deadly", "harmless"]);
        let (needs_deadly, mut deadly) = oneshot::channel();
        let (needs_harmless, mut harmless) = oneshot::channel();
        state.waiting.push(Waiting { digests: digests[..1].to_vec(), reply: needs_deadly.into() });
        state.waiting.push(Waiting { digests: digests[1..].to_vec(), reply: needs_harmless.into() });
        state.end_batch(&digests[..1].into(), Err(Panicked("at the disco".to_owned())));
        assert_eq!(deadly.try_recv().unwrap(), Err(STOPPED.to_owned()));
        assert!(state.broken.is_some() && harmless.try_recv().is_err());
        state.args.cache.extend("fake-1", &digests[1..], vec![verdict(0.1)]);
        state.end_batch(&digests[1..].into(), Ok(Ok(())));
        assert_eq!(harmless.try_recv().unwrap(), Ok(vec![verdict(0.1)]));
    }
}
