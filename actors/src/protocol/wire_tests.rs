use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use super::*;
use crate::{
    faults::ClientFault,
    ledger::Reported,
    ports::{BenchmarkScore, EvaluationScope, ItemScores, RealignmentReport},
    protocol::{
        Adapter, Attempt, ChatRow, ClientId, GlobalModel, Hazard, LocalTraining, LocalWork, ModelVersion, RequestId,
        RoundId, RowLabel, SimTime, TurnEnd, Verdict,
        server::{Admitted, StrategyState},
    },
    records::{
        ClientOutcome, ClientRecord, ClientRole, DropReason, GuardCounts, PhaseSeconds, RejectReason, RoundOutcome,
    },
    testing::{layout_of_rank, tiny_layout},
    transport::Arrival,
};

const ID: RequestId = RequestId { round: RoundId(3), attempt: Attempt(2) };

fn adapter() -> Adapter {
    // Bit patterns that arithmetic or text would not keep.
    let values = vec![0.1, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, f32::from_bits(0x7fc0_1234), 1e-30, -7.25, 3.0];
    Adapter::new(tiny_layout(), values).unwrap()
}

fn model() -> GlobalModel {
    GlobalModel::from(adapter()).with_frozen(Adapter::zeros(layout_of_rank(3)))
}

fn payload() -> Payload {
    Payload::default().with_vector("control", adapter()).with_number("mu", 0.1)
}

fn report(work: LocalWork) -> TrainReport {
    let guard = GuardCounts { kept: 3, reweighted_weight: 0.3, ..GuardCounts::default() };
    TrainReport { id: ID, client: ClientId(7), guard, work, fault: Some(ClientFault::Crash) }
}

fn trained() -> LocalWork {
    let training = LocalTraining {
        adapter: adapter(),
        n_examples: 2.5,
        steps: 4,
        tokens: 1 << 40,
        learning_rate_sum: 1e-3,
        mean_loss: f64::NAN,
        seconds: 0.25,
        reused: true,
    };
    LocalWork::Trained { training, end: TurnEnd { extras: payload(), memory: Some(vec![1, 2, 255].into()) } }
}

fn update() -> ClientUpdate {
    ClientUpdate { client: ClientId(7), adapter: adapter(), n_examples: 2.5, trust: 0.5, extras: payload() }
}

fn strategy() -> StrategyState {
    StrategyState { after: RoundId(2), bytes: vec![0, 128, 255].into() }
}

fn client_record(outcome: ClientOutcome) -> ClientRecord {
    ClientRecord {
        round: ID.round,
        client: ClientId(7),
        role: ClientRole::Malicious,
        staleness: 3,
        outcome,
        attempt: 2,
        guard: GuardCounts::default(),
        n_examples: 2.5,
        steps: 4,
        train_tokens: 100,
        train_loss: Some(1.5),
        train_seconds: 0.5,
        reused: false,
        update_norm: None,
        clipped_to: Some(0.5),
        trust: Some(0.25),
        fault: None,
    }
}

fn evaluation() -> Evaluation {
    let scores = BTreeMap::from([("refused".to_owned(), vec![0.0, 1.0, 0.5])]);
    let items = Some(ItemScores { sha256: "ab".to_owned(), scores });
    let values = BTreeMap::from([("refusal_rate".to_owned(), 0.5)]);
    BTreeMap::from([("advbench".to_owned(), BenchmarkScore { n: 3, items, values })])
}

fn round_record() -> RoundRecord {
    RoundRecord {
        align: Some(RealignmentReport { steps: 3, ..RealignmentReport::default() }),
        eval: evaluation(),
        warnings: vec!["not evaluated: cancelled".to_owned()],
        ..crate::ledger::summary(
            ID.round,
            RoundOutcome::Skipped("1 updates accepted, 2 needed".to_owned()),
            PhaseSeconds::default(),
            &[client_record(ClientOutcome::Accepted)],
            crate::ledger::Traffic { up: 1, down: 2 },
        )
    }
}

