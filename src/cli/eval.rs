//! `fedward eval`: benchmarks of a model and an adapter, without a federation.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use fedward_actors::{cancel::CancelFlag, policy::Assessed, ports::GuardModel};
use miette::{IntoDiagnostic, miette};
use serde_json::{Value, json};

use super::{
    Ending,
    guard::OpenGuardArgs,
    model_args::{AdapterArgs, ModelArgs, temperature},
    outputs::OutFile,
    print_json,
};
use crate::{
    data::{GoalSplit, MeasuredGoals, RowFormat, held_out_benign_rows, load_rows},
    endpoint::{EndpointSettings, ExtraBody},
    eval::{
        BenchName, BenchRecipe, Measurement, OwnBenchmark, OwnKind, RecipeError, RefusalMatcher, Subject,
        own::{load_refusal_strings, name_problem},
    },
    model::Decoding,
    progress::Progress,
    report::Console,
    store::RunDirectory,
};

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Benchmarks [default: advbench,utility, or none beside --own]
    #[arg(long, value_enum, value_delimiter = ',')]
    bench: Vec<BenchName>,
    /// A benchmark of your own, for example refusal:mine=prompts.txt; of kind `refusal`, `choice`, `choice_text` or `exact`
    #[arg(long = "own", value_name = "KIND:NAME=FILE", value_parser = parse_own)]
    own: Vec<OwnBenchmark>,
    /// A file of strings, one a line, by which answers to prompts of your own are refusals [default: the list of --matcher]
    #[arg(long, value_name = "FILE", requires = "own")]
    own_refusals: Option<PathBuf>,
    /// Prompts or rows of each benchmark, drawn with the seed [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// What prompts are drawn and responses sampled with
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Longest response to prompts that may be refused, in tokens
    #[arg(long, default_value = "40")]
    max_new_tokens: NonZeroUsize,
    /// Sampling temperature, but for MT-Bench; 0 is greedy
    #[arg(long, default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    temperature: f64,
    /// Longest MT-Bench answer, in tokens
    #[arg(long, default_value = "1024")]
    mt_bench_max_new_tokens: NonZeroUsize,
    /// How advbench's goals are parted [default: as in the run that --adapter comes from, else cluster]
    #[arg(long, value_enum)]
    advbench_split: Option<GoalSplit>,
    /// What a split by cluster is drawn with [default: that of the run that --adapter comes from, else 0]
    #[arg(long, value_name = "N")]
    data_seed: Option<u64>,
    /// Which of advbench's goals prompts (of jailbreak, too) are drawn from; all, where --data names a file of your own
    #[arg(long, value_enum, default_value = "held_out")]
    advbench_goals: MeasuredGoals,
    /// What is appended to advbench's goals; OpenFedLLM appends a full stop
    #[arg(long, value_name = "TEXT", default_value = "")]
    advbench_suffix: String,
    /// Which list of refusal strings counts; all of them are reported
    #[arg(long, default_value_t = RefusalMatcher::OpenFedLlm)]
    matcher: RefusalMatcher,
    /// A data set of your own in place of the catalogue's, for example utility=held-out.jsonl
    #[arg(long = "data", value_name = "BENCH=PATH", value_parser = parse_data)]
    data: Vec<(BenchName, PathBuf)>,
    #[command(flatten)]
    judge: JudgeArgs,
    #[command(flatten)]
    guard: OpenGuardArgs,
    /// Write one line of JSON a prompt: checksums, lengths, verdicts
    #[arg(long, value_name = "FILE")]
    details: Option<PathBuf>,
    /// Write prompts and responses, too; they may be harmful
    #[arg(long, requires = "details")]
    with_text: bool,
}

/// The judge of `mt_bench`.
#[derive(Debug, Args)]
struct JudgeArgs {
    /// Rates MT-Bench answers: the base URL of an OpenAI-compatible endpoint, up to and with /v1
    #[arg(long, value_name = "URL", requires = "judge_model")]
    judge: Option<String>,
    /// The judge's model
    #[arg(long, value_name = "MODEL", requires = "judge")]
    judge_model: Option<String>,
    /// The environment variable that holds the judge's key
    #[arg(long, value_name = "VARIABLE", requires = "judge")]
    judge_key_env: Option<String>,
    /// Requests a minute, at most
    #[arg(long, value_name = "N", requires = "judge")]
    judge_rpm: Option<NonZeroU32>,
    /// Requests at a time, at most
    #[arg(long, value_name = "N", default_value = "4")]
    judge_parallel: NonZeroUsize,
    /// Seconds that one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    judge_timeout: u64,
    /// How often a request is sent again after a fault that may pass
    #[arg(long, value_name = "N", default_value_t = 5)]
    judge_max_retries: u32,
    /// Longest wait before a retry, in seconds; a judge that asks for more patience is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    judge_max_delay: u64,
    /// Fields of requests that the judge's server wants beside the usual ones or in their place, for example '{"seed": 1}'
    #[arg(long, value_name = "JSON", requires = "judge", value_parser = ExtraBody::parse)]
    judge_extra_body: Option<ExtraBody>,
}

