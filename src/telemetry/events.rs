//! What happens in a run, as metrics: one function for one event, so that the terms of a ratio always move together.

use std::time::{SystemTime, UNIX_EPOCH};

use fedward_actors::{
    faults::{ClientFault, ServerFault},
    ports::{Evaluation, Observer, RealignmentCost, RealignmentReport},
    protocol::{ClientId, RoundId},
    records::{ClientOutcome, ClientRecord, GuardCounts, Phase, PhaseSeconds, RoundEvent, RoundOutcome, RoundRecord},
};

use super::{
    Telemetry,
    table::{self, CLIENT_LABEL_LIMIT},
};
use crate::safety::cai::Discard;

/// What a run is, for `fedward_run_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// The scenario's name.
    pub scenario: String,
    /// The variant's name, the scenario's where it has no variants, or `<strategy>/<variant>/seed-<n>` for a grid's cell; it
    /// labels every metric of the run.
    pub variant: String,
    /// The strategy's name.
    pub strategy: String,
    /// The guard's version, if the run has a guard.
    pub guard: Option<String>,
    /// The base model's name.
    pub model: String,
    /// Clients of the federation. Above [`CLIENT_LABEL_LIMIT`] nothing is labelled by client.
    pub clients: u32,
    /// Rounds that the scenario asks for.
    pub rounds: u32,
}

/// Turns the events of one run into metrics. Dropping it marks the run as ended.
pub struct RunObserver {
    telemetry: Telemetry,
    variant: String,
    labels_clients: bool,
    has_guard: bool,
}

impl RunObserver {
    pub(super) fn new(telemetry: Telemetry, info: &RunInfo) -> Self {
        let observer = Self {
            telemetry,
            variant: info.variant.clone(),
            labels_clients: info.clients <= CLIENT_LABEL_LIMIT,
            has_guard: info.guard.is_some(),
        };
        observer.run_started(info);
        observer
    }

    /// An evaluation was made after `round`: of the start (round 0), or outside of a round.
    pub fn evaluated(&self, round: RoundId, evaluation: &Evaluation) {
        if evaluation.is_empty() {
            return;
        }
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        table::EVALUATION_ROUND.set(recorder, [variant], f64::from(round.0));
        for (benchmark, score) in evaluation {
            table::EVALUATION_ITEMS.set(recorder, [variant, benchmark], score.n as f64);
            for (measure, value) in &score.values {
                table::EVALUATION.set(recorder, [variant, benchmark, measure], *value);
            }
        }
    }

    /// The run has ended: nothing of it is active. Dropping the observer says the same; this says it where actors that
    /// wind down still hold it.
    pub fn ended(&self) {
        self.phase_started(None);
        table::RUN_ACTIVE.set(self.telemetry.recorder(), [&self.variant], 0.0);
    }

