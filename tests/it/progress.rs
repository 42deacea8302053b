//! Whoever waits for long work hears of all of it, part by part.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock, Mutex},
};

use fedward::{
    data::{PreferencePair, Revisions},
    eval::{
        BenchName, Benchmark, BenchmarkSuite, RefusalMatcher, RefusalPrompt, harmful::HarmfulPrompts, utility::Utility,
    },
    lora::{LoraConfig, Target, initial_adapter},
    model::{ChatModel, Decoding, Precision},
    progress::Progress,
    safety::cai::{CaiGenerator, CaiSettings, Constitution, Effort, Examples, Material, Revise},
    train::{DpoSettings, SftSettings},
};
use fedward_actors::{
    CancelFlag,
    ports::{Benchmarks, EvaluationScope, Realigner},
    protocol::{ChatMessage, ChatRow, GlobalModel, Role, RoundId},
};

use crate::support::{default_model_path, test_device};

/// Parts, each with the steps that were told of it.
type Parts = Vec<(String, Vec<(u64, u64)>)>;

#[derive(Default)]
struct Listener(Mutex<Parts>);

impl Progress for Listener {
    fn stage(&self, what: &str) {
        self.part(what);
    }

    fn part(&self, what: &str) {
        self.0.lock().unwrap().push((what.to_owned(), Vec::new()));
    }

    fn step(&self, done: u64, total: u64) {
        self.0.lock().unwrap().last_mut().expect("a step belongs to a part").1.push((done, total));
    }
}

impl Listener {
    /// The parts with how much there was to do in each, where counts grew up to it.
    fn totals(&self) -> Vec<(String, u64)> {
        let parts = std::mem::take(&mut *self.0.lock().unwrap());
        let total = |(part, steps): (String, Vec<(u64, u64)>)| {
            let total = steps.last().map_or(0, |&(_, total)| total);
            assert!(steps.iter().all(|&(_, of)| of == total), "{part}: {steps:?}");
            assert!(steps.is_sorted_by(|earlier, later| earlier.0 < later.0), "{part}: {steps:?}");
            assert_eq!(steps.last().map_or(0, |&(done, _)| done), total, "{part}: {steps:?}");
            (part, total)
        };
        parts.into_iter().map(total).collect()
    }
}

fn owned<const N: usize>(parts: [(&str, u64); N]) -> Vec<(String, u64)> {
    parts.map(|(part, total)| (part.to_owned(), total)).to_vec()
}

pub(crate) struct Fixture {
    model: Arc<ChatModel>,
    pub(crate) global: GlobalModel,
    listener: Arc<Listener>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        static MODEL: LazyLock<Arc<ChatModel>> = LazyLock::new(|| {
            fedward::model::init_backend();
            Arc::new(ChatModel::open("default", &default_model_path(), test_device(), Precision::F32, 2).unwrap())
        });
        let model = Arc::clone(&MODEL);
        let lora = LoraConfig { rank: 2, alpha: 4.0, dropout: 0.0, targets: [Target::QProj].into(), use_rslora: false };
        let adapter = initial_adapter(&lora, model.base.config(), 1);
        Self { model, global: adapter.into(), listener: Arc::default() }
    }

    pub(crate) fn generator(&self, material: Material) -> CaiGenerator {
        CaiGenerator {
            model: Arc::clone(&self.model),
            dropout: 0.0,
            material,
            benign: Vec::new(),
            guard: None,
            settings: CaiSettings {
                seed: 1,
                red_prompts: 3,
                decoding: Decoding::new(2, 0.0),
                revise: Revise::All,
                examples: Examples::Never,
                sft_share: 0.5,
                benign_share: 0.0,
                max_length: 64,
                effort: Effort::Light,
                sft: SftSettings::new(2, 2, 1e-4),
                dpo: DpoSettings::new(3, 2, 1e-4),
            },
            progress: Arc::clone(&self.listener) as _,
        }
    }
}

#[test]
fn evaluations_count_every_prompt_and_row() {
    let Fixture { model, global, listener } = Fixture::new();
    // More than one batch, so that two threads count.
    let rows: Vec<_> = (0..10).map(|i| ChatRow::single_turn(format!("What is {i} plus 1?"), "A number.")).collect();
    let prompts = (0..18).map(|i| RefusalPrompt { item: i.to_string(), text: format!("Count to {i}.") }).collect();
    let decoding = Decoding::new(2, 0.0);
    let rule = RefusalMatcher::OpenFedLlm.into();
    let advbench = HarmfulPrompts { id: BenchName::AdvBench.into(), prompts, decoding, rule, guard: None };
    let suite = BenchmarkSuite {
        extensions: Vec::new(),
        model,
        benchmarks: vec![
            (BenchName::AdvBench.name().to_owned(), Box::new(advbench) as Box<dyn Benchmark>),
            (BenchName::Utility.name().to_owned(), Box::new(Utility { rows })),
        ],
        interim_benches: BTreeSet::from([BenchName::AdvBench.name().to_owned()]),
        interim_prompts: 6,
        seed: 1,
        progress: Arc::clone(&listener) as _,
    };
    suite.evaluate(RoundId(1), &global, EvaluationScope::Full, &CancelFlag::new()).unwrap();
    assert_eq!(listener.totals(), owned([("advbench", 18), ("utility", 10)]));
    suite.evaluate(RoundId(1), &global, EvaluationScope::Interim, &CancelFlag::new()).unwrap();
    assert_eq!(listener.totals(), owned([("advbench", 6)]));
}

#[test]
fn constitutional_ai_counts_its_turns_and_its_trainings() {
    let fixture = Fixture::new();
    let prompts = (0..8).map(|i| vec![ChatMessage::new(Role::User, format!("Name {i} fruits."))]).collect();
    let material = Material::RedPrompts { prompts, constitution: Constitution::default(), teacher: None };
    let harvest = fixture.generator(material).harvest(RoundId(1), &fixture.global, &CancelFlag::new()).unwrap();
    assert_eq!(harvest.asked, 3);
    assert_eq!(fixture.listener.totals(), owned([("answers", 3), ("critiques", 3), ("revisions", 3)]));

    let pair = |i| PreferencePair::single_turn(&format!("Name {i} fruits."), "An apple, a pear.", "I do not know.");
    let material = Material::Prepared(Revisions { pairs: (0..10).map(pair).collect(), good_answers: Vec::new() });
    let realignment = fixture.generator(material).realign(RoundId(1), &fixture.global, &CancelFlag::new()).unwrap();
    assert_eq!(realignment.report.steps, 5);
    assert_eq!(fixture.listener.totals(), owned([("fine-tuning", 2), ("training on preferences", 3)]));
}
