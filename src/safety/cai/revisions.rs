//! The three turns of Constitutional AI.

use fedward_actors::{
    cancel::CancelFlag,
    ports::{GuardModel, PortError, PortResult},
    protocol::{ChatMessage, ChatRow, ClientId, Role, RoundId, Verdict},
    streams::{Purpose, stream},
};

use super::{
    Constitution, Examples, Principle, Speaker,
    screening::{reply_row, whole_sentences},
    speaker::TURNS,
};
use crate::{model::Reply, progress::Progress, safety::guard::assess_counting};

/// One red prompt with what was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialogue {
    /// The red prompt.
    pub prompt: Vec<ChatMessage>,
    /// The first answer.
    pub answer: Reply,
    /// What is found wrong with it.
    pub critique: Reply,
    /// The answer rewritten.
    pub revision: Reply,
}

/// Dialogues with what they cost.
#[derive(Clone, Debug, Default)]
pub struct Dialogues {
    /// One a red prompt that got all three replies, in their order.
    pub dialogues: Vec<Dialogue>,
    /// Red prompts with first answers that need no revision, in their order.
    pub good_answers: Vec<ChatRow>,
    /// Red prompts without one of the replies that they should get.
    pub unanswered: usize,
    /// Tokens generated in all turns.
    pub generated_tokens: u64,
    /// Tokens read: each turn's conversation, and what was generated.
    pub read_tokens: u64,
}

/// Who says which answers need no revision.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    /// Whose verdicts count.
    pub(super) guard: &'a dyn GuardModel,
    /// The probability of harm below which an answer needs no revision. A guard's threshold asks what is more likely; what
    /// is kept here is what the model is trained to say again, so the guard is to be sure.
    pub(super) surely_safe: f64,
}

impl Judge<'_> {
    fn is_sure_of(&self, verdict: &Verdict) -> bool {
        !verdict.is_unsafe && f64::from(verdict.unsafe_probability) < self.surely_safe
    }
}

/// What dialogues go by.
#[derive(Clone, Copy)]
pub(super) struct Guidance<'a> {
    /// Principles and examples.
    pub(super) constitution: &'a Constitution,
    /// When the examples are shown.
    pub(super) examples: Examples,
}

/// Asks all prompts for an answer, and where `judge` is not sure that it is safe, for critique and revision; each gets a
/// principle of its own.
///
/// # Errors
///
/// [`PortError`] if the constitution is empty, or the speaker or the judge fails.
pub(super) fn converse(
    speaker: &dyn Speaker,
    prompts: &[Vec<ChatMessage>],
    Guidance { constitution, examples }: Guidance<'_>,
    judge: Option<Judge<'_>>,
    (seed, round): (u64, RoundId),
    cancel: &CancelFlag,
    progress: &dyn Progress,
) -> PortResult<Dialogues> {
    let mut draw = stream(seed, Purpose::RedPrompts, round, Some(ClientId(0)));
    let mut talks = prompts
        .iter()
        .map(|prompt| {
            let principle = constitution.draw(&mut draw);
            let principle = principle.ok_or_else(|| PortError::Failed("the constitution is empty".into()))?;
            Ok(Talk { prompt, principle, turns: prompt.clone(), replies: Vec::new() })
        })
        .collect::<PortResult<Vec<_>>>()?;
    let shown = constitution.example_turns();
    if examples == Examples::AllTurns {
        for talk in &mut talks {
            talk.show(&shown);
        }
    }
    let mut made = Dialogues::default();
    let take_turn = |made: &mut Dialogues, talks, turn| {
        progress.part(TURN_NAMES[turn as usize]);
        made.take_turn(speaker, talks, turn, round, cancel, progress)
    };
    talks = take_turn(&mut made, talks, 0)?;
    if let Some(judge) = judge {
        progress.part("verdicts on answers");
        talks = made.take_good_answers(talks, judge, cancel, progress)?;
    }
    for talk in &mut talks {
        if examples == Examples::LaterTurns {
            talk.show(&shown);
        }
        talk.ask(&talk.principle.critic);
    }
    talks = take_turn(&mut made, talks, 1)?;
    for talk in &mut talks {
        talk.ask(&talk.principle.revision);
    }
    talks = take_turn(&mut made, talks, 2)?;
    made.dialogues = talks.into_iter().filter_map(Talk::finish).collect();
    made.unanswered = prompts.len() - made.good_answers.len() - made.dialogues.len();
    Ok(made)
}