/// Takes a payload through bytes and back, and returns its kind. Debug text is compared, for NaN differs from itself.
#[expect(clippy::needless_pass_by_value, reason = "payloads are made where they are given")]
fn there_and_back<T: Message + Debug>(payload: T) -> u8 {
    let frame = encode(&payload).unwrap();
    assert_eq!(format!("{:?}", decode::<T>(&frame).unwrap()), format!("{payload:?}"));
    // The same through a stream, of which nothing is left over.
    let mut stream = Vec::new();
    write(&mut stream, &payload).unwrap();
    write(&mut stream, &payload).unwrap();
    let mut stream = stream.as_slice();
    for _ in 0..2 {
        assert_eq!(encode(&read::<T>(&mut stream, 1 << 20).unwrap()).unwrap(), frame);
    }
    assert!(stream.is_empty());
    // Cut anywhere or with a bit flipped, it is an error.
    for end in (0..frame.len()).step_by(7) {
        assert!(decode::<T>(&frame[..end]).is_err(), "cut at {end}");
    }
    for at in (0..frame.len()).step_by(5) {
        let mut damaged = frame.clone();
        damaged[at] ^= 0x10;
        assert!(decode::<T>(&damaged).is_err(), "byte {at}");
    }
    T::KIND.0
}

#[test]
fn every_payload_comes_back_from_its_bytes() {
    let row = ChatRow { topic: Some("t".into()), label: Some(RowLabel::Unsafe), ..ChatRow::single_turn("q", "a") };
    let verdict = Verdict { hazards: vec![Hazard(9)], ..Verdict::of_probability(0.75, 0.5) };
    let admitted = Admitted { adapter: adapter(), extras: payload(), clipped_to: Some(0.1), trust: Some(0.5) };
    let screened = [Ok(admitted), Err(RejectReason::NotFinite("lora_A".into()))]
        .map(|verdict| ScreenedUpdate { delta_norm: Some(0.1), verdict });
    let done = Aggregation::Done {
        global: model(),
        strategy: strategy(),
        update_norm: Some(0.1),
        report: BTreeMap::from([("control_norm".to_owned(), 0.1)]),
    };
    let memories = vec![(ClientId(1), Arc::from([9_u8, 200].as_slice())), (ClientId(4), Arc::from([].as_slice()))];
    let clients = [ClientOutcome::Accepted, ClientOutcome::Dropped(DropReason::GuardUnavailable("no".into()))];
    let arrival = Arrival {
        at: SimTime::START.after(2.0),
        reported: Reported {
            client: ClientId(7),
            id: ID,
            bytes_down: 9,
            answer: Ok(report(trained())),
            fault: None,
            misfit: None,
        },
        sent: Some((ModelVersion(2), adapter())),
    };
    let in_flight =
        InFlight { now: SimTime::START.after(1.0), arrivals: [((arrival.at, ClientId(7)), arrival)].into() };
    let found = [
        there_and_back(TrainOrder {
            id: ID,
            client: ClientId(7),
            version: ModelVersion(2),
            at: SimTime::START.after(1.5),
            global: model(),
            instructions: payload(),
        }),
        there_and_back(report(trained())),
        there_and_back(report(LocalWork::Dropped(DropReason::TrainingFailed("out of memory".into())))),
        there_and_back(AssessOrder { id: ID, client: ClientId(7), rows: vec![row.clone(), row].into() }),
        there_and_back::<Assessment>(Ok(vec![verdict])),
        there_and_back(InstructOrder { id: ID, global: model(), strategy: strategy() }),
        there_and_back::<Result<Payload, String>>(Ok(payload())),
        there_and_back(ScreenOrder { id: ID, global: adapter(), updates: vec![update()] }),
        there_and_back(screened.to_vec()),
        there_and_back(AggregateOrder {
            id: ID,
            quorum: 2,
            global: model(),
            strategy: strategy(),
            updates: vec![update(), update()],
        }),
        there_and_back(done),
        there_and_back(Aggregation::BelowQuorum { accepted: 1, quorum: 2 }),
        there_and_back(RealignOrder { id: ID, global: model() }),
        there_and_back(Realignment {
            adapter: adapter(),
            report: RealignmentReport::default(),
            warnings: vec!["few".into()],
        }),
        there_and_back(EvaluateOrder { id: ID, global: model(), scope: EvaluationScope::Interim }),
        there_and_back(evaluation()),
        there_and_back(CommitOrder {
            id: ID,
            global: model(),
            strategy: strategy(),
            in_flight: vec![7, 8].into(),
            memories,
            record: Box::new(round_record()),
            clients: clients.map(client_record).to_vec(),
        }),
        there_and_back(round_record()),
        there_and_back(update()),
        there_and_back(in_flight),
    ];
    let mut untested = KINDS.iter().filter(|(number, _)| !found.contains(number));
    assert_eq!(untested.next(), None);
    let mut numbers: Vec<u8> = KINDS.iter().map(|&(number, _)| number).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), KINDS.len(), "a number was given twice");
}

