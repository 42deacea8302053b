//! `[evaluation]`: what is measured, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use fedward_actors::Schedule;
use serde::{Deserialize, Serialize};

use super::{endpoint::RawEndpoint, is_default, rules::Rules, schedule::ScheduleName};
use crate::{
    data::{DataError, GoalSplit, MeasuredGoals},
    endpoint::EndpointSettings,
    eval::{BenchName, OwnBenchmark, OwnKind, RefusalMatcher, own},
};

/// Items of HHH.
const HHH_ITEMS: usize = 221;

/// `FastChat`'s longest answer.
const MT_BENCH_NEW_TOKENS: usize = 1024;

/// What is measured, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationSection {
    /// Between start and end, in which rounds.
    pub schedule: Schedule,
    /// Whether the base model without any adapter is measured, too.
    #[serde(skip_serializing_if = "is_default")]
    pub base: bool,
    /// The benchmarks, in the order of their names.
    pub benches: BTreeSet<BenchName>,
    /// Benchmarks of the user's own, which are measured beside them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnBenchmark>,
    /// Names of those that are measured between rounds.
    pub interim_benches: BTreeSet<String>,
    /// Prompts of each benchmark in a full evaluation, at most; HHH has a limit of its own.
    pub prompts: usize,
    /// HHH items of a full evaluation, at most.
    pub hhh_items: usize,
    /// XSTest prompts of a full evaluation, at most; `None` means `prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xstest_prompts: Option<usize>,
    /// MT-Bench questions of a full evaluation, at most; `None` means `prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mt_bench_questions: Option<usize>,
    /// How AdvBench's goals are parted into those that are measured and those that train something.
    pub split: GoalSplit,
    /// Which of AdvBench's goals are measured.
    #[serde(skip_serializing_if = "is_default")]
    pub advbench_goals: MeasuredGoals,
    /// What is appended to AdvBench's goals.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advbench_suffix: String,
    /// Prompts of each benchmark in an evaluation between rounds, at most.
    pub interim_prompts: usize,
    /// Held-out benign rows whose likelihood is measured.
    pub utility_rows: usize,
    /// Longest response, in tokens.
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// What counts as a refusal.
    pub matcher: RefusalMatcher,
    /// Longest MT-Bench answer, in tokens.
    pub mt_bench_max_new_tokens: usize,
    /// Rates MT-Bench answers, if there is one.
    pub judge: Option<EndpointSettings>,
    /// Which guard looks at evaluated responses.
    pub judge_guard: JudgeGuard,
    /// Data sets of the user's own, by benchmark.
    pub data: BTreeMap<BenchName, PathBuf>,
}

/// Which guard looks at the responses of benchmarks, where any variant of a file has a guard or Constitutional AI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeGuard {
    /// One that filters nothing, and is fitted on goals, answers and refusals of its own.
    Independent,
    /// The first variant's that has one: it filtered what is measured, and was fitted on the same kinds of rows.
    Filter,
    /// None.
    Off,
}

/// One of `[[evaluation.own]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOwn {
    name: String,
    #[serde(default)]
    kind: OwnKind,
    file: PathBuf,
    refusal_strings: Option<RawStrings>,
    prompts: Option<usize>,
    max_new_tokens: Option<usize>,
}

/// Refusal strings, or a file with one a line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawStrings {
    Listed(Vec<String>),
    File(PathBuf),
}

