//! `fedward tune`: centralised fine-tuning, the upper baseline of a federation.

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use clap::Args;
use fedward_actors::{cancel::CancelFlag, protocol::RoundId};
use miette::IntoDiagnostic;
use serde_json::json;

use super::{
    Ending,
    model_args::{AdapterArgs, ModelArgs},
    print_json,
};
use crate::{
    data::{RowFormat, load_rows},
    lora::{LoraConfig, Target, initial_adapter, peft},
    report::Console,
    telemetry::ProcessMemory,
    train::{SftSettings, StepReport, TrainStreams, train_sft},
    wiring::Progress,
};

/// Parts of a batch that are computed side by side.
const SHARDS: usize = 2;

#[derive(Debug, Args)]
pub(super) struct TuneArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Chat rows in any form that scenarios take
    #[arg(long)]
    data: PathBuf,
    /// Where the adapter is written, as a PEFT directory
    #[arg(long)]
    out: PathBuf,
    /// Optimizer steps
    #[arg(long, default_value_t = 100)]
    steps: usize,
    /// Rows a step
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Tokens after which a row is cut
    #[arg(long, default_value_t = 512)]
    max_length: usize,
    /// Rank of a new adapter
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Alpha of a new adapter
    #[arg(long, default_value_t = 32.0)]
    alpha: f64,
    /// Layers of a new adapter
    #[arg(long, value_delimiter = ',', default_value = "q_proj,v_proj")]
    targets: Vec<Target>,
    /// Learning rate
    #[arg(long, default_value_t = 5e-4)]
    lr: f64,
    /// Seed of starting values and row order
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Fine-tunes, saves the adapter, and prints one line of JSON about it.
pub(super) fn tune(args: &TuneArgs) -> miette::Result<Ending> {
    let console = Console::new();
    let rows = load_rows(&args.data, RowFormat::Auto).into_diagnostic()?;
    let model = args.model.load(&console)?;
    let (lora, start) = if let Some(loaded) = args.adapter.load(&model)?.into_parts() {
        loaded
    } else {
        let lora = new_adapter(args)?;
        let start = initial_adapter(&lora, model.base.config(), args.seed);
        (lora, start)
    };
    let tokenized = model.tokenize(&rows, args.max_length).into_diagnostic()?;
    if tokenized.is_empty() {
        miette::bail!("{}: none of its {} rows has a response that fits", args.data.display(), rows.len());
    }
    let settings = SftSettings {
        max_grad_norm: Some(1.0),
        shards: SHARDS,
        ..SftSettings::new(args.steps, args.batch_size, args.lr)
    };
    console.stage(&format!("fine-tuning on {} rows", tokenized.len()));
    let streams = TrainStreams::of(args.seed, RoundId::START, None);
    let started = Instant::now();
    let mut on_step = |report: &StepReport| console.step(report.step as u64, args.steps as u64);
    let cancel = CancelFlag::new();
    let outcome = train_sft(&model.base, &lora, &start, &tokenized, &settings, streams, &cancel, &mut on_step)
        .into_diagnostic()?;
    let seconds = started.elapsed().as_secs_f64();
    peft::save(&args.out, &lora, &outcome.adapter, &model.name).into_diagnostic()?;
    console.finish();
    print_json(&json!({
        "steps": outcome.steps,
        "train_tokens": outcome.tokens,
        "train_tokens_per_second": outcome.tokens as f64 / seconds,
        "peak_memory_bytes": ProcessMemory::read().map(|memory| memory.peak_bytes),
        "final_loss": outcome.losses.last(),
        "mean_loss": outcome.mean_loss(),
        "adapter": args.out,
    }))?;
    Ok(Ending::Done)
}

fn new_adapter(args: &TuneArgs) -> miette::Result<LoraConfig> {
    if args.rank == 0 || args.steps == 0 || args.batch_size == 0 {
        miette::bail!("--rank, --steps and --batch-size: found 0; allowed: 1 or more");
    }
    let targets: BTreeSet<_> = args.targets.iter().copied().collect();
    Ok(LoraConfig { rank: args.rank, alpha: args.alpha, dropout: 0.0, targets, use_rslora: false })
}