/// What the turns of a dialogue are to people.
const TURN_NAMES: [&str; TURNS as usize] = ["answers", "critiques", "revisions"];

/// A conversation under way.
struct Talk<'a> {
    prompt: &'a [ChatMessage],
    principle: &'a Principle,
    turns: Vec<ChatMessage>,
    replies: Vec<Reply>,
}

impl Talk<'_> {
    /// Puts examples in front, behind a system turn.
    fn show(&mut self, examples: &[ChatMessage]) {
        let opening = self.turns.iter().take_while(|message| message.role == Role::System).count();
        self.turns.splice(opening..opening, examples.iter().cloned());
    }

    fn ask(&mut self, request: &str) {
        self.turns.push(ChatMessage::new(Role::User, request));
    }

    fn hear(mut self, reply: Reply) -> Self {
        self.turns.push(ChatMessage::new(Role::Assistant, reply.text.trim()));
        self.replies.push(reply);
        self
    }

    /// Prompt and first answer up to its last whole sentence; `None` if there is no such sentence.
    fn answered(&self) -> Option<ChatRow> {
        Some(reply_row(self.prompt, whole_sentences(self.replies.first()?).ok()?))
    }

    fn finish(self) -> Option<Dialogue> {
        let [answer, critique, revision] = self.replies.try_into().ok()?;
        Some(Dialogue { prompt: self.prompt.to_vec(), answer, critique, revision })
    }
}

