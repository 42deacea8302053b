//! Ports that record what passes through them, and that carry the deliberate bugs.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use super::{
    super::{EventLog, Rehearsal, lock},
    Sabotage, Witnesses,
    draw::{Drawn, Pace},
    sabotage::{Hoards, LosesInStore, Tampered, with_own_row},
};
use crate::{
    cancel::CancelFlag,
    federation::Ports,
    policy::{Assessed, RowGuard, VerdictOrder},
    ports::{
        Adversary, Candidate, ClientRows, ClientUpdate, GuardModel, Judgement, LocalTrainer, LocalTraining, Observer,
        PortError, PortResult, Strategy, TrainTask, UpdateScreen,
    },
    predicates::{Aggregated, Judged},
    protocol::{Adapter, ChatMessage, ChatRow, ClientId, GlobalModel, Payload, RoundId, RowLabel, TrainRows, Verdict},
    records::{ClientRole, RoundEvent},
    screening::distance,
    testing::Conduct,
};

/// Observations of one run, shared by its ports.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    sabotage: Option<Sabotage>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    witnesses: Witnesses,
    /// Prompts of the rows that the guard has assessed.
    assessed: HashSet<Vec<ChatMessage>>,
    /// Finished trainings, in order of completion.
    pub(super) trained: Vec<(RoundId, ClientId)>,
}

impl Watch {
    pub(super) fn new(sabotage: Option<Sabotage>) -> Self {
        Self { seen: Arc::default(), sabotage }
    }

    pub(super) fn is_sabotaged(&self, by: Sabotage) -> bool {
        self.sabotage == Some(by)
    }

    pub(super) fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Returns the ports of a rehearsal, wrapped.
    pub(super) fn ports(&self, rehearsal: &Rehearsal, drawn: &Drawn, pace: Pace) -> Ports {
        let (mut ports, watch) = (rehearsal.ports(), || self.clone());
        let is_guarded = drawn.guard.is_some();
        ports.trainer =
            Arc::new(WatchedTrainer { inner: ports.trainer, watch: watch(), drawn: drawn.clone(), pace, is_guarded });
        ports.guard = drawn.guard.clone().map(|policy| RowGuard {
            model: Arc::new(WatchedGuard { drawn: drawn.clone(), watch: watch() }),
            assessed: Assessed::Both,
            verdicts: VerdictOrder::Own,
            policy,
        });
        ports.screen =
            ports.screen.map(|inner| Arc::new(WatchedScreen { inner, watch: watch() }) as Arc<dyn UpdateScreen>);
        ports.adversary =
            drawn.adversary.map(|(share, conduct)| Arc::new(SignFlip { drawn: drawn.clone(), share, conduct }) as _);
        let (strategy, watched) = (ports.strategy, self.clone());
        ports.strategy = Arc::new(move || watched.strategy(strategy()));
        if self.is_sabotaged(Sabotage::HoardsRows) {
            ports.rows = Arc::new(Hoards::new(ports.rows)) as Arc<dyn ClientRows>;
        }
        if let Some(sabotage) = self.sabotage {
            ports.store = Box::new(LosesInStore { store: rehearsal.store.clone(), sabotage });
        }
        ports
    }

    fn strategy(&self, inner: Box<dyn Strategy>) -> Box<dyn Strategy> {
        let inner = Box::new(WatchedStrategy { inner, watch: self.clone() });
        match self.sabotage {
            Some(sabotage) => Box::new(Tampered { inner, watch: self.clone(), sabotage }),
            None => inner,
        }
    }

    /// Returns the observations of a rehearsal's run.
    pub(super) fn witnesses(&self, rehearsal: &Rehearsal) -> Witnesses {
        Witnesses {
            slots: rehearsal.config.slots,
            peak_training: rehearsal.trainer.peak(),
            peak_rows: rehearsal.rows.peak_held(),
            ..self.seen().witnesses.clone()
        }
    }
}

/// Observer that cancels the run at the n-th event.
pub(super) struct CancelsAt {
    event: u32,
    seen: AtomicU32,
    log: EventLog,
    cancel: CancelFlag,
}

impl CancelsAt {
    pub(super) fn event(event: u32, log: EventLog, cancel: CancelFlag) -> Arc<Self> {
        Arc::new(Self { event, seen: AtomicU32::new(0), log, cancel })
    }
}

impl Observer for CancelsAt {
    fn observe(&self, event: &RoundEvent) {
        self.log.observe(event);
        if self.seen.fetch_add(1, Ordering::SeqCst) == self.event {
            self.cancel.cancel();
        }
    }
}

struct WatchedTrainer {
    inner: Arc<dyn LocalTrainer>,
    watch: Watch,
    drawn: Drawn,
    pace: Pace,
    is_guarded: bool,
}

