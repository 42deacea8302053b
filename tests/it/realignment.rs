//! What a realignment makes of what survives: which trainings it does, what it counts and what it warns of.

use std::{collections::BTreeMap, sync::Arc};

use fedward::{
    data::{PreferencePair, Revisions},
    eval::matchers::RefusalMatcher,
    model::{FinishReason, Reply},
    progress::Progress,
    safety::cai::{CaiGenerator, Constitution, Effort, Material, Revise, Speaker},
};
use fedward_actors::{
    CancelFlag,
    ports::{GuardModel, PortResult, Realigner, Realignment},
    protocol::{ChatMessage, ChatRow, Role, RoundId, Verdict},
};

use crate::progress::Fixture;

fn pair(number: usize) -> PreferencePair {
    PreferencePair::single_turn(&format!("Name {number} fruits."), "An apple, a pear.", "I do not know.")
}

fn prepared(pairs: Vec<PreferencePair>) -> Material {
    Material::Prepared(Revisions { pairs, good_answers: Vec::new() })
}

fn realigned(fixture: &Fixture, generator: &CaiGenerator) -> Realignment {
    generator.realign(RoundId(1), &fixture.global, &CancelFlag::new()).unwrap()
}

/// Calls responses unsafe that contain a word.
struct WordGuard(&'static str);

impl GuardModel for WordGuard {
    fn version(&self) -> &'static str {
        "word"
    }

    fn assess(&self, rows: &[ChatRow], _: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let is_unsafe = |row: &ChatRow| row.response().is_some_and(|text| text.contains(self.0));
        Ok(rows.iter().map(|row| Verdict::of_probability(f64::from(is_unsafe(row)), 0.5)).collect())
    }
}

#[test]
fn pairs_that_say_nothing_are_counted_and_no_preferences_are_trained_on() {
    let fixture = Fixture::new();
    let same = |number| PreferencePair { rejected: pair(number).chosen, ..pair(number) };
    let generator = fixture.generator(prepared((0..10).map(same).collect()));
    let Realignment { adapter, report, warnings } = realigned(&fixture, &generator);
    // Two steps of fine-tuning on the other half.
    assert_eq!((report.red_prompts, report.revisions, report.steps), (10, 10, 2));
    assert_eq!((report.preference, report.discarded["same"]), (None, 5));
    assert_eq!(
        warnings,
        [
            "no training on preferences: 0 of 5 pairs of answer and revision are left, too few to learn from (0 answers needed no revision)"
        ]
    );
    assert_ne!(adapter.sha256(), fixture.global.sha256());
}

#[test]
fn what_the_guard_calls_unsafe_is_not_trained_on() {
    let fixture = Fixture::new();
    let mut generator = fixture.generator(prepared((0..10).map(pair).collect()));
    generator.guard = Some(Arc::new(WordGuard("apple")));
    let Realignment { adapter, report, warnings } = realigned(&fixture, &generator);
    assert_eq!((report.revisions, report.steps, report.discarded["unsafe"]), (0, 0, 10));
    assert!(
        warnings[0].starts_with("not realigned: 0 of 10 answers and revisions survived (10 unsafe)"),
        "{warnings:?}"
    );
    assert_eq!(adapter.sha256(), fixture.global.sha256());
}

