//! MT-Bench (Zheng et al., 2023), first turn: a judge rates answers to open questions from 1 to 10.
//!
//! Without a judge there is no number under that name: what can be had is how likely the model finds the reference
//! answers, and that is reported as [`REFERENCE_LIKELIHOOD`].

mod questions;
mod rating;

use std::collections::{BTreeMap, BTreeSet};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{PortError, PortResult},
    protocol::ChatRow,
};
use serde_json::{Map, json};

pub use questions::{JudgePrompts, Question};
pub use rating::rating;

use super::{
    BenchName, Benchmark, Finding, Measurement, Subject,
    bench::Values,
    bootstrap::bootstrap_mean,
    measure::{Better, Cell, Column, Denominator, GridPlace, GridTable, Measure, Plot, Unit},
    utility::{RESAMPLES, likelihood},
};
use crate::{
    endpoint::{ChatEndpoint, EndpointError, EndpointProblem},
    model::{Decoding, RowScore},
    progress::Progress,
};

/// What is reported in place of ratings where there is no judge.
pub const REFERENCE_LIKELIHOOD: &str = "mt_bench_reference_likelihood";

/// What is read off it: ratings, or what stands in for them.
pub const MEASURES: [Measure; 3] = [
    Measure {
        denominator: Denominator::Value("rated"),
        column: Some(Column {
            title: "MT-Bench,\n1 to 10",
            reading: "MT-Bench: the judge's mean rating of first-turn answers, over those that it rated.",
            cell: Cell::CountOfAll,
        }),
        plot: Some(Plot {
            title: "MT-Bench ratings, by round",
            label: "rating, 1 to 10",
            caption: "First turn, mean of the answers that the judge rated. Higher is better.",
        }),
        grid: Some(GridPlace::of(GridTable::Paper)),
        ..Measure::new(BenchName::MtBench.name(), "rating", "MT-Bench", Unit::Rating)
    },
    Measure {
        column: Some(Column {
            title: "MT-Bench\nreferences,\nnats a token",
            reading: "MT-Bench references: mean log-probability of a reference answer's token, in place of ratings (higher is better).",
            cell: Cell::Count,
        }),
        plot: Some(Plot {
            title: "Likelihood of MT-Bench's reference answers, by round",
            label: "nats a token",
            caption: "In place of ratings where there is no judge. Higher is better.",
        }),
        ..Measure::new(REFERENCE_LIKELIHOOD, "mean_log_likelihood", "reference likelihood", Unit::NatsPerToken)
    },
    Measure {
        better: Better::Lower,
        grid: Some(GridPlace { stands_in: true, ..GridPlace::of(GridTable::Ours) }),
        ..Measure::new(REFERENCE_LIKELIHOOD, "perplexity", "reference perplexity", Unit::Perplexity)
    },
];

/// A model that rates answers, and how it is asked.
pub struct Judge {
    /// Where it is.
    pub endpoint: ChatEndpoint,
    /// How it is asked.
    pub prompts: JudgePrompts,
}

/// The benchmark.
pub struct MtBench {
    /// Questions in evaluation order.
    pub questions: Vec<Question>,
    /// Rates the answers, if there is one.
    pub judge: Option<Judge>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
}

/// What became of one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Rated(f64),
    /// The judge answered, but without a rating.
    Unparsable,
    /// The judge did not answer.
    Failed,
}

impl Benchmark for MtBench {
    /// With a judge: `rating` with bounds and `rating_<category>` over the `rated` answers, `unparsable`,
    /// `judge_failures`. Without one, under another name: `mean_log_likelihood` of a reference answer's token.
    fn measure(&self, subject: &Subject<'_>) -> PortResult<Measurement> {
        let questions = subject.share(&self.questions);
        if questions.is_empty() {
            return Err(PortError::Failed("mt_bench: no questions".into()));
        }
        match &self.judge {
            Some(judge) => self.rated(judge, questions, subject),
            None => reference_likelihood(questions, subject),
        }
    }
}

impl MtBench {
    fn rated(&self, judge: &Judge, questions: &[Question], subject: &Subject<'_>) -> PortResult<Measurement> {
        let answers = self.answers(questions, subject)?;
        subject.progress.part("mt_bench, ratings");
        let (verdicts, warnings) = judge.verdicts(questions, &answers, subject.cancel, subject.progress)?;
        let finding = |((question, answer), verdict): ((&Question, &String), &Verdict)| Finding {
            item: format!("{}/{}", question.category, question.id),
            prompt: question.text.clone(),
            response: Some(answer.clone()),
            verdicts: verdict.to_json(),
        };
        Ok(Measurement {
            name: BenchName::MtBench.name().to_owned(),
            score: values(questions, &verdicts, subject.seed).score(questions.len()),
            findings: questions.iter().zip(&answers).zip(&verdicts).map(finding).collect(),
            warnings,
        })
    }

