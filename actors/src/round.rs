//! The round, top to bottom.

use std::{collections::BTreeMap, sync::Arc};

use ractor::{Message, RpcReplyPort};
use tokio::time::Instant;

use crate::{
    address::{Address, Answer, Question, ask},
    aggregator::AggregatorMessage,
    collusion::collude,
    coordinator::Server,
    faults::ServerFault,
    federation::{FederationError, Schedule},
    ledger::{self, Delivered, Reported, Traffic},
    ports::{ClientUpdate, Evaluation, EvaluationScope, PortError, PortResult, RealignmentReport},
    protocol::{
        Attempt, ClientId, GlobalModel, ModelParts, ModelVersion, Payload, RequestId, RoundId, TrainOrder,
        server::{
            AggregateOrder, Aggregation, CommitOrder, EvaluateOrder, InstructOrder, RealignOrder, ScreenOrder,
            StrategyState,
        },
    },
    records::{
        ClientOutcome, ClientRecord, ClientRole, Phase, PhaseSeconds, RejectReason, RoundEvent, RoundOutcome,
        RoundRecord,
    },
    supervisor::SupervisorMessage,
    transport::{Arrival, Dispatch},
};

/// One round of the federation, from choosing its cohort to storing what it leaves behind.
///
/// Whatever befalls clients, guard, aggregation, realignment or evaluation is an outcome or a warning of the round. Only
/// cancellation, a store that fails or a bug ends it here; the server is then as it was before the round.
pub(crate) async fn run_round(server: &mut Server, round: RoundId) -> Result<(), FederationError> {
    let mut took = PhaseSeconds::default();

    let cohort = timed(&mut took.select, server.select(round)).await?;
    timed(&mut took.broadcast, server.broadcast(round, cohort)).await?;
    let gathered = timed(&mut took.train, server.collect(round)).await?;
    let screened = timed(&mut took.screen, server.screen(round, gathered)).await?;
    let aggregated = timed(&mut took.aggregate, server.aggregate(round, &screened)).await?;
    let aligned = timed(&mut took.align, server.align(round, &aggregated)).await?;
    let evaluated = timed(&mut took.evaluate, server.evaluate(round, &aligned)).await?;

    server.commit(round, took, screened, aggregated, aligned, evaluated).await
}

/// What came back from clients, in order of client.
struct Gathered {
    reports: Vec<Reported>,
    traffic: Traffic,
    /// Server steps between what each started from and the global adapter at hand.
    staleness: BTreeMap<ClientId, u32>,
}

/// Every selected client's outcome, and the updates of those accepted, both in order of client.
struct Screened {
    clients: Vec<ClientRecord>,
    updates: Vec<ClientUpdate>,
    /// What the clients of those updates remember, if the round is committed.
    memories: Vec<(ClientId, Arc<[u8]>)>,
    traffic: Traffic,
}

/// The round's outcome, and the model and strategy that it leaves: those before the round unless it is committed.
struct Aggregated {
    outcome: RoundOutcome,
    global: GlobalModel,
    strategy: StrategyState,
    update_norm: Option<f64>,
    report: BTreeMap<String, f64>,
    fault: Option<ServerFault>,
}

/// The model after realignment: as aggregated where there was none.
struct Aligned {
    global: GlobalModel,
    report: Option<RealignmentReport>,
    warnings: Vec<String>,
    fault: Option<ServerFault>,
}

/// Benchmarks of the adapter that the round leaves: none where none were due.
struct Evaluated {
    scores: Evaluation,
    warning: Option<String>,
    fault: Option<ServerFault>,
}

/// The steps, in the order of the round.
impl Server {
    /// Draws the round's cohort, of which those are left out whose work is still under way.
    #[expect(clippy::unused_async, reason = "a step of the round like every other")]
    async fn select(&self, round: RoundId) -> Result<Vec<ClientId>, FederationError> {
        let config = &self.config;
        let busy = self.transport.in_flight();
        let cohort = config.sampler.fill_up(&busy, config.seed, round, config.clients, config.cohort);
        self.observer.observe(&RoundEvent::RoundStarted { round, cohort: cohort.len() as u32 });
        self.ensure_running(cohort)
    }