#[test]
fn prepared_answers_are_judged_and_fine_tuned_on_without_a_pair() {
    let fixture = Fixture::new();
    let answer = |number, says: &str| ChatRow::single_turn(format!("Pick {number} plums."), says);
    let mut good_answers: Vec<_> = (0..6).map(|number| answer(number, "A plum.")).collect();
    good_answers.push(answer(6, "An apple."));
    let mut generator = fixture.generator(Material::Prepared(Revisions { pairs: Vec::new(), good_answers }));
    generator.guard = Some(Arc::new(WordGuard("apple")));
    generator.settings.sft_share = 1.0;
    let Realignment { report, warnings, .. } = realigned(&fixture, &generator);
    assert_eq!((report.red_prompts, report.revisions, report.good_answers, report.steps), (7, 0, 6, 2));
    assert_eq!((report.discarded["unsafe"], report.preference), (1, None));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn one_training_alone_is_no_reason_to_warn() {
    let fixture = Fixture::new();
    for (sft_share, steps, pairs) in [(1.0, 2, None), (0.0, 3, Some(10))] {
        let mut generator = fixture.generator(prepared((0..10).map(pair).collect()));
        generator.settings.sft_share = sft_share;
        let found = realigned(&fixture, &generator);
        assert_eq!((found.report.steps, found.report.preference.map(|preference| preference.pairs)), (steps, pairs));
        assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    }
}

#[test]
fn refusals_take_as_many_steps_and_examples_and_ask_nobody() {
    let fixture = Fixture::new();
    let prompts: Vec<_> =
        (0..20).map(|number| vec![ChatMessage::new(Role::User, format!("Name {number} fruits."))]).collect();
    let control = |sft_share, effort| {
        let mut generator = fixture.generator(Material::Refusals { prompts: prompts.clone() });
        // It would leave nothing.
        generator.guard = Some(Arc::new(WordGuard("")));
        generator.settings.red_prompts = 10;
        (generator.settings.sft_share, generator.settings.effort) = (sft_share, effort);
        realigned(&fixture, &generator)
    };
    // Two and three steps are configured, with batches of two: an epoch over five and five is three and three.
    for (sft_share, effort, steps) in [
        (0.5, Effort::Light, 5),
        (1.0, Effort::Light, 2),
        (0.0, Effort::Light, 3),
        (0.5, Effort::Full, 6),
        (1.0, Effort::Full, 5),
    ] {
        let Realignment { adapter, report, warnings } = control(sft_share, effort);
        assert_eq!((report.red_prompts, report.revisions, report.good_answers, report.steps), (10, 0, 0, steps));
        assert_eq!((report.preference, report.generated_tokens), (None, 0));
        assert!(warnings.is_empty() && report.discarded.is_empty(), "{warnings:?}");
        assert_ne!(adapter.sha256(), fixture.global.sha256());
    }
    assert_eq!(control(0.5, Effort::Light).adapter.sha256(), control(0.5, Effort::Light).adapter.sha256());
    // The prompts are those that Constitutional AI asks in the same round, each refused in the same words in every round.
    let generator = fixture.generator(Material::Refusals { prompts: prompts.clone() });
    let refused = |round| {
        let harvest = generator.harvest(RoundId(round), &fixture.global, &CancelFlag::new()).unwrap();
        harvest.screened.good_answers
    };
    let words: BTreeMap<_, _> = (1..50)
        .flat_map(refused)
        .map(|row| (row.prompt()[0].content.clone(), row.response().unwrap().to_owned()))
        .collect();
    assert_eq!(words.len(), 20);
    for row in (1..50).flat_map(refused) {
        assert_eq!(words[&row.prompt()[0].content], row.response().unwrap());
        assert!(RefusalMatcher::OpenFedLlm.is_refusal(row.response().unwrap()));
    }
}

/// Declines prompts about plums, and answers others.
struct Scripted;

impl Speaker for Scripted {
    fn reply(
        &self,
        conversations: &[Vec<ChatMessage>],
        turn: u32,
        _: RoundId,
        _: &CancelFlag,
        _: &dyn Progress,
    ) -> PortResult<Vec<Option<Reply>>> {
        let reply = |talk: &Vec<ChatMessage>| {
            let declines = turn > 0 || talk[0].content.contains("plum");
            let text = if declines { "I cannot help with that." } else { "Sure, take a big one." };
            Some(Reply { text: text.into(), finish_reason: FinishReason::Stop, tokens: 6, prompt_tokens: 10 })
        };
        Ok(conversations.iter().map(reply).collect())
    }

    fn flops(&self, _: u64) -> f64 {
        0.0
    }
}

/// Eight prompts, of which `revised` get an answer that is revised.
fn with_good_answers(fixture: &Fixture, revised: usize) -> Realignment {
    let prompt =
        |number| if number < revised { format!("Pick {number} pears.") } else { format!("Pick {number} plums.") };
    let prompts = (0..8).map(|number| vec![ChatMessage::new(Role::User, prompt(number))]).collect();
    let teacher = Some(Arc::new(Scripted) as Arc<dyn Speaker>);
    let mut generator =
        fixture.generator(Material::RedPrompts { prompts, constitution: Constitution::default(), teacher });
    generator.guard = Some(Arc::new(WordGuard("Sure")));
    generator.settings.red_prompts = 8;
    generator.settings.revise = Revise::Unsafe { surely_safe: 0.1 };
    realigned(fixture, &generator)
}

#[test]
fn good_answers_leave_few_pairs_and_that_is_said() {
    let fixture = Fixture::new();
    // Half of two pairs is for preferences, of which half of eight prompts should have given four.
    let few = with_good_answers(&fixture, 2);
    assert_eq!((few.report.good_answers, few.report.revisions, few.report.steps), (6, 2, 2));
    assert_eq!(few.report.preference, None);
    assert_eq!(
        few.warnings,
        [
            "no training on preferences: 1 of 4 pairs of answer and revision are left, too few to learn from (6 answers needed no revision)"
        ]
    );
    let many = with_good_answers(&fixture, 8);
    assert_eq!((many.report.good_answers, many.report.revisions, many.report.steps), (0, 8, 5));
    assert_eq!(many.report.preference.unwrap().pairs, 4);
    assert!(many.warnings.is_empty(), "{:?}", many.warnings);
}
