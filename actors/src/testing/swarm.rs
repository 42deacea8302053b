//! Search by seed: each seed draws a federation, which is run, repeated in another order of replies, interrupted and resumed, and
//! checked for every [`Invariant`].

mod draw;
mod sabotage;
mod watch;

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{MemoryStore, Rehearsal};
use crate::{
    compute::panic_text,
    federation::{FederationError, Ports, StartState, run_federation},
    predicates::{Evidence, Invariant, Occasion, Rerun, RunTerms, RunTrace, Violation, Witnesses},
    protocol::RoundId,
};

pub use draw::Drawn;
pub use sabotage::Sabotage;

use draw::{Interruption, Pace};
use watch::{CancelsAt, Watch};

/// Result of a seed.
#[derive(Debug)]
pub struct Trial {
    /// The drawn federation.
    pub drawn: Drawn,
    /// The invariants that do not hold.
    pub violations: Vec<Violation>,
    /// Error of the first run, if it failed.
    pub failure: Option<String>,
    /// Number of rounds of all three runs.
    pub rounds: u32,
}

impl Trial {
    /// Returns whether every invariant holds.
    pub const fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.failure.is_none()
    }
}

/// Draws the federation of `seed`, runs it, and checks `invariants`; with a sabotage one of them is broken on purpose.
pub async fn try_seed(seed: u64, invariants: &[Invariant], sabotage: Option<Sabotage>) -> Trial {
    let drawn = Drawn::of(seed);
    let mut trial = Trial { drawn, violations: Vec::new(), failure: None, rounds: 0 };
    match run_thrice(&trial.drawn, sabotage).await {
        Ok(evidence) => {
            trial.rounds = trial.drawn.rounds * 3;
            for evidence in &evidence {
                trial.violations.extend(invariants.iter().filter_map(|invariant| invariant.check(evidence).err()));
            }
        }
        Err(failure) => trial.failure = Some(failure),
    }
    trial
}

/// Like [`try_seed`], in a thread of its own: a seed that panics, or has not ended after `limit`, is a failure. The thread of a seed
/// that hangs is left behind.
pub fn try_seed_within(seed: u64, invariants: &[Invariant], sabotage: Option<Sabotage>, limit: Duration) -> Trial {
    let invariants = invariants.to_vec();
    let tried = within(limit, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| format!("it has no runtime: {error}"))?;
        Ok(runtime.block_on(try_seed(seed, &invariants, sabotage)))
    });
    let failed = |failure| Trial { drawn: Drawn::of(seed), violations: Vec::new(), failure: Some(failure), rounds: 0 };
    tried.and_then(|tried| tried).unwrap_or_else(failed)
}

/// Returns what `work` computes, or in words why it did not.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, done) = mpsc::channel();
    let worker = thread::spawn(move || {
        let is_awaited = sender.send(work()).is_ok();
        drop(sender);
        is_awaited
    });
    match done.recv_timeout(limit) {
        Ok(result) => Ok(result),
        Err(RecvTimeoutError::Timeout) => Err(format!("it has not ended within {limit:?}")),
        Err(RecvTimeoutError::Disconnected) => {
            let text = worker.join().err().map(|payload| panic_text(payload.as_ref()));
            Err(format!("it panicked: {}", text.unwrap_or_default()))
        }
    }
}

/// Returns the evidence of the run, with its repetitions, and that of the reordered run.
async fn run_thrice(drawn: &Drawn, sabotage: Option<Sabotage>) -> Result<Vec<Evidence>, String> {
    let mut first = run_whole(drawn, Pace::First, sabotage).await?;
    let second = run_whole(drawn, Pace::Second, sabotage).await;
    let reordered = second.as_ref().map(|evidence| evidence.trace.clone()).map_err(Clone::clone);
    first.reruns.push(Rerun { occasion: Occasion::Reordered, trace: reordered });
    first.reruns.push(run_interrupted(drawn, sabotage).await);
    Ok(std::iter::once(first).chain(second.ok()).collect())
}

