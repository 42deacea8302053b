//! Clients that train side by side on copies of the base model, as on several devices: what they learn does not depend on which
//! one they get. On the CPU the same training gives the same bytes.

use std::sync::{Arc, Barrier};

use fedward::{
    lora::{LoraConfig, Target},
    model::{ChatModel, Precision, Replicas},
    train::{RoundSchedule, SftSettings, SftTrainer},
};
use fedward_actors::{
    CancelFlag,
    ports::{LocalCorrection, LocalTrainer, TrainTask},
    protocol::{Adapter, ChatRow, ClientId, RoundId, TrainRows},
};
use tch::Device;

use crate::support::default_model_path;

const CLIENTS: [ClientId; 2] = [ClientId(0), ClientId(1)];

fn copy(device: Device) -> Arc<ChatModel> {
    Arc::new(ChatModel::open("default", &default_model_path(), device, Precision::F32, 1).unwrap())
}

fn trainer(models: Replicas) -> SftTrainer {
    SftTrainer {
        models: Arc::new(models),
        dropout: 0.1,
        settings: SftSettings::new(3, 2, 1e-3),
        lr_over_rounds: RoundSchedule::default(),
        rounds: 1,
        max_length: 64,
        seed: 1,
    }
}

fn train(trainer: &SftTrainer, client: ClientId) -> Adapter {
    let targets = [Target::QProj, Target::VProj].into();
    let lora = LoraConfig { rank: 4, alpha: 8.0, dropout: 0.1, targets, use_rslora: false };
    let global = fedward::lora::initial_adapter(&lora, trainer.models.first().base.config(), 1);
    let task = TrainTask { client, round: RoundId(1), global: global.into(), correction: LocalCorrection::default() };
    let rows: Arc<[ChatRow]> = ["Name a fruit.", "Name a tree.", "Name a bird."]
        .map(|query| ChatRow::single_turn(query, ["Fig.", "Oak."][client.0 as usize]))
        .into();
    trainer.train(&task, &TrainRows::new(rows), &CancelFlag::new()).unwrap().adapter
}

/// What the clients learn on the first device alone, and what on both: the first client on the second device, and both side by
/// side.
fn learnt(devices: [Device; 2]) -> ([Adapter; 2], [Adapter; 3]) {
    let first = copy(devices[0]);
    let alone = trainer(Arc::clone(&first).into());
    let expected = CLIENTS.map(|client| train(&alone, client));
    assert_ne!(expected[0], expected[1]);

    let both = trainer(Replicas::new(first, [copy(devices[1])]));
    // Whoever comes second takes the second copy.
    let lent = both.models.borrow();
    assert!(std::ptr::eq(&raw const *lent, Arc::as_ptr(both.models.first())));
    let on_second = train(&both, CLIENTS[0]);
    drop(lent);
    let together = Barrier::new(CLIENTS.len());
    let [one, other] = std::thread::scope(|scope| {
        let started = CLIENTS.map(|client| {
            let (both, together) = (&both, &together);
            scope.spawn(move || {
                together.wait();
                train(both, client)
            })
        });
        started.map(|client| client.join().unwrap())
    });
    (expected, [on_second, one, other])
}

#[test]
fn clients_learn_the_same_on_every_copy() {
    fedward::model::init_backend();
    let ([one, other], on_both) = learnt([Device::Cpu; 2]);
    assert_eq!(on_both, [one.clone(), one, other]);
}

#[test]
fn clients_learn_alike_on_two_cuda_devices() {
    fedward::model::init_backend();
    if tch::Cuda::device_count() < 2 {
        eprintln!("skipped: libtorch finds fewer than two CUDA devices");
        return;
    }
    let ([one, other], on_both) = learnt([0, 1].map(Device::Cuda));
    for (found, expected) in on_both.iter().zip([&one, &one, &other]) {
        // One H100 shown as two gave no difference. Devices of two kinds may sum in another order, and then some of AdamW's first
        // steps go the other way where a gradient is almost zero; that nobody has measured, the bound is a guess.
        let apart = found.delta_from(expected).unwrap().l2_norm() / expected.l2_norm();
        assert!(apart < 1e-3, "{apart:e}");
    }
}
