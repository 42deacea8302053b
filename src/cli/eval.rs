//! `fedward eval`: benchmarks of a model and an adapter, without a federation.

use std::{collections::BTreeSet, sync::Arc};

use clap::{Args, ValueEnum};
use fedward_actors::{
    cancel::CancelFlag,
    ports::{Benchmarks, EvaluationScope},
    protocol::RoundId,
    streams::{Purpose, stream},
};
use miette::IntoDiagnostic;
use rand::seq::SliceRandom;
use serde_json::json;

use super::{
    Ending,
    model_args::{AdapterArgs, ModelArgs},
    print_json,
};
use crate::{
    data::{AdvBench, AdvBenchPart, benign_rows, catalogue},
    eval::{BenchmarkSuite, RefusalMatcher},
    lora::{LoraConfig, Target, initial_adapter},
    model::Decoding,
    report::Console,
    wiring::Progress,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    Advbench,
    Utility,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Benchmarks
    #[arg(long, value_enum, value_delimiter = ',', default_value = "advbench,utility")]
    bench: Vec<Bench>,
    /// Prompts or rows of each benchmark, at most
    #[arg(long, default_value_t = 64)]
    limit: usize,
    /// What prompts are drawn with
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Longest response
    #[arg(long, default_value_t = 40)]
    max_new_tokens: usize,
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
}

/// Prints one line of JSON: `{"eval": {"advbench": {...}, ...}}`.
pub(super) fn eval(args: &EvalArgs) -> miette::Result<Ending> {
    let console = Console::new();
    let model = args.model.load(&console)?;
    // A fresh adapter's B is zero: it computes the base model.
    let (lora, adapter) = args.adapter.load(&model)?.into_parts().unwrap_or_else(|| {
        let targets = BTreeSet::from([Target::QProj]);
        let lora = LoraConfig { rank: 1, alpha: 1.0, dropout: 0.0, targets, use_rslora: false };
        let adapter = initial_adapter(&lora, model.base.config(), args.seed);
        (lora, adapter)
    });
    let mut suite = BenchmarkSuite {
        model: Arc::clone(&model),
        lora,
        harmful_prompts: Vec::new(),
        interim_prompts: 0,
        utility_rows: Vec::new(),
        decoding: Decoding { max_new_tokens: args.max_new_tokens, temperature: args.temperature },
        matcher: RefusalMatcher::OpenFedLlm,
        guard: None,
        seed: args.seed,
    };
    if args.bench.contains(&Bench::Advbench) {
        let path = catalogue::fetched("advbench").into_diagnostic()?;
        let mut goals = AdvBench::load(&path).into_diagnostic()?.goals(AdvBenchPart::Evaluation);
        goals.shuffle(&mut stream(args.seed, Purpose::Evaluation, RoundId::START, None));
        suite.harmful_prompts = goals.into_iter().take(args.limit).map(|goal| goal.text).collect();
    }
    if args.bench.contains(&Bench::Utility) {
        suite.utility_rows = benign_rows(args.seed, args.limit);
    }
    console.stage("evaluating");
    let evaluation =
        suite.evaluate(RoundId::START, &adapter, EvaluationScope::Full, &CancelFlag::new()).into_diagnostic()?;
    console.finish();
    print_json(&json!({ "model": model.name, "adapter": args.adapter.adapter, "eval": evaluation }))?;
    Ok(Ending::Done)
}