impl RawOwn {
    fn check(&self, key: &str, rules: &mut Rules) {
        if let Some(problem) = own::name_problem(&self.name) {
            rules.complain(&format!("{key}.name"), problem);
        }
        rules.at_least_one(&format!("{key}.prompts"), self.prompts.unwrap_or(1));
        rules.at_least_one(&format!("{key}.max_new_tokens"), self.max_new_tokens.unwrap_or(1));
        rules.check(
            self.refusal_strings.is_none() || self.kind == OwnKind::Refusal,
            &format!("{key}.refusal_strings"),
            || format!("is set, but {:?} has no refusals; allowed with kind = \"refusal\"", self.kind.name()),
        );
        let is_compared = matches!(self.kind, OwnKind::Choice | OwnKind::ChoiceText);
        rules.check(self.max_new_tokens.is_none() || !is_compared, &format!("{key}.max_new_tokens"), || {
            format!("is set, but {:?} has no responses; remove it", self.kind.name())
        });
        if let Some(RawStrings::Listed(strings)) = &self.refusal_strings {
            let is_whole = !strings.is_empty() && strings.iter().all(|string| !string.trim().is_empty());
            rules.check(is_whole, &format!("{key}.refusal_strings"), || {
                "found none, or an empty one; expected strings, or a file with one a line".into()
            });
        }
    }

    fn check_data(&self, key: &str, folder: &Path, rules: &mut Rules) {
        let file = folder.join(&self.file);
        if !file.is_file() {
            rules.lacks(&format!("{key}.file"), format!("found no file {}; allowed: one that exists", file.display()));
        }
        if let Some(RawStrings::File(path)) = &self.refusal_strings {
            match own::load_refusal_strings(&folder.join(path)) {
                Ok(_) => {}
                Err(error @ DataError::Io { .. }) => rules.lacks(&format!("{key}.refusal_strings"), error.to_string()),
                Err(error) => rules.complain(&format!("{key}.refusal_strings"), error.to_string()),
            }
        }
    }

