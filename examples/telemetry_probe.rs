//! A run without a model: feeds synthetic events to the metrics for 20 seconds, to work on dashboards and to check them.
//!
//! `cargo run --example telemetry_probe -- --metrics 127.0.0.1:9464`

use std::{collections::BTreeMap, error::Error, thread, time::Duration};

use fedward::telemetry::{Exposure, RunInfo, Telemetry};
use fedward_actors::{
    faults::ClientFault,
    ports::{BenchmarkScore, Cost, Evaluation, Observer, PreferenceReport, RealignmentCost, RealignmentReport},
    protocol::{ClientId, RoundId},
    records::{
        ClientOutcome, ClientRecord, ClientRole, DropReason, GuardCounts, Phase, PhaseSeconds, RejectReason,
        RoundEvent, RoundOutcome, RoundRecord,
    },
};

const ROUNDS: u32 = 10;
const COHORT: u32 = 6;
const TICK: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, flag, address] = arguments.as_slice() else {
        return Err("usage: telemetry_probe --metrics ADDRESS".into());
    };
    if flag != "--metrics" {
        return Err(format!("unknown argument {flag}, known is --metrics").into());
    }
    let telemetry = Telemetry::install(address.parse()?, Exposure::Loopback)?;
    for variant in ["plain", "guarded"] {
        run(&telemetry, variant);
    }
    Ok(())
}

fn run(telemetry: &Telemetry, variant: &str) {
    let observer = telemetry.observer(&RunInfo {
        scenario: "probe".to_owned(),
        variant: variant.to_owned(),
        strategy: "fedavg".to_owned(),
        guard: (variant == "guarded").then(|| "synthetic".to_owned()),
        model: "none".to_owned(),
        clients: 20,
        rounds: ROUNDS / 2,
    });
    observer.evaluated(RoundId::START, &evaluation(0));
    for round in 1..=ROUNDS / 2 {
        let id = RoundId(round);
        observer.observe(&RoundEvent::RoundStarted { round: id, cohort: COHORT });
        observer.observe(&RoundEvent::PhaseStarted { round: id, phase: Phase::Train });
        for client in 0..COHORT {
            thread::sleep(TICK);
            observer.observe(&RoundEvent::ClientFinished(Box::new(client_record(id, client))));
        }
        observer.observe(&RoundEvent::ActorRestarted { kind: "client" });
        for phase in [Phase::Aggregate, Phase::Align, Phase::Evaluate, Phase::Commit] {
            observer.observe(&RoundEvent::PhaseStarted { round: id, phase });
            thread::sleep(TICK);
            if phase == Phase::Align {
                observer.observe(&RoundEvent::Realigned(Box::new(realignment())));
            }
        }
        observer.observe(&RoundEvent::RoundFinished(Box::new(round_record(id))));
    }
    if let Some((_, scrape)) = telemetry.next_scrape() {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(scrape);
    }
}

fn client_record(round: RoundId, client: u32) -> ClientRecord {
    let outcome = match (round.0, client) {
        (2, 4) => ClientOutcome::Dropped(DropReason::TimedOut),
        (3, 4) => ClientOutcome::Rejected(RejectReason::Screened("its delta is too long".to_owned())),
        (3, 5) => ClientOutcome::Rejected(RejectReason::NotFinite("layer 0".to_owned())),
        _ => ClientOutcome::Accepted,
    };
    ClientRecord {
        round,
        client: ClientId(client),
        role: ClientRole::Honest,
        staleness: 0,
        outcome,
        attempt: 1,
        guard: GuardCounts {
            kept: 40,
            filtered: u64::from(client),
            kept_unsafe: 2,
            filtered_safe: u64::from(client) / 3,
            ..GuardCounts::default()
        },
        n_examples: 48.0,
        steps: 10,
        train_tokens: 4_000 + u64::from(client),
        train_loss: Some(2.0 / f64::from(round.0) + f64::from(client) / 10.0),
        train_seconds: 1.5,
        reused: false,
        update_norm: Some(0.05 * f64::from(client + 1)),
        clipped_to: (client == 5).then_some(0.25),
        trust: None,
        fault: ((round.0, client) == (3, 5)).then_some(ClientFault::NotFinite),
    }
}

fn round_record(round: RoundId) -> RoundRecord {
    let skipped = round.0 == 2;
    RoundRecord {
        round,
        outcome: if skipped { RoundOutcome::Skipped("quorum".to_owned()) } else { RoundOutcome::Committed },
        cohort: (0..COHORT).map(ClientId).collect(),
        accepted: COHORT - 1,
        clipped: 1,
        rejected: 0,
        dropped: 1,
        rows: GuardCounts { kept: 240, filtered: 15, kept_unsafe: 12, filtered_safe: 4, ..GuardCounts::default() },
        train_loss: Some(2.0 / f64::from(round.0)),
        train_tokens: 24_000,
        trainings_reused: 0,
        train_tokens_per_second: Some(600.0 + f64::from(round.0)),
        update_norm: Some(0.2),
        strategy: BTreeMap::new(),
        adapter_bytes_up: 3_700_000 * u64::from(COHORT),
        adapter_bytes_down: 3_700_000 * u64::from(COHORT),
        simulated_seconds: None,
        seconds: PhaseSeconds {
            select: 0.001,
            broadcast: 0.01,
            train: 40.0,
            screen: 0.05,
            aggregate: 0.2,
            align: 12.0,
            evaluate: 8.0,
            commit: 0.1,
        },
        align: Some(realignment()),
        eval: evaluation(round.0),
        warnings: if skipped { vec!["too few updates".to_owned()] } else { Vec::new() },
        faults: if round.0 == 3 { BTreeMap::from([("not_finite".to_owned(), 1)]) } else { BTreeMap::new() },
        adapter_sha256: String::new(),
    }
}

fn realignment() -> RealignmentReport {
    RealignmentReport {
        red_prompts: 16,
        revisions: 12,
        discarded: BTreeMap::from([("unfinished".to_owned(), 4)]),
        generated_tokens: 3_000,
        steps: 10,
        train_tokens: 1_500,
        good_answers: 3,
        mean_loss: Some(1.2),
        preference: Some(PreferenceReport {
            pairs: 6,
            steps: 4,
            mean_loss: 0.6,
            reward_margin: 0.3,
            reward_accuracy: 0.75,
        }),
        cost: RealignmentCost {
            generate: Cost { seconds: 9.0, tokens: 4_000, flops: 1.1e12 },
            sft: Cost { seconds: 5.0, tokens: 1_000, flops: 0.5e12 },
            dpo: Cost { seconds: 4.0, tokens: 500, flops: 0.3e12 },
        },
    }
}

fn evaluation(round: u32) -> Evaluation {
    let refusal_rate = 0.9 / f64::from(round + 1);
    let values = [("refusal_rate", refusal_rate), ("ci_low", refusal_rate * 0.8), ("ci_high", refusal_rate * 1.1)];
    let values = values.map(|(measure, value)| (measure.to_owned(), value));
    BTreeMap::from([("advbench".to_owned(), BenchmarkScore { n: 64, items: None, values: BTreeMap::from(values) })])
}