    /// The subject's answers, each sampled at the temperature of its question's category.
    fn answers(&self, questions: &[Question], subject: &Subject<'_>) -> PortResult<Vec<String>> {
        let mut answers = vec![String::new(); questions.len()];
        let temperatures: BTreeSet<u64> = questions.iter().map(|question| question.temperature().to_bits()).collect();
        for temperature in temperatures.into_iter().map(f64::from_bits) {
            let alike = |question: &Question| question.temperature().to_bits() == temperature.to_bits();
            let asked: Vec<(usize, &str)> = questions
                .iter()
                .enumerate()
                .filter(|(_, question)| alike(question))
                .map(|(index, question)| (index, question.text.as_str()))
                .collect();
            let decoding = Decoding::new(self.max_new_tokens, temperature);
            for ((index, _), reply) in asked.iter().zip(subject.reply(&BenchName::MtBench.into(), &asked, decoding)?) {
                reply.text.trim().clone_into(&mut answers[*index]);
            }
        }
        Ok(answers)
    }
}

impl Judge {
    /// One verdict an answer, and what people should know of failures. A judge that cannot be used at all has failed on
    /// every answer: the evaluation's other numbers are not lost with it.
    fn verdicts(
        &self,
        questions: &[Question],
        answers: &[String],
        cancel: &CancelFlag,
        progress: &dyn Progress,
    ) -> PortResult<(Vec<Verdict>, Vec<String>)> {
        let requests: Vec<_> =
            questions.iter().zip(answers).map(|(question, answer)| self.prompts.request(question, answer)).collect();
        let judged = match self.endpoint.chat_all(&requests, cancel, progress) {
            Ok(judged) => judged,
            Err(EndpointError { problem: EndpointProblem::Cancelled, .. }) => return Err(PortError::Cancelled),
            Err(error) => {
                let warning = format!("mt_bench: no answer was rated: {error}");
                return Ok((vec![Verdict::Failed; answers.len()], vec![warning]));
            }
        };
        let mut first_failure = None;
        let verdicts: Vec<_> = judged
            .into_iter()
            .map(|answer| match answer {
                Ok(answer) => rating(&answer.text).map_or(Verdict::Unparsable, Verdict::Rated),
                Err(error) => {
                    first_failure.get_or_insert(error);
                    Verdict::Failed
                }
            })
            .collect();
        let failures = verdicts.iter().filter(|verdict| **verdict == Verdict::Failed).count();
        let warning = |error| format!("mt_bench: the judge failed on {failures} of {} answers: {error}", answers.len());
        Ok((verdicts, first_failure.map(warning).into_iter().collect()))
    }
}

impl Verdict {
    fn to_json(self) -> Map<String, serde_json::Value> {
        let (verdict, rating) = match self {
            Self::Rated(rating) => ("rated", Some(rating)),
            Self::Unparsable => ("unparsable", None),
            Self::Failed => ("judge_failed", None),
        };
        Map::from_iter([("verdict".to_owned(), json!(verdict)), ("rating".to_owned(), json!(rating))])
    }
}

fn values(questions: &[Question], verdicts: &[Verdict], seed: u64) -> Values {
    let mut all = Vec::new();
    let mut by_category: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (question, verdict) in questions.iter().zip(verdicts) {
        if let Verdict::Rated(rating) = verdict {
            all.push(*rating);
            by_category.entry(&question.category).or_default().push(*rating);
        }
    }
    let count = |wanted: &Verdict| verdicts.iter().filter(|verdict| *verdict == wanted).count() as f64;
    let mut values = Values::default();
    values.mean("rating", bootstrap_mean(&all, RESAMPLES, seed));
    for (category, ratings) in by_category {
        values.number(format!("rating_{category}"), ratings.iter().sum::<f64>() / ratings.len() as f64);
    }
    values.number("rated", all.len() as f64);
    values.number("unparsable", count(&Verdict::Unparsable));
    values.number("judge_failures", count(&Verdict::Failed));
    values
}