    /// Brings the cohort's actors into being and sends each the global adapter with the strategy's instructions.
    async fn broadcast(&mut self, round: RoundId, cohort: Vec<ClientId>) -> Result<(), FederationError> {
        tracing::debug!(%round, clients = cohort.len(), "cohort to spawn");
        let spawn = |reply| SupervisorMessage::SpawnCohort(cohort, reply);
        let spawned = ask(&self.supervisor, spawn).await.ok_or(FederationError::ActorLost("supervisor"))?;
        let instructions = self.instructions(round).await;
        let mut parts = ModelParts::new(&self.global, self.config.ranks.as_ref());
        for (client, address) in spawned {
            let order = instructions.clone().map(|instructions| TrainOrder {
                id: RequestId::first(round),
                client,
                version: ModelVersion::at_begin_of(round),
                at: self.transport.now(),
                global: parts.of(client),
                instructions,
            });
            self.transport.dispatch(Dispatch {
                client,
                round,
                address,
                order,
                fault: self.faults.of_client(round, client),
                max_attempts: self.config.max_attempts,
                limit: self.config.client_timeout,
            });
        }
        self.ensure_running(())
    }

    /// Has clients work, as many at a time as there are compute slots, and waits for as many as the round waits for: rows
    /// exist for clients at work alone (invariant M-1), and a client's time runs only while it works.
    async fn collect(&mut self, round: RoundId) -> Result<Gathered, FederationError> {
        self.begin(round, Phase::Train);
        let notice = |arrival: &Arrival| {
            self.observer.observe(&RoundEvent::ClientReported { round, client: arrival.reported.client });
        };
        let gather = self.config.gather;
        let mut arrivals = gather.collect(self.transport.as_mut(), notice).await;
        let traffic = Traffic::of(arrivals.iter().map(|arrival| &arrival.reported));
        let staleness = arrivals
            .iter_mut()
            .map(|arrival| (arrival.reported.client, gather.rebase(arrival, round, self.global.trainable())))
            .collect();
        let mut reports: Vec<Reported> = arrivals.into_iter().map(|arrival| arrival.reported).collect();
        if let Some(adversary) = &self.adversary {
            let limit = self.config.server_timeout;
            let sent = (self.global.trainable(), self.config.ranks.as_ref());
            let acted = collude(adversary, &self.compute, limit, round, sent, &mut reports).await;
            acted.map_err(|panicked| FederationError::Bug(format!("the adversary {panicked}")))?;
        }
        self.ensure_running(Gathered { reports, traffic, staleness })
    }

    /// Settles every selected client's outcome, exactly one each (invariant R-1).
    async fn screen(&self, round: RoundId, gathered: Gathered) -> Result<Screened, FederationError> {
        let mut entries: Vec<_> =
            gathered.reports.into_iter().map(|reported| reported.resolve_outcome(round)).collect();
        for (record, _) in &mut entries {
            record.role = self.adversary.as_ref().map_or(ClientRole::Honest, |adversary| adversary.role(record.client));
            record.staleness = gathered.staleness.get(&record.client).copied().unwrap_or(0);
        }
        let updates: Vec<ClientUpdate> =
            entries.iter().filter_map(|(_, delivered)| Some(delivered.as_ref()?.update.clone())).collect();
        let order = |attempt| ScreenOrder {
            id: RequestId { round, attempt },
            global: self.global.trainable().clone(),
            updates: updates.clone(),
        };
        let question = |attempt, reply| AggregatorMessage::Screen(order(attempt), reply);
        let mut verdicts = match self.ask_with_retry(&self.actors.aggregator, question).await {
            Answer::Reply(verdicts) => verdicts.into_iter(),
            Answer::TimedOut | Answer::Died(_) => Vec::new().into_iter(),
        };
        let mut screened =
            Screened { clients: Vec::new(), updates: Vec::new(), memories: Vec::new(), traffic: gathered.traffic };
        for (mut record, delivered) in entries {
            if let Some(Delivered { update, memory }) = delivered {
                // An update without a verdict has no way in (invariant A-3).
                let unscreened = || RejectReason::ScreenUnavailable(self.died("screening"));
                let (delta_norm, verdict) = verdicts
                    .next()
                    .map_or_else(|| (None, Err(unscreened())), |screened| (screened.delta_norm, screened.verdict));
                record.update_norm = delta_norm;
                match verdict {
                    Ok(admitted) => {
                        record.clipped_to = admitted.clipped_to;
                        record.trust = admitted.trust;
                        screened.memories.extend(memory.map(|memory| (update.client, memory)));
                        screened.updates.push(ClientUpdate {
                            adapter: admitted.adapter,
                            trust: admitted.trust.unwrap_or(update.trust),
                            extras: admitted.extras,
                            ..update
                        });
                    }
                    Err(reason) => record.outcome = ClientOutcome::Rejected(reason),
                }
            }
            self.observer.observe(&RoundEvent::ClientFinished(Box::new(record.clone())));
            screened.clients.push(record);
        }
        self.ensure_running(screened)
    }

