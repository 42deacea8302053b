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
    protocol::{
        ChatRow, RowDigest, Verdict,
        messages::{AssessRequest, Assessment, GuardMessage},
    },
};

/// The actor that screens clients' rows. It stands for the filter that the server hands out: what it is shown stays here.
#[derive(Clone, Copy)]
pub(crate) struct Guard;

/// Verdicts by guard version and row (invariant S-2). Outlives the actor, so that a restart computes nothing twice.
#[derive(Clone, Debug, Default)]
pub(crate) struct VerdictCache(Arc<Mutex<HashMap<(Arc<str>, RowDigest), Verdict>>>);

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
}

struct Waiting {
    digests: Vec<RowDigest>,
    reply: RpcReplyPort<Assessment>,
}

impl GuardState {
    pub(crate) fn new(args: GuardArgs) -> Self {
        Self { args, in_flight: HashSet::new(), waiting: Vec::new(), batches: Vec::new() }
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
            GuardMessage::Assess(request, reply) => state.assess(&myself, request, reply).await?,
            GuardMessage::BatchDone(digests, result) => state.end_batch(&digests, result?),
        }
        Ok(())
    }
}

impl GuardState {
    async fn assess(
        &mut self,
        myself: &ActorRef<GuardMessage>,
        request: AssessRequest,
        reply: RpcReplyPort<Assessment>,
    ) -> Result<(), Panicked> {
        tracing::trace!(client = %request.client, ticket = ?request.ticket, rows = request.rows.len(), "rows to assess");
        let rows = Arc::clone(&request.rows);
        // The guard digests rows itself: a client's word for them would let it pass one row off as another.
        let digests: Vec<RowDigest> =
            self.args.compute.run_without_slot(move |_| rows.iter().map(ChatRow::digest).collect()).await?;
        let (batch, batch_rows) = self.missing(&digests, &request.rows);
        if !batch.is_empty() {
            self.start_batch(myself, batch, batch_rows);
        }
        self.waiting.push(Waiting { digests, reply });
        self.answer_complete();
        Ok(())
    }

    fn start_batch(&mut self, myself: &ActorRef<GuardMessage>, digests: Arc<[RowDigest]>, rows: Vec<ChatRow>) {
        self.in_flight.extend(digests.iter());
        let (args, myself, batch) = (self.args.clone(), myself.clone(), Arc::clone(&digests));
        let work = AbortOnDrop::spawn(async move {
            let assessed = args.compute.run(move |cancel| args.model.assess(&rows, cancel));
            let result = tokio::time::timeout(args.limit, assessed).await.unwrap_or_else(|_| {
                Ok(Err(PortError::Failed(format!("the guard gave no verdict within {:?}", args.limit))))
            });
            let _ = myself.cast(GuardMessage::BatchDone(batch, result));
        });
        self.batches.push((digests, work));
    }

    /// Takes up a batch's verdicts, or fails every request that needs one of them (invariant S-1).
    fn end_batch(&mut self, batch: &Arc<[RowDigest]>, result: PortResult<Vec<Verdict>>) {
        self.batches.retain(|(digests, _)| !Arc::ptr_eq(digests, batch));
        for digest in batch.iter() {
            self.in_flight.remove(digest);
        }
        match result.map_err(|error| error.to_string()).and_then(|verdicts| checked(verdicts, batch.len())) {
            Ok(verdicts) => {
                let version = self.version();
                self.cache().extend(batch.iter().map(|&digest| (Arc::clone(&version), digest)).zip(verdicts));
                self.answer_complete();
            }
            Err(reason) => self.fail_those_waiting_for(batch, &reason),
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

    fn cache(&self) -> MutexGuard<'_, HashMap<(Arc<str>, RowDigest), Verdict>> {
        self.args.cache.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that answers for the wrong number of rows, or with a probability that is no number, has not answered.
fn checked(verdicts: Vec<Verdict>, rows: usize) -> Result<Vec<Verdict>, String> {
    if verdicts.len() != rows {
        return Err(format!("the guard gave {} verdicts for {rows} rows", verdicts.len()));
    }
    match verdicts.iter().find(|verdict| !(0.0..=1.0).contains(&verdict.unsafe_probability)) {
        Some(verdict) => Err(format!("the guard gave {} as a probability", verdict.unsafe_probability)),
        None => Ok(verdicts),
    }
}