    fn run_started(&self, info: &RunInfo) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        let RunInfo { scenario, strategy, model, .. } = info;
        let guard = info.guard.as_deref().unwrap_or("none");
        table::RUN_INFO.set(recorder, [scenario, variant, strategy, guard, model], 1.0);
        table::RUN_ACTIVE.set(recorder, [variant], 1.0);
        table::RUN_CLIENTS.set(recorder, [variant], f64::from(info.clients));
        table::RUN_ROUNDS.set(recorder, [variant], f64::from(info.rounds));
        table::ROUND.set(recorder, [variant], 0.0);
        self.show_zeros();
        self.phase_started(None);
        self.something_happened();
    }

    /// A counter that appears with its first event has no rate for that event: show every series whose labels are known.
    fn show_zeros(&self) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        for outcome in RoundOutcome::NAMES {
            table::ROUNDS.add(recorder, [variant, outcome], 0);
        }
        for [outcome, reason] in ClientOutcome::names() {
            table::CLIENT_OUTCOMES.add(recorder, [variant, outcome, reason], 0);
        }
        for (verdict, none) in GuardCounts::default().by_name() {
            table::GUARD_ROWS.add(recorder, [variant, verdict], none);
        }
        self.guard_mistaken(GuardCounts::default());
        let faults = ClientFault::ALL.map(ClientFault::name).into_iter().chain(ServerFault::ALL.map(ServerFault::name));
        for fault in faults {
            table::FAULTS.add(recorder, [variant, fault], 0);
        }
        for direction in ["up", "down"] {
            table::ADAPTER_BYTES.add(recorder, [variant, direction], 0);
        }
        for kind in ACTOR_KINDS {
            table::ACTOR_RESTARTS.add(recorder, [variant, kind], 0);
        }
        for source in TRAINING_SOURCES {
            table::TRAIN_TOKENS.add(recorder, [variant, source], 0);
            table::TRAIN_STEPS.add(recorder, [variant, source], 0);
        }
        for counter in [
            table::ROUND_WARNINGS,
            table::CLIPPED,
            table::REALIGNMENTS,
            table::REALIGN_RED_PROMPTS,
            table::REALIGN_REVISIONS,
            table::REALIGN_GOOD_ANSWERS,
            table::REALIGN_GENERATED,
            table::REALIGN_TRAIN_TOKENS,
            table::REALIGN_STEPS,
        ] {
            counter.add(recorder, [variant], 0);
        }
        for (part, _) in RealignmentCost::default().by_name() {
            table::REALIGN_PART_TOKENS.add(recorder, [variant, part], 0);
            table::REALIGN_PART_FLOPS.add(recorder, [variant, part], 0);
        }
        for reason in Discard::ALL {
            table::REALIGN_DISCARDED.add(recorder, [variant, reason.name()], 0);
        }
    }

    fn round_started(&self, round: RoundId, cohort: u32) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        table::ROUND.set(recorder, [variant], f64::from(round.0));
        table::COHORT.set(recorder, [variant], f64::from(cohort));
    }

    fn phase_started(&self, active: Option<Phase>) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        for phase in Phase::ALL {
            let value = if active == Some(phase) { 1.0 } else { 0.0 };
            table::PHASE_ACTIVE.set(recorder, [variant, phase.name()], value);
        }
    }

    fn client_finished(&self, record: &ClientRecord) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        let [outcome, reason] = record.outcome.name();
        table::CLIENT_OUTCOMES.add(recorder, [variant, outcome, reason], 1);
        for (verdict, rows) in record.guard.by_name() {
            table::GUARD_ROWS.add(recorder, [variant, verdict], rows);
        }
        self.guard_mistaken(record.guard);
        let source = TRAINING_SOURCES[usize::from(record.reused)];
        table::TRAIN_TOKENS.add(recorder, [variant, source], record.train_tokens);
        table::TRAIN_STEPS.add(recorder, [variant, source], u64::from(record.steps));
        if record.steps > 0 && !record.reused {
            table::CLIENT_TRAIN_DURATION.record(recorder, [variant], record.train_seconds);
        }
        if let Some(loss) = record.train_loss {
            table::CLIENT_TRAIN_LOSS.record(recorder, [variant], loss);
        }
        table::CLIPPED.add(recorder, [variant], u64::from(record.clipped_to.is_some()));
        if let Some(norm) = record.update_norm {
            table::CLIENT_UPDATE_NORM.record(recorder, [variant], norm);
        }
        if self.labels_clients {
            self.labelled_client_finished(record.client, record);
        }
    }

    /// Without a guard there is nobody to make a mistake.
    fn guard_mistaken(&self, counts: GuardCounts) {
        if self.has_guard {
            let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
            table::GUARD_MISTAKES.add(recorder, [variant, "kept_unsafe"], counts.kept_unsafe);
            table::GUARD_MISTAKES.add(recorder, [variant, "filtered_safe"], counts.filtered_safe);
            table::GUARD_MISTAKES.add(recorder, [variant, "malformed"], counts.malformed);
            table::GUARD_MISTAKES.add(recorder, [variant, "cut"], counts.cut);
        }
    }

    fn labelled_client_finished(&self, client: ClientId, record: &ClientRecord) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        let client = client.0.to_string();
        table::CLIENT_ROWS_FILTERED.add(recorder, [variant, &client], record.guard.called_unsafe());
        if let Some(loss) = record.train_loss {
            table::CLIENT_LAST_TRAIN_LOSS.set(recorder, [variant, &client], loss);
        }
    }

    fn round_finished(&self, record: &RoundRecord) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        self.phase_started(None);
        self.evaluated(record.round, &record.eval);
        if record.round == RoundId::START {
            // The state before training is evaluated, but no round was run.
            return;
        }
        table::ROUNDS.add(recorder, [variant, record.outcome.name()], 1);
        table::ROUND_WARNINGS.add(recorder, [variant], record.warnings.len() as u64);
        for (fault, count) in &record.faults {
            table::FAULTS.add(recorder, [variant, fault], u64::from(*count));
        }
        table::ADAPTER_BYTES.add(recorder, [variant, "up"], record.adapter_bytes_up);
        table::ADAPTER_BYTES.add(recorder, [variant, "down"], record.adapter_bytes_down);
        if let Some(speed) = record.train_tokens_per_second {
            table::TRAIN_THROUGHPUT.set(recorder, [variant], speed);
        }
        if let Some(loss) = record.train_loss {
            table::TRAIN_LOSS.set(recorder, [variant], loss);
        }
        if let Some(norm) = record.update_norm {
            table::UPDATE_NORM.set(recorder, [variant], norm);
        }
        for (measure, value) in &record.strategy {
            table::STRATEGY_STATE.set(recorder, [variant, measure], *value);
        }
        self.round_timed(&record.seconds);
    }

    fn round_timed(&self, seconds: &PhaseSeconds) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        table::ROUND_DURATION.record(recorder, [variant], seconds.total());
        for (phase, seconds) in seconds.by_name() {
            table::PHASE_DURATION.record(recorder, [variant, phase], seconds);
            table::LAST_ROUND_PHASE.set(recorder, [variant, phase], seconds);
        }
    }

    fn realigned(&self, report: &RealignmentReport) {
        let (recorder, variant) = (self.telemetry.recorder(), self.variant.as_str());
        table::REALIGNMENTS.add(recorder, [variant], 1);
        table::REALIGN_RED_PROMPTS.add(recorder, [variant], report.red_prompts);
        table::REALIGN_REVISIONS.add(recorder, [variant], report.revisions);
        table::REALIGN_GOOD_ANSWERS.add(recorder, [variant], report.good_answers);
        table::REALIGN_GENERATED.add(recorder, [variant], report.generated_tokens);
        table::REALIGN_TRAIN_TOKENS.add(recorder, [variant], report.train_tokens);
        table::REALIGN_STEPS.add(recorder, [variant], report.steps);
        if let Some(loss) = report.mean_loss {
            table::REALIGN_LOSS.set(recorder, [variant], loss);
        }
        if let Some(preference) = &report.preference {
            table::REALIGN_PREFERENCE_LOSS.set(recorder, [variant], preference.mean_loss);
            table::REALIGN_REWARD_MARGIN.set(recorder, [variant], preference.reward_margin);
            table::REALIGN_REWARD_ACCURACY.set(recorder, [variant], preference.reward_accuracy);
        }
        for (part, cost) in report.cost.by_name() {
            table::REALIGN_PART_DURATION.record(recorder, [variant, part], cost.seconds);
            table::REALIGN_PART_TOKENS.add(recorder, [variant, part], cost.tokens);
            table::REALIGN_PART_FLOPS.add(recorder, [variant, part], cost.flops as u64);
        }
        for (reason, count) in &report.discarded {
            table::REALIGN_DISCARDED.add(recorder, [variant, reason], *count);
        }
    }

    fn actor_restarted(&self, kind: &str) {
        table::ACTOR_RESTARTS.add(self.telemetry.recorder(), [&self.variant, kind], 1);
    }

    fn something_happened(&self) {
        // A clock before 1970 is not worth an error.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        table::LAST_EVENT.set(self.telemetry.recorder(), [&self.variant], now);
    }
}

impl Observer for RunObserver {
    fn observe(&self, event: &RoundEvent) {
        match event {
            RoundEvent::RoundStarted { round, cohort } => self.round_started(*round, *cohort),
            RoundEvent::ClientReported { .. } => {}
            RoundEvent::PhaseStarted { phase, .. } => self.phase_started(Some(*phase)),
            RoundEvent::ClientFinished(record) => self.client_finished(record),
            RoundEvent::Realigned(report) => {
                self.realigned(report);
                self.telemetry.settle();
            }
            RoundEvent::ActorRestarted { kind } => self.actor_restarted(kind),
            RoundEvent::RoundFinished(record) => {
                self.round_finished(record);
                self.telemetry.settle();
            }
        }
        self.something_happened();
    }
}

impl Drop for RunObserver {
    fn drop(&mut self) {
        self.ended();
    }
}

/// What a training was: done, or taken from an earlier variant that had done the same.
const TRAINING_SOURCES: [&str; 2] = ["computed", "reused"];

const ACTOR_KINDS: [&str; 5] = ["client", "guard", "aggregator", "cai", "evaluator"];