async fn run_whole(drawn: &Drawn, pace: Pace, sabotage: Option<Sabotage>) -> Result<Evidence, String> {
    let watch = Watch::new(sabotage);
    let rehearsal = drawn.rehearsal(pace);
    let ended = run(&rehearsal, watch.ports(&rehearsal, drawn, pace), rehearsal.start()).await;
    ended.map_err(|error| format!("the run ended with: {error}"))?;
    let witnesses = watch.witnesses(&rehearsal);
    Ok(Evidence { witnesses: Some(witnesses), ..rehearsal.evidence() })
}

/// Interrupts a run at the drawn moment and resumes it from the drawn round.
async fn run_interrupted(drawn: &Drawn, sabotage: Option<Sabotage>) -> Rerun {
    let mut cut = drawn.rehearsal(Pace::Second);
    let Interruption { event, fails_in, checkpoint_takes, .. } = drawn.interruption;
    (cut.store.fails_in, cut.store.checkpoint_takes) = (fails_in, checkpoint_takes);
    let mut ports = Watch::new(sabotage).ports(&cut, drawn, Pace::Second);
    ports.observer = CancelsAt::event(event, cut.events.clone(), cut.cancel.clone());
    let ended = run(&cut, ports, cut.start()).await;
    let stored = cut.store.stored();
    let after = RoundId((stored.rounds.len() as u32).saturating_sub(drawn.interruption.rounds_back));
    let trace = match ended {
        Ok(()) | Err(FederationError::Cancelled | FederationError::Store { .. }) => {
            resume(drawn, &cut, after, sabotage).await
        }
        Err(error) => Err(format!("the run that was to be interrupted ended with: {error}")),
    };
    Rerun { occasion: Occasion::Resumed(after), trace }
}

/// Resumes an interrupted run after a round.
async fn resume(
    drawn: &Drawn,
    cut: &Rehearsal,
    after: RoundId,
    sabotage: Option<Sabotage>,
) -> Result<RunTrace, String> {
    let stored = cut.store.stored();
    let (rows, states) = (stored.rounds.len(), stored.checkpoints.len());
    if rows != states {
        return Err(format!("its store is not at rest: it has {rows} rows of rounds and {states} checkpoints"));
    }
    let mut rest = drawn.rehearsal(Pace::First);
    rest.store = cut.store.until(after);
    let start = stored.checkpoints.into_iter().find(|state| state.round == after).unwrap_or_else(|| rest.start());
    let ports = Watch::new(sabotage).ports(&rest, drawn, Pace::First);
    run(&rest, ports, start).await.map_err(|error| format!("resumed, it ended with: {error}"))?;
    Ok(rest.evidence().trace)
}

async fn run(rehearsal: &Rehearsal, ports: Ports, start: StartState) -> Result<(), FederationError> {
    run_federation(rehearsal.config.clone(), ports, start, rehearsal.cancel.clone()).await.map(drop)
}

impl MemoryStore {
    /// Returns a store with the content that this one had after `round`.
    fn until(&self, round: RoundId) -> Self {
        let store = self.memories_after(round);
        let mut stored = self.stored();
        stored.checkpoints.retain(|state| state.round <= round);
        stored.rounds.retain(|record| record.round <= round);
        stored.clients.retain(|record| record.round <= round);
        let memories = std::mem::take(&mut super::lock(&store.stored).memories);
        *super::lock(&store.stored) = super::Stored { memories, ..stored };
        store
    }
}

impl Rehearsal {
    /// Returns the evidence of its run: stored rows and states, and events.
    pub fn evidence(&self) -> Evidence {
        let stored = self.store.stored();
        let trace = RunTrace {
            start_sha256: Some(self.start().global.sha256()),
            rounds: stored.rounds,
            clients: stored.clients,
            checkpoints: stored.checkpoints,
            memories: stored.memories,
            adapter: None,
        };
        let terms = Some(RunTerms::from(&self.config));
        Evidence { terms, trace, events: self.events.events(), ..Evidence::default() }
    }

    /// Checks every invariant against the evidence of a run from its start.
    ///
    /// # Errors
    ///
    /// The first [`Violation`].
    pub fn check_invariants(&self) -> Result<(), Violation> {
        let evidence = self.evidence();
        Invariant::ALL.into_iter().try_for_each(|invariant| invariant.check(&evidence).map(drop))
    }
}