    fn resolve(&self, folder: &Path) -> OwnBenchmark {
        OwnBenchmark {
            name: self.name.clone(),
            kind: self.kind,
            file: folder.join(&self.file),
            refusal_strings: match &self.refusal_strings {
                Some(RawStrings::Listed(strings)) => Some(strings.clone()),
                // That it can be read has been checked.
                Some(RawStrings::File(path)) => own::load_refusal_strings(&folder.join(path)).ok(),
                None => None,
            },
            prompts: self.prompts,
            max_new_tokens: self.max_new_tokens,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEvaluation {
    pub schedule: ScheduleName,
    pub every: u32,
    pub base: bool,
    pub benches: BTreeSet<BenchName>,
    pub own: Vec<RawOwn>,
    pub interim_benches: Option<BTreeSet<String>>,
    pub prompts: usize,
    pub hhh_items: usize,
    pub xstest_prompts: Option<usize>,
    pub mt_bench_questions: Option<usize>,
    pub split: GoalSplit,
    pub advbench_goals: MeasuredGoals,
    pub advbench_suffix: String,
    pub interim_prompts: usize,
    pub utility_rows: usize,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub matcher: RefusalMatcher,
    pub mt_bench_max_new_tokens: usize,
    pub judge: Option<RawEndpoint>,
    pub judge_guard: Option<JudgeGuard>,
    pub data: BTreeMap<BenchName, PathBuf>,
}

impl Default for RawEvaluation {
    fn default() -> Self {
        Self {
            schedule: ScheduleName::LastRound,
            every: 1,
            base: false,
            benches: BTreeSet::from([BenchName::AdvBench, BenchName::Utility]),
            own: Vec::new(),
            interim_benches: None,
            prompts: 64,
            hhh_items: HHH_ITEMS,
            xstest_prompts: None,
            mt_bench_questions: None,
            split: GoalSplit::default(),
            advbench_goals: MeasuredGoals::default(),
            advbench_suffix: String::new(),
            interim_prompts: 32,
            utility_rows: 48,
            max_new_tokens: 40,
            temperature: 0.0,
            matcher: RefusalMatcher::OpenFedLlm,
            mt_bench_max_new_tokens: MT_BENCH_NEW_TOKENS,
            judge: None,
            judge_guard: None,
            data: BTreeMap::new(),
        }
    }
}

impl RawEvaluation {
    /// `trains_on_goals` says whether Constitutional AI takes its red prompts from AdvBench.
    pub(super) fn check(&self, rounds: u32, trains_on_goals: bool, rules: &mut Rules) {
        let is_for_development = self.advbench_goals == MeasuredGoals::Development;
        rules.check(!is_for_development || self.split == GoalSplit::Cluster, "evaluation.advbench_goals", || {
            "found \"development\" with evaluation.split = \"fixed\", which has no goals for it; allowed with it: \"held_out\", \"all\""
                .into()
        });
        rules.check(!is_for_development || !trains_on_goals, "evaluation.advbench_goals", || {
            "found \"development\", whose goals are the red prompts of this Constitutional AI; set cai.prompts, for example to \
             \"do-not-answer\""
                .into()
        });
        rules.at_least_one("evaluation.prompts", self.prompts);
        rules.at_least_one("evaluation.interim_prompts", self.interim_prompts);
        rules.at_least_one("evaluation.max_new_tokens", self.max_new_tokens);
        rules.at_least_one("evaluation.hhh_items", self.hhh_items);
        rules.at_least_one("evaluation.xstest_prompts", self.xstest_prompts.unwrap_or(1));
        rules.at_least_one("evaluation.mt_bench_questions", self.mt_bench_questions.unwrap_or(1));
        rules.at_least_one("evaluation.mt_bench_max_new_tokens", self.mt_bench_max_new_tokens);
        rules.not_negative("evaluation.temperature", self.temperature);
        if let Some(judge) = &self.judge {
            judge.check("evaluation.judge", rules);
            rules.check(self.benches.contains(&BenchName::MtBench), "evaluation.judge", || {
                "is set, but only mt_bench has a judge; add \"mt_bench\" to evaluation.benches".into()
            });
        }
        let needs_data = self.benches.contains(&BenchName::XsTest) && !self.data.contains_key(&BenchName::XsTest);
        rules.check(!needs_data, "evaluation.benches", || {
            "found \"xstest\", whose data is in no Python package; get xstest_prompts.csv and give its path by \
             evaluation.data.xstest"
                .into()
        });
        let shares_goals = self.split == GoalSplit::Fixed && self.judge_guard == Some(JudgeGuard::Independent);
        rules.check(!shares_goals, "evaluation.judge_guard", || {
            "found \"independent\", which evaluation.split = \"fixed\" leaves no goals of its own; allowed with it: \"filter\", \"off\""
                .into()
        });
        let names = self.names();
        for bench in self.interim_benches.iter().flatten() {
            rules.check(names.contains(&bench.as_str()), "evaluation.interim_benches", || {
                format!(
                    "found {bench:?}; allowed: those of evaluation.benches and evaluation.own: {}",
                    names.join(", ")
                )
            });
        }
        let mut seen = BTreeSet::new();
        for (index, own) in self.own.iter().enumerate() {
            let key = format!("evaluation.own[{index}]");
            own.check(&key, rules);
            rules.check(seen.insert(&own.name), &format!("{key}.name"), || {
                format!("found {:?} twice; give each a name of its own", own.name)
            });
        }
        for bench in self.data.keys() {
            rules.check(*bench != BenchName::Utility, &format!("evaluation.data.{}", bench.name()), || {
                "cannot be set: its rows come from [data], so that no client trains on them".into()
            });
        }
        self.schedule.check("evaluation.every", self.every, rounds, rules);
    }

    /// The names of all that is measured.
    fn names(&self) -> Vec<&str> {
        let own = self.own.iter().map(|own| own.name.as_str());
        self.benches.iter().map(|bench| bench.name()).chain(own).collect()
    }

    /// Whether the data sets of the user's own are there.
    pub(super) fn check_data(&self, folder: &Path, rules: &mut Rules) {
        for (index, own) in self.own.iter().enumerate() {
            own.check_data(&format!("evaluation.own[{index}]"), folder, rules);
        }
        for (bench, path) in &self.data {
            let path = folder.join(path);
            if !path.exists() {
                let message = format!("found no file or directory {}; allowed: one that exists", path.display());
                rules.lacks(&format!("evaluation.data.{}", bench.name()), message);
            }
        }
    }

    /// Relative paths are relative to `folder`; waits of the judge's client are drawn with `seed`.
    pub(super) fn resolve(&self, folder: &Path, seed: u64) -> EvaluationSection {
        EvaluationSection {
            schedule: self.schedule.resolve(self.every),
            base: self.base,
            benches: self.benches.clone(),
            own: self.own.iter().map(|own| own.resolve(folder)).collect(),
            interim_benches: match &self.interim_benches {
                Some(names) => names.clone(),
                None => self.names().into_iter().map(str::to_owned).collect(),
            },
            prompts: self.prompts,
            hhh_items: self.hhh_items,
            xstest_prompts: self.xstest_prompts,
            mt_bench_questions: self.mt_bench_questions,
            split: self.split,
            advbench_goals: self.advbench_goals,
            advbench_suffix: self.advbench_suffix.clone(),
            interim_prompts: self.interim_prompts.min(self.prompts),
            utility_rows: self.utility_rows,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            matcher: self.matcher,
            mt_bench_max_new_tokens: self.mt_bench_max_new_tokens,
            judge: self.judge.as_ref().map(|judge| judge.resolve(seed)),
            judge_guard: self.judge_guard.unwrap_or(match self.split {
                GoalSplit::Cluster => JudgeGuard::Independent,
                GoalSplit::Fixed => JudgeGuard::Filter,
            }),
            data: self.data.iter().map(|(bench, path)| (*bench, folder.join(path))).collect(),
        }
    }
}

impl EvaluationSection {
    /// What a run with this section takes for granted.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let decoding =
            if self.temperature == 0.0 { "greedy".to_owned() } else { format!("temperature {}", self.temperature) };
        let mut assumptions = Vec::new();
        if self.benches.contains(&BenchName::AdvBench) {
            assumptions.push(format!(
                "AdvBench: {}{} {}, {decoding} decoding, {} new tokens, {} refusal strings; OpenFedLLM appends \".\" and samples at \
                 0.7 with 1,024 new tokens",
                match self.advbench_goals {
                    _ if self.data.contains_key(&BenchName::AdvBench) => "all prompts of a file",
                    MeasuredGoals::HeldOut => "held-out goals",
                    MeasuredGoals::Development => "goals for development, whose results choose settings and are not reported",
                    MeasuredGoals::All => "all goals (those that fedward's own training rows are made of among them)",
                },
                match self.split {
                    GoalSplit::Cluster => "",
                    GoalSplit::Fixed => " (near-duplicates of which train)",
                },
                if self.advbench_suffix.is_empty() {
                    "as they are".to_owned()
                } else {
                    format!("with {:?} appended", self.advbench_suffix)
                },
                self.max_new_tokens,
                self.matcher.name()
            ));
        }
        let sets = [
            BenchName::HarmBench,
            BenchName::StrongReject,
            BenchName::DoNotAnswer,
            BenchName::PastTense,
            BenchName::Jailbreak,
        ];
        let sets: Vec<_> = sets.into_iter().filter(|set| self.benches.contains(set)).map(BenchName::name).collect();
        if !sets.is_empty() {
            assumptions.push(format!(
                "{}: {decoding} decoding, {} new tokens, {} refusal strings; their authors judge responses by models of their own",
                sets.join(", "),
                self.max_new_tokens,
                self.matcher.name()
            ));
        }
        if self.benches.contains(&BenchName::Hhh) {
            assumptions.push(
                "HHH: candidates are whole answers in the chat template, the closing token included; the paper does not say"
                    .to_owned(),
            );
        }
        if self.benches.contains(&BenchName::MtBench) {
            let judge = self.judge.as_ref().map_or("none: no ratings", |judge| judge.model.as_str());
            assumptions.push(format!("MT-Bench first turn: judge {judge} (the paper does not name its judge)"));
        }
        assumptions
    }
}