impl LocalTrainer for WatchedTrainer {
    fn train(&self, task: &TrainTask, rows: &TrainRows, cancel: &CancelFlag) -> PortResult<LocalTraining> {
        let (round, client) = (task.round, task.client);
        let own = self.watch.is_sabotaged(Sabotage::TrainsUnscreened).then(|| with_own_row(rows));
        let rows = own.as_ref().unwrap_or(rows);
        if self.is_guarded {
            let mut seen = self.watch.seen();
            let unscreened = rows.rows().iter().filter(|row| !seen.assessed.contains(row.prompt())).count() as u32;
            *seen.witnesses.unscreened.entry((round, client)).or_default() += unscreened;
        }
        thread::sleep(self.drawn.delay(self.pace, client, round));
        let trained = self.inner.train(task, rows, cancel);
        self.watch.seen().trained.push((round, client));
        trained
    }
}

/// Guard that knows every label and fails on the rows of some clients.
struct WatchedGuard {
    drawn: Drawn,
    watch: Watch,
}

impl WatchedGuard {
    /// Returns the behavior for rows, which are all of one client.
    fn conduct(&self, rows: &[ChatRow]) -> Conduct {
        let asked = rows.first().and_then(|row| row.messages.first()).map_or("", |message| message.content.as_str());
        let client = asked.rsplit(' ').next().unwrap_or_default();
        self.drawn.assessing.befalls(self.drawn.seed, &format!("assessing rows of {client}"), 1)
    }
}

impl GuardModel for WatchedGuard {
    fn version(&self) -> &'static str {
        "watched-1"
    }

    fn assess(&self, rows: &[ChatRow], cancel: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let conduct = self.conduct(rows);
        conduct.act(cancel)?;
        let mut seen = self.watch.seen();
        // What is no verdict for every row is none.
        let is_complete = !matches!(conduct, Conduct::WrongShape | Conduct::NotFinite);
        for row in rows.iter().filter(|_| is_complete) {
            let times = if self.watch.is_sabotaged(Sabotage::AssessesTwice) { 2 } else { 1 };
            *seen.witnesses.assessed.entry(row.digest()).or_default() += times;
            seen.assessed.insert(row.prompt().to_vec());
        }
        let verdict = |row: &ChatRow| {
            let is_unsafe = row.label == Some(RowLabel::Unsafe);
            let probability = if conduct == Conduct::NotFinite { f64::NAN } else { 0.8 * f64::from(is_unsafe) };
            Verdict { is_unsafe, ..Verdict::of_probability(probability, 0.5) }
        };
        let shown = rows.len().saturating_sub(usize::from(conduct == Conduct::WrongShape));
        Ok(rows[..shown].iter().map(verdict).collect())
    }
}

struct WatchedScreen {
    inner: Arc<dyn UpdateScreen>,
    watch: Watch,
}

impl UpdateScreen for WatchedScreen {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn judge(
        &self,
        round: RoundId,
        global: &Adapter,
        candidates: &[Candidate<'_>],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<Judgement>> {
        let judgements = self.inner.judge(round, global, candidates, cancel)?;
        let mut seen = self.watch.seen();
        for (candidate, judgement) in candidates.iter().zip(&judgements) {
            let judged = Judged { delta_norm: candidate.delta_norm, judgement: judgement.clone() };
            seen.witnesses.judged.insert((round, candidate.update.client), judged);
        }
        Ok(judgements)
    }
}

struct WatchedStrategy {
    inner: Box<dyn Strategy>,
    watch: Watch,
}

impl Strategy for WatchedStrategy {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn instructions(&self, round: RoundId, global: &GlobalModel) -> PortResult<Payload> {
        self.inner.instructions(round, global)
    }

    fn aggregate(&mut self, round: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let measured = updates.iter().map(|update| (update.client, distance(&update.adapter, global.trainable())));
        let call = Aggregated { round, updates: measured.collect() };
        self.watch.seen().witnesses.aggregated.push(call);
        self.inner.aggregate(round, global, updates)
    }

    fn state(&self) -> Vec<u8> {
        self.inner.state()
    }

    fn restore(&mut self, state: &[u8]) -> PortResult<()> {
        self.inner.restore(state)
    }

    fn report(&self) -> std::collections::BTreeMap<String, f64> {
        self.inner.report()
    }
}

/// Malicious clients that negate their deltas, or whose attack fails.
struct SignFlip {
    drawn: Drawn,
    share: f64,
    conduct: Conduct,
}

impl Adversary for SignFlip {
    fn role(&self, client: ClientId) -> ClientRole {
        if self.drawn.is_in(self.share, "malicious", client) { ClientRole::Malicious } else { ClientRole::Honest }
    }

    fn forge(
        &self,
        _: RoundId,
        global: &Adapter,
        updates: &[ClientUpdate],
        cancel: &CancelFlag,
    ) -> PortResult<Vec<(ClientId, Adapter)>> {
        self.conduct.act(cancel)?;
        let own = updates.iter().filter(|update| self.role(update.client) == ClientRole::Malicious);
        let flipped = |update: &ClientUpdate| {
            let numbers = global.values().iter().zip(update.adapter.values());
            let values = numbers.map(|(global, local)| 2.0 * global - local).collect();
            let adapter = Adapter::new(Arc::clone(global.layout()), values);
            Ok((update.client, adapter.map_err(|error| PortError::Failed(error.to_string()))?))
        };
        own.map(flipped).collect()
    }
}