impl JudgeArgs {
    fn settings(&self, seed: u64) -> Option<EndpointSettings> {
        let (base_url, model) = (self.judge.as_ref()?, self.judge_model.as_ref()?);
        Some(EndpointSettings {
            api_key_env: self.judge_key_env.clone(),
            requests_per_minute: self.judge_rpm,
            parallel: self.judge_parallel,
            timeout: Duration::from_secs(self.judge_timeout.max(1)),
            max_retries: self.judge_max_retries,
            max_delay: Duration::from_secs(self.judge_max_delay.max(1)),
            seed,
            extra_body: self.judge_extra_body.clone().unwrap_or_default(),
            ..EndpointSettings::new(base_url, model)
        })
    }
}

fn parse_data(text: &str) -> Result<(BenchName, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("found no =; expected BENCH=PATH")?;
    Ok((BenchName::from_str(name, false)?, path.into()))
}

fn parse_own(text: &str) -> Result<OwnBenchmark, String> {
    let kinds = || OwnKind::ALL.map(OwnKind::name).join(", ");
    let (kind, rest) =
        text.split_once(':').ok_or_else(|| format!("found no :; expected KIND:NAME=FILE, KIND one of {}", kinds()))?;
    let (name, file) = rest.split_once('=').ok_or("found no =; expected KIND:NAME=FILE")?;
    let kind = OwnKind::find(kind).ok_or_else(|| format!("found kind {kind:?}; allowed: {}", kinds()))?;
    if let Some(problem) = name_problem(name) {
        return Err(format!("name: {problem}"));
    }
    let (refusal_strings, prompts, max_new_tokens) = (None, None, None);
    Ok(OwnBenchmark { name: name.to_owned(), kind, file: file.into(), refusal_strings, prompts, max_new_tokens })
}

/// Prints one line of JSON a benchmark: `{"bench": "advbench", "model": …, "adapter": …, "n": …, "refusal_rate": …, …}`.
pub(super) fn eval(args: &EvalArgs) -> miette::Result<Ending> {
    let console = Console::new();
    let cancel = CancelFlag::new();
    let mut details = args.details.as_deref().map(OutFile::new).transpose()?;
    let guard = args.guard.open(&args.model.section(), &console)?;
    if guard.as_ref().is_some_and(|opened| opened.reads() == Assessed::Query) {
        return Err(miette!(
            "--guard: it was fitted on prompts alone, so it cannot judge responses; name one that reads them"
        ));
    }
    let recipe = args.recipe(guard.as_ref().map(|opened| Arc::clone(&opened.guard) as _))?;
    if recipe.split == GoalSplit::Fixed && recipe.advbench_goals == MeasuredGoals::Development {
        return Err(miette!(
            "--advbench-goals: found development, which goals parted by checksum have not; allowed: held_out, all"
        ));
    }
    // What is missing should show before anything is computed.
    let benches = args.benches();
    let known = benches.iter().map(|&bench| recipe.benchmark(bench, &cancel));
    let own = args.own()?;
    let benchmarks = known.chain(own.iter().map(|own| recipe.own(own)));
    let benchmarks = benchmarks.collect::<Result<Vec<_>, RecipeError>>().into_diagnostic()?;
    let model = args.model.load(&console)?;
    let adapter = args.adapter.load(&model)?;
    let subject = Subject {
        model: &model,
        adapter: adapter.as_ref(),
        seed: args.seed,
        limit: None,
        cancel: &cancel,
        progress: &console,
    };
    let goals_measure = [BenchName::AdvBench, BenchName::Jailbreak].iter().any(|bench| benches.contains(bench));
    if goals_measure && !recipe.data.contains_key(&BenchName::AdvBench) {
        console.line(&format!(
            "advbench: goals parted by {} with data seed {}; what another seed holds out may have been trained on",
            if recipe.split == GoalSplit::Fixed { "checksum" } else { "cluster" },
            recipe.data_seed
        ));
    }
    if recipe.judge.is_none() && benches.contains(&BenchName::MtBench) {
        console.line(
            "mt_bench: without --judge nothing is rated; the likelihood of the reference answers is printed instead",
        );
    }
    console.stage(&format!("evaluating {}", model.name));
    let mut failures = Vec::new();
    for benchmark in benchmarks {
        let begun = Instant::now();
        let found = match benchmark.measure(&subject) {
            Ok(found) => found,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        for warning in &found.warnings {
            console.line(warning);
        }
        let mut line = line_of(&found, &model.name, args.adapter.adapter.as_deref());
        line["seconds"] = json!(begun.elapsed().as_secs_f64());
        print_json(&line)?;
        if let Some(details) = &mut details {
            details.add(&details_of(&found, args.with_text))?;
        }
    }
    console.finish();
    if failures.is_empty() { Ok(Ending::Done) } else { Err(miette!("{}", failures.join("\n"))) }
}

impl EvalArgs {
    /// How goals are parted and with which seed: as is said, else as in the run whose adapter is measured, so that what it was
    /// trained on is not taken for held out.
    fn parting(&self) -> (GoalSplit, u64) {
        let run = self.adapter.adapter.as_deref().and_then(Path::parent).and_then(parting_of_run);
        let (split, seed) = run.unwrap_or_default();
        (self.advbench_split.unwrap_or(split), self.data_seed.unwrap_or(seed))
    }

    fn benches(&self) -> BTreeSet<BenchName> {
        if self.bench.is_empty() && self.own.is_empty() {
            return BTreeSet::from([BenchName::AdvBench, BenchName::Utility]);
        }
        self.bench.iter().copied().collect()
    }

    /// Benchmarks of the user's own, with their refusal strings.
    fn own(&self) -> miette::Result<Vec<OwnBenchmark>> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.own.iter().find(|own| !names.insert(&own.name)) {
            return Err(miette!("--own: found {:?} twice; give each a name of its own", twice.name));
        }
        let strings = self.own_refusals.as_deref().map(load_refusal_strings).transpose().into_diagnostic()?;
        let mut own = self.own.clone();
        let of_refusals = own.iter_mut().filter(|own| own.kind == OwnKind::Refusal);
        of_refusals.for_each(|own| own.refusal_strings.clone_from(&strings));
        Ok(own)
    }

    fn recipe(&self, guard: Option<Arc<dyn GuardModel>>) -> miette::Result<BenchRecipe> {
        let (split, data_seed) = self.parting();
        let limit = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let data = self.data.iter().cloned().collect::<BTreeMap<_, _>>();
        let utility_rows = match data.get(&BenchName::Utility) {
            _ if !self.benches().contains(&BenchName::Utility) => Vec::new(),
            Some(path) => load_rows(path, RowFormat::Auto).into_diagnostic()?.into_iter().take(limit).collect(),
            None => held_out_benign_rows(self.seed, limit),
        };
        Ok(BenchRecipe {
            prompts: limit,
            hhh_items: limit,
            xstest_prompts: limit,
            mt_bench_questions: limit,
            split,
            data_seed,
            advbench_goals: self.advbench_goals,
            advbench_suffix: self.advbench_suffix.clone(),
            decoding: Decoding::new(self.max_new_tokens.get(), self.temperature),
            mt_bench_max_new_tokens: self.mt_bench_max_new_tokens.get(),
            matcher: self.matcher,
            seed: self.seed,
            data,
            judge: self.judge.settings(self.seed),
            guard,
            utility_rows,
            harmful_prompts: None,
        })
    }
}