    /// Combines the accepted updates. Below quorum, or if it fails, the global adapter stays (invariant R-3).
    async fn aggregate(&self, round: RoundId, screened: &Screened) -> Result<Aggregated, FederationError> {
        self.begin(round, Phase::Aggregate);
        let order = |attempt| AggregateOrder {
            id: RequestId { round, attempt },
            quorum: self.config.quorum,
            global: self.global.clone(),
            strategy: self.strategy.clone(),
            updates: screened.updates.clone(),
        };
        let question = |attempt, reply| AggregatorMessage::Aggregate(order(attempt), reply);
        let fault = self.faults.of_server(round, ServerFault::AggregatorCrash);
        let outcome = match self.ask_with_retry(&self.actors.aggregator, question).await {
            Answer::Reply(Aggregation::Done { global, strategy, update_norm, report }) => {
                let outcome = RoundOutcome::Committed;
                return self.ensure_running(Aggregated { outcome, global, strategy, update_norm, report, fault });
            }
            Answer::Reply(Aggregation::BelowQuorum { accepted, quorum }) => {
                RoundOutcome::Skipped(format!("{accepted} updates accepted, {quorum} needed"))
            }
            Answer::Reply(Aggregation::Failed(reason)) => RoundOutcome::Failed(reason),
            Answer::TimedOut | Answer::Died(_) => RoundOutcome::Failed(self.died("aggregation")),
        };
        let (global, strategy) = (self.global.clone(), self.strategy.clone());
        let (update_norm, report) = (None, BTreeMap::new());
        self.ensure_running(Aggregated { outcome, global, strategy, update_norm, report, fault })
    }

    /// Realigns an adapter that has moved on. If that fails, the round keeps the aggregated one and says so.
    async fn align(&self, round: RoundId, aggregated: &Aggregated) -> Result<Aligned, FederationError> {
        let as_aggregated =
            |warnings| Aligned { global: aggregated.global.clone(), report: None, warnings, fault: None };
        let Some(cai) = self.actors.cai.as_ref().filter(|_| self.is_due(self.config.align, round)) else {
            return Ok(as_aggregated(Vec::new()));
        };
        if aggregated.outcome != RoundOutcome::Committed {
            return Ok(as_aggregated(vec!["not realigned: the global adapter is as it was".to_owned()]));
        }
        self.begin(round, Phase::Align);
        let question = |attempt, reply| {
            Question(RealignOrder { id: RequestId { round, attempt }, global: aggregated.global.clone() }, reply)
        };
        self.ensure_running(match self.result(self.ask_with_retry(cai, question).await, "realignment") {
            Ok(done) => {
                self.observer.observe(&RoundEvent::Realigned(Box::new(done.report.clone())));
                let global = aggregated.global.with_trainable(done.adapter);
                Aligned { global, report: Some(done.report), warnings: done.warnings, fault: None }
            }
            Err(error) => Aligned {
                fault: self.faults.of_server(round, ServerFault::RealignmentFailure),
                ..as_aggregated(vec![format!("not realigned: {error}")])
            },
        })
    }

    /// Measures the adapter that the round leaves. If that fails, the round has no scores and says so.
    async fn evaluate(&self, round: RoundId, aligned: &Aligned) -> Result<Evaluated, FederationError> {
        let due = self.is_due(self.config.evaluate, round);
        let Some(evaluator) = self.actors.evaluator.as_ref().filter(|_| due) else {
            return Ok(Evaluated { scores: Evaluation::new(), warning: None, fault: None });
        };
        self.begin(round, Phase::Evaluate);
        let is_last = round.0 == self.config.rounds;
        let scope = if is_last { EvaluationScope::Full } else { EvaluationScope::Interim };
        let question = |attempt, reply| {
            let id = RequestId { round, attempt };
            Question(EvaluateOrder { id, global: aligned.global.clone(), scope }, reply)
        };
        self.ensure_running(match self.result(self.ask_with_retry(evaluator, question).await, "evaluation") {
            Ok(scores) => Evaluated { scores, warning: None, fault: None },
            Err(error) => Evaluated {
                scores: Evaluation::new(),
                warning: Some(format!("not evaluated: {error}")),
                fault: self.faults.of_server(round, ServerFault::EvaluationFailure),
            },
        })
    }