#[test]
fn what_is_wrong_with_a_frame_is_named() {
    let frame = encode(&update()).unwrap();
    let text = |bytes: &[u8]| decode::<ClientUpdate>(bytes).unwrap_err().to_string();
    assert_eq!(text(&frame[..4]), "expected 17 bytes, found 4");
    let body = frame.len() - HEADER_BYTES;
    assert_eq!(text(&frame[..frame.len() - 1]), format!("expected {body} bytes, found {}", body - 1));
    assert_eq!(
        text(&[b"HTTP".as_slice(), &frame[4..]].concat()),
        format!("not a frame of this protocol: expected it to begin with {MAGIC:?}, found {:?}", b"HTTP")
    );
    assert_eq!(decode::<TrainReport>(&frame).unwrap_err().to_string(), "expected train report, found client update");
    let mut damaged = frame.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(text(&damaged).starts_with("damaged: its checksum is "), "{}", text(&damaged));
    let too_long = read::<ClientUpdate>(&mut frame.as_slice(), 10).unwrap_err().to_string();
    assert_eq!(too_long, format!("a body of {body} bytes is over the limit of 10"));
}

/// Whole frames whose adapter contradicts itself: a peer's bug, or a peer's malice.
#[test]
fn an_adapter_that_does_not_fit_its_layout_is_named() {
    #[derive(serde::Serialize, Deserialize, Clone, Debug)]
    struct Forged {
        client: u32,
        adapter: ForgedAdapter,
        n_examples: f64,
        trust: f64,
        extras: Payload,
    }
    #[derive(serde::Serialize, Deserialize, Clone, Debug)]
    struct ForgedAdapter {
        layout: ForgedLayout,
        values: serde_bytes::ByteBuf,
    }
    #[derive(serde::Serialize, Deserialize, Clone, Debug)]
    struct ForgedLayout {
        tensors: Vec<(String, [u64; 2], u64)>,
    }
    impl Message for Forged {
        const KIND: (u8, &'static str) = ClientUpdate::KIND;
    }
    let forge = |tensors: &[(&str, [u64; 2], u64)], bytes: usize| {
        let tensors = tensors.iter().map(|(name, shape, offset)| ((*name).to_owned(), *shape, *offset)).collect();
        let adapter = ForgedAdapter { layout: ForgedLayout { tensors }, values: vec![0; bytes].into() };
        let forged = Forged { client: 1, adapter, n_examples: 1.0, trust: 1.0, extras: Payload::default() };
        decode::<ClientUpdate>(&encode(&forged).unwrap()).map_err(|error| error.to_string())
    };
    assert!(forge(&[("a", [2, 3], 0), ("b", [1, 1], 6)], 28).is_ok());
    let wrong = forge(&[("a", [2, 3], 0)], 20).unwrap_err();
    assert_eq!(wrong, "client update: an adapter of this layout holds 6 numbers, found 5");
    let odd = forge(&[("a", [2, 3], 0)], 23).unwrap_err();
    assert_eq!(odd, "client update: an adapter of this layout holds 24 bytes, found 23");
    let apart = forge(&[("a", [1, 1], 0), ("b", [1, 1], 5)], 8).unwrap_err();
    assert_eq!(apart, "client update: tensor b: expected offset 1, found 5");
    let huge = forge(&[("a", [1 << 40, 1 << 40], 0)], 8).unwrap_err();
    assert!(huge.contains("larger than memory can be"), "{huge}");
}