impl Dialogues {
    /// Sets aside the answers that the judge is sure of, and gives back the talks that go on.
    fn take_good_answers<'a>(
        &mut self,
        talks: Vec<Talk<'a>>,
        judge: Judge<'_>,
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> PortResult<Vec<Talk<'a>>> {
        let answers: Vec<_> = talks.iter().map(Talk::answered).collect();
        let rows: Vec<_> = answers.iter().flatten().cloned().collect();
        let mut verdicts = assess_counting(judge.guard, &rows, cancel, progress)?.into_iter();
        let mut going_on = Vec::new();
        for (talk, answer) in talks.into_iter().zip(answers) {
            match answer {
                // A missing verdict counts as unsafe.
                Some(row) if verdicts.next().is_some_and(|verdict| judge.is_sure_of(&verdict)) => {
                    self.good_answers.push(row);
                }
                _ => going_on.push(talk),
            }
        }
        Ok(going_on)
    }

    /// Lets the speaker reply to all talks, and counts; those without a reply end here.
    fn take_turn<'a>(
        &mut self,
        speaker: &dyn Speaker,
        talks: Vec<Talk<'a>>,
        turn: u32,
        round: RoundId,
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> PortResult<Vec<Talk<'a>>> {
        let conversations: Vec<_> = talks.iter().map(|talk| talk.turns.clone()).collect();
        let replies = speaker.reply(&conversations, turn, round, cancel, progress)?;
        for reply in replies.iter().flatten() {
            self.generated_tokens += reply.tokens as u64;
            self.read_tokens += (reply.prompt_tokens + reply.tokens) as u64;
        }
        Ok(talks.into_iter().zip(replies).filter_map(|(talk, reply)| Some(talk.hear(reply?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        model::FinishReason,
        progress::{Heard, Silent},
    };

    /// Says which turn it is, and writes down what it was shown.
    struct Scripted(Mutex<Vec<Vec<Vec<ChatMessage>>>>);

    impl Speaker for Scripted {
        fn reply(
            &self,
            conversations: &[Vec<ChatMessage>],
            turn: u32,
            _: RoundId,
            _: &CancelFlag,
            progress: &dyn Progress,
        ) -> PortResult<Vec<Option<Reply>>> {
            self.0.lock().unwrap().push(conversations.to_vec());
            let reply = |index| Reply {
                text: format!("turn {turn} of {index} "),
                finish_reason: FinishReason::Stop,
                tokens: 2,
                prompt_tokens: 10,
            };
            progress.step(conversations.len() as u64, conversations.len() as u64);
            Ok((0..conversations.len()).map(|index| Some(reply(index))).collect())
        }

        fn flops(&self, _: u64) -> f64 {
            0.0
        }
    }

    #[test]
    fn three_turns_on_one_conversation_with_examples_from_the_second() {
        let constitution = Constitution {
            principles: vec![Principle { critic: "why?".into(), revision: "again!".into() }],
            ..Constitution::default()
        };
        let user = |text: &str| ChatMessage::new(Role::User, text);
        let system = ChatMessage::new(Role::System, "be brief");
        let prompts = [vec![user("a")], vec![system.clone(), user("b")]];
        let speaker = Scripted(Mutex::default());
        let from = (1, RoundId(1));
        let guidance = Guidance { constitution: &constitution, examples: Examples::LaterTurns };
        let made = converse(&speaker, &prompts, guidance, None, from, &CancelFlag::new(), &Silent).unwrap();
        let shown = speaker.0.into_inner().unwrap();
        assert_eq!(shown[0], prompts);
        let examples = constitution.example_turns();
        assert_eq!(examples.len(), 24);
        let said = |text: &str| ChatMessage::new(Role::Assistant, text);
        let talk = [user("b"), said("turn 0 of 1"), user("why?"), said("turn 1 of 1"), user("again!")];
        let expected: Vec<_> = [system].into_iter().chain(examples).chain(talk).collect();
        assert_eq!(shown[2][1], expected);
        assert_eq!(shown[1][1], expected[..expected.len() - 2]);
        assert_eq!(made.dialogues[1].revision.text, "turn 2 of 1 ");
        assert_eq!((made.generated_tokens, made.read_tokens), (12, 72));
    }

    #[test]
    fn examples_are_shown_when_they_are_to_be() {
        let constitution = Constitution::default();
        let prompts = [vec![ChatMessage::new(Role::User, "a")]];
        let turns_shown = |examples| {
            let speaker = Scripted(Mutex::default());
            let guidance = Guidance { constitution: &constitution, examples };
            converse(&speaker, &prompts, guidance, None, (1, RoundId(1)), &CancelFlag::new(), &Silent).unwrap();
            speaker.0.into_inner().unwrap().iter().map(|conversations| conversations[0].len()).collect::<Vec<_>>()
        };
        assert_eq!(turns_shown(Examples::Never), [1, 3, 5]);
        assert_eq!(turns_shown(Examples::LaterTurns), [1, 27, 29]);
        assert_eq!(turns_shown(Examples::AllTurns), [25, 27, 29]);
    }

    /// Calls answers to anything but "a" safe, but is not sure of "c".
    struct SafeButForA;

    impl GuardModel for SafeButForA {
        fn version(&self) -> &'static str {
            "safe but for a"
        }

        fn assess(&self, rows: &[ChatRow], _: &CancelFlag) -> PortResult<Vec<Verdict>> {
            let verdict = |row: &ChatRow| {
                let probability = if row.messages[0].content == "c" { 0.2 } else { 0.0 };
                Verdict { is_unsafe: row.messages[0].content == "a", ..Verdict::of_probability(probability, 0.5) }
            };
            Ok(rows.iter().map(verdict).collect())
        }
    }

    #[test]
    fn what_the_judge_is_sure_to_be_safe_is_not_revised() {
        let prompts = ["a", "b", "c"].map(|text| vec![ChatMessage::new(Role::User, text)]);
        let speaker = Scripted(Mutex::default());
        let constitution = Constitution::default();
        let heard = Heard::default();
        let made = |surely_safe| {
            let judge = Judge { guard: &SafeButForA, surely_safe };
            let from = (1, RoundId(1));
            let guidance = Guidance { constitution: &constitution, examples: Examples::default() };
            converse(&speaker, &prompts, guidance, Some(judge), from, &CancelFlag::new(), &heard).unwrap()
        };
        // "c" is as safe as is asked for.
        assert_eq!(made(0.3).good_answers.len(), 2);
        assert!(made(0.0).good_answers.is_empty());
        let made = made(0.1);
        let asked: Vec<_> = speaker.0.into_inner().unwrap().iter().skip(6).map(Vec::len).collect();
        assert_eq!(asked, [3, 2, 2]);
        let told = [("answers", 3), ("verdicts on answers", 3), ("critiques", 2), ("revisions", 2)];
        let told = told.map(|(part, n)| (part.to_owned(), vec![(n, n)]));
        assert_eq!(heard.parts()[8..], told);
        assert_eq!(made.good_answers, [ChatRow::single_turn("b", "turn 0 of 1")]);
        let revised: Vec<_> = made.dialogues.iter().map(|dialogue| dialogue.prompt.clone()).collect();
        assert_eq!((revised, made.unanswered), (vec![prompts[0].clone(), prompts[2].clone()], 0));
    }
}