    /// Stores what the round leaves behind; only then is it the server's own.
    async fn commit(
        &mut self,
        round: RoundId,
        took: PhaseSeconds,
        screened: Screened,
        aggregated: Aggregated,
        aligned: Aligned,
        evaluated: Evaluated,
    ) -> Result<(), FederationError> {
        self.begin(round, Phase::Commit);
        // What clients did counts only with the aggregation that took it in (invariant R-3).
        let counts = aggregated.outcome == RoundOutcome::Committed;
        let memories = if counts { screened.memories } else { Vec::new() };
        let record = RoundRecord {
            update_norm: aggregated.update_norm,
            strategy: aggregated.report,
            align: aligned.report,
            eval: evaluated.scores,
            warnings: aligned.warnings.into_iter().chain(evaluated.warning).collect(),
            simulated_seconds: self.config.devices.map(|_| self.transport.now().seconds()),
            faults: ledger::faults(&screened.clients, [aggregated.fault, aligned.fault, evaluated.fault]),
            ..ledger::summary(round, aggregated.outcome, took, &screened.clients, screened.traffic)
        };
        let (global, strategy) = (aligned.global, aggregated.strategy);
        let in_flight = self.transport.state().map_err(|error| FederationError::Bug(error.to_string()))?;
        let order = CommitOrder {
            id: RequestId::first(round),
            global: global.clone(),
            strategy: strategy.clone(),
            in_flight: in_flight.into(),
            memories,
            record: Box::new(record),
            clients: screened.clients,
        };
        match self.actors.checkpointer.ask(None, |reply| Question(order, reply)).await {
            Answer::Reply(Ok(record)) => {
                (self.global, self.strategy) = (global, strategy);
                self.observer.observe(&RoundEvent::RoundFinished(record));
                Ok(())
            }
            Answer::Reply(Err(PortError::Cancelled)) => Err(FederationError::Cancelled),
            Answer::Reply(Err(reason)) => Err(FederationError::Store { round, reason }),
            Answer::TimedOut | Answer::Died(_) => Err(self.lost("checkpointer")),
        }
    }
}

/// What the steps share.
impl Server {
    fn begin(&self, round: RoundId, phase: Phase) {
        self.observer.observe(&RoundEvent::PhaseStarted { round, phase });
    }

    /// A step's result, unless the run was cancelled: what cancelled work left undone must not look like an outcome.
    fn ensure_running<T>(&self, result: T) -> Result<T, FederationError> {
        if self.run.is_cancelled() { Err(FederationError::Cancelled) } else { Ok(result) }
    }

    const fn is_due(&self, schedule: Schedule, round: RoundId) -> bool {
        schedule.is_due(round, self.config.rounds)
    }

    /// What the strategy has to say to the clients of a round, or in words why there is nothing.
    async fn instructions(&self, round: RoundId) -> Result<Payload, String> {
        let question = |attempt, reply| {
            let id = RequestId { round, attempt };
            let order = InstructOrder { id, global: self.global.clone(), strategy: self.strategy.clone() };
            AggregatorMessage::Instruct(order, reply)
        };
        match self.ask_with_retry(&self.actors.aggregator, question).await {
            Answer::Reply(instructions) => instructions,
            Answer::TimedOut | Answer::Died(_) => Err(self.died("instructions")),
        }
    }

    /// Puts a question to an actor of the server, again under the next attempt if it dies over it.
    async fn ask_with_retry<M: Message, R: Send>(
        &self,
        address: &Address<M>,
        question: impl Fn(Attempt, RpcReplyPort<R>) -> M,
    ) -> Answer<R> {
        address.ask_with_retry(self.config.max_attempts, None, question).await.1
    }

    /// What a port gave through its actor, the actor's death being one more way to fail.
    fn result<T>(&self, answer: Answer<PortResult<T>>, what: &str) -> PortResult<T> {
        match answer {
            Answer::Reply(result) => result,
            Answer::TimedOut | Answer::Died(_) => Err(PortError::Failed(self.died(what))),
        }
    }

    fn died(&self, what: &str) -> String {
        format!("the actor died over its {what}, {} times asked", self.config.max_attempts)
    }

    /// An actor is gone: a bug, or the end of the run's actors because it was cancelled.
    fn lost(&self, actor: &'static str) -> FederationError {
        self.ensure_running(FederationError::ActorLost(actor)).unwrap_or_else(|cancelled| cancelled)
    }
}

async fn timed<T>(took: &mut f64, step: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = step.await;
    *took = begun.elapsed().as_secs_f64();
    result
}