/// How likely the reference answers are: those of the questions that have one and fit the model's context.
fn reference_likelihood(questions: &[Question], subject: &Subject<'_>) -> PortResult<Measurement> {
    let with_reference = questions.iter().filter_map(|question| Some((question, question.reference.as_ref()?)));
    let (asked, rows): (Vec<_>, Vec<_>) = with_reference
        .map(|(question, reference)| (question, ChatRow::single_turn(&question.text, reference.trim())))
        .unzip();
    let tokenized = subject.model.tokenize(&rows, usize::MAX)?;
    let scores = subject.score(&BenchName::MtBench.into(), &tokenized)?;
    let values = likelihood(&scores, subject.seed)
        .ok_or_else(|| PortError::Failed("mt_bench: none of these questions has a reference answer".into()))?;
    let finding = |((question, row), score): ((&&Question, &ChatRow), &RowScore)| Finding {
        item: format!("{}/{}", question.category, question.id),
        prompt: question.text.clone(),
        response: row.response().map(str::to_owned),
        verdicts: Map::from_iter([
            ("log_likelihood".to_owned(), json!(score.log_likelihood)),
            ("response_tokens".to_owned(), json!(score.response_tokens)),
        ]),
    };
    // Rows that were left out cannot be told apart; then there are no details.
    let whole = scores.len() == rows.len();
    let findings = asked.iter().zip(&rows).zip(&scores).filter(|_| whole).map(finding).collect();
    let score = values.score(scores.len());
    Ok(Measurement { name: REFERENCE_LIKELIHOOD.to_owned(), score, findings, warnings: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use super::*;
    use crate::{
        endpoint::{
            EndpointSettings,
            testing::{Scripted, ScriptedServer},
        },
        progress::Silent,
    };

    fn question(id: u64, category: &str) -> Question {
        Question { id, category: category.into(), text: format!("question {id}"), reference: None }
    }

    #[test]
    fn only_ratings_enter_the_mean() {
        let questions = [question(1, "stem"), question(2, "stem"), question(3, "math"), question(4, "math")];
        let verdicts = [Verdict::Rated(7.0), Verdict::Unparsable, Verdict::Rated(4.0), Verdict::Failed];
        let score = values(&questions, &verdicts, 1).score(4);
        for (name, expected) in [
            ("rating", 5.5),
            ("rating_stem", 7.0),
            ("rating_math", 4.0),
            ("rated", 2.0),
            ("unparsable", 1.0),
            ("judge_failures", 1.0),
        ] {
            assert_eq!(score.values.get(name), Some(&expected), "{name}");
        }
        let none = values(&questions, &[Verdict::Failed; 4], 1).score(4);
        assert_eq!(none.values.get("rating"), None, "no rating, no number");
    }

    fn judge(server: &ScriptedServer, folder: &std::path::Path) -> Judge {
        let prompt = |name: &str| {
            json!({"name": name, "system_prompt": "s", "prompt_template": "{question} {answer}"}).to_string() + "\n"
        };
        std::fs::write(folder.join("judge_prompts.jsonl"), prompt("single-v1") + &prompt("single-math-v1")).unwrap();
        let settings = EndpointSettings {
            max_retries: 1,
            first_delay: Duration::from_millis(1),
            parallel: NonZeroUsize::MIN,
            ..EndpointSettings::new(server.base_url(), "judge")
        };
        Judge { endpoint: ChatEndpoint::new(settings).unwrap(), prompts: JudgePrompts::load(folder).unwrap() }
    }

    /// A judge that rates, mumbles, breaks and breaks once.
    #[test]
    fn a_judges_faults_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let server = ScriptedServer::start(|index, received| match received.last_message() {
            "question 1 a" => Scripted::says("Fine. Rating: [[8]]"),
            "question 2 b" => Scripted::says("I would rather not say."),
            "question 3 c" => Scripted::status(500, "{}"),
            _ if index == 4 => Scripted::status(429, "{}"),
            _ => Scripted::says("[[3]]"),
        });
        let judge = judge(&server, folder.path());
        let questions: Vec<_> = (1..=4).map(|id| question(id, "stem")).collect();
        let answers = ["a", "b", "c", "d"].map(str::to_owned);
        let (verdicts, warnings) = judge.verdicts(&questions, &answers, &CancelFlag::new(), &Silent).unwrap();
        assert_eq!(verdicts, [Verdict::Rated(8.0), Verdict::Unparsable, Verdict::Failed, Verdict::Rated(3.0)]);
        assert_eq!(server.received().len(), 6);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.starts_with("mt_bench: the judge failed on 1 of 4 answers: endpoint http://"), "{warning}");
        assert!(warning.contains("answered 500 2 times") && !warning.contains("question 3"), "{warning}");
    }

    #[test]
    fn a_judge_that_is_gone_costs_its_ratings_alone() {
        let folder = tempfile::tempdir().unwrap();
        let server = ScriptedServer::start(|_, _| Scripted::status(401, "{}"));
        let judge = judge(&server, folder.path());
        let questions = [question(1, "stem"), question(2, "math")];
        let answers = ["a", "b"].map(str::to_owned);
        let (verdicts, warnings) = judge.verdicts(&questions, &answers, &CancelFlag::new(), &Silent).unwrap();
        assert_eq!(verdicts, [Verdict::Failed; 2]);
        assert!(warnings[0].contains("no answer was rated") && warnings[0].contains("check the key"), "{warnings:?}");
        let cancelled = CancelFlag::new();
        cancelled.cancel();
        assert_eq!(judge.verdicts(&questions, &answers, &cancelled, &Silent).err(), Some(PortError::Cancelled));
    }
}