/// The split and the data seed of a run, by its manifest. One that says nothing of a split is of a time when there was one alone.
fn parting_of_run(run: &Path) -> Option<(GoalSplit, u64)> {
    let scenario = RunDirectory::open(run).ok()?.manifest().ok()?["scenario"].take();
    let seed = scenario["seeds"]["data"].as_u64().or(scenario["seed"].as_u64())?;
    let split = scenario["evaluation"]
        .get("split")
        .map_or(Some(GoalSplit::Fixed), |split| serde_json::from_value(split.clone()).ok())?;
    Some((split, seed))
}

/// What is printed of a benchmark.
fn line_of(found: &Measurement, model: &str, adapter: Option<&Path>) -> Value {
    let mut line = json!({ "bench": found.name, "model": model, "adapter": adapter, "n": found.score.n });
    for (name, value) in &found.score.values {
        line[name] = json!(value);
    }
    line
}

/// What `--details` gets of a benchmark.
fn details_of(found: &Measurement, with_text: bool) -> String {
    let lines = found.findings.iter().map(|finding| finding.to_json(&found.name, with_text).to_string() + "\n");
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_of_a_run_is_measured_on_what_its_run_held_out() {
        let run = tempfile::tempdir().unwrap();
        let parting = |scenario: Value| {
            let manifest = json!({"scenario": scenario, "versions": {"fedward": "1"}});
            std::fs::write(run.path().join("manifest.json"), manifest.to_string()).unwrap();
            parting_of_run(run.path())
        };
        let cluster = json!({"seed": 7, "evaluation": {"split": "cluster"}});
        assert_eq!(parting(cluster.clone()), Some((GoalSplit::Cluster, 7)));
        let mut apart = cluster;
        apart["seeds"] = json!({"data": 3});
        assert_eq!(parting(apart), Some((GoalSplit::Cluster, 3)));
        assert_eq!(parting(json!({"seed": 7, "evaluation": {}})), Some((GoalSplit::Fixed, 7)));
        assert_eq!(parting_of_run(&run.path().join("nowhere")), None);
    }
}
