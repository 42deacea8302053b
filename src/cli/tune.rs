//! `fedward tune`: centralised fine-tuning, the upper baseline of a federation.

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use clap::Args;
use fedward_actors::{
    cancel::CancelFlag,
    protocol::{Adapter, ChatRow, RoundId},
};
use miette::IntoDiagnostic;
use serde_json::{Value, json};

use super::{
    Ending,
    model_args::{AdapterArgs, ModelArgs, check_lora},
    outputs, print_json,
};
use crate::{
    data::{PreferencePair, RowFormat, load_pairs, load_rows},
    lora::{LoraConfig, Target, initial_adapter, peft},
    model::{ChatModel, device},
    progress::Progress,
    report::Console,
    telemetry::ProcessMemory,
    train::{
        DpoSettings, DpoStep, LONE_SHARDS, SftSettings, StepReport, TokenizedPair, TrainStreams, train_dpo, train_sft,
    },
};

const SFT_LEARNING_RATE: f64 = 5e-4;
const DPO_LEARNING_RATE: f64 = 1e-4;

#[derive(Debug, Args)]
pub(super) struct TuneArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Chat rows in any form that scenarios take; with --dpo preference pairs: prompt, chosen and rejected
    #[arg(long)]
    data: PathBuf,
    /// Train on preferences by Direct Preference Optimization; the reference is the adapter as it is before
    #[arg(long)]
    dpo: bool,
    /// How strongly DPO holds the adapter to its reference
    #[arg(long, default_value_t = 0.1, requires = "dpo")]
    beta: f64,
    /// Where the adapter is written, as a PEFT directory
    #[arg(long)]
    out: PathBuf,
    /// Optimizer steps
    #[arg(long, default_value_t = 100)]
    steps: usize,
    /// Rows (with --dpo pairs) a step
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Tokens after which a row is cut
    #[arg(long, default_value_t = 512)]
    max_length: usize,
    /// Most tokens computed in one pass; a larger batch is split, with the same gradient, and takes less memory [default:
    /// 1536, on CUDA 8192]
    #[arg(long)]
    pass_tokens: Option<usize>,
    /// Compute each layer twice instead of keeping what it computed: the same gradient in less memory
    #[arg(long)]
    checkpoint_activations: bool,
    /// Rank of a new adapter
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Alpha of a new adapter
    #[arg(long, default_value_t = 32.0, allow_negative_numbers = true)]
    alpha: f64,
    /// Layers of a new adapter
    #[arg(long, value_delimiter = ',', default_value = "q_proj,v_proj")]
    targets: Vec<Target>,
    /// Learning rate [default: 5e-4, with --dpo 1e-4]
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Seed of starting values and row order
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Fine-tunes, saves the adapter, and prints one line of JSON about it.
pub(super) fn tune(args: &TuneArgs) -> miette::Result<Ending> {
    args.check()?;
    let console = Console::new();
    let task = Task::read(args)?;
    let model = args.model.load(&console)?;
    let (lora, start) = if let Some(loaded) = args.adapter.load(&model)?.into_parts() {
        loaded
    } else {
        let lora = args.new_adapter();
        let start = initial_adapter(&lora, model.base.config(), args.seed);
        (lora, start)
    };
    let (adapter, seconds, mut report) = match &task {
        Task::Rows(rows) => on_rows(args, rows, &model, &lora, &start, &console)?,
        Task::Pairs(pairs) => on_pairs(args, pairs, &model, &lora, &start, &console)?,
    };
    peft::save(&args.out, &lora, &adapter, &model.name).into_diagnostic()?;
    console.finish();
    report["steps"] = json!(args.steps);
    report["train_seconds"] = json!(seconds);
    report["train_tokens_per_second"] = json!(report["train_tokens"].as_f64().unwrap_or_default() / seconds);
    report["peak_memory_bytes"] = json!(ProcessMemory::read().map(|memory| memory.peak_bytes));
    if let Some(bytes) = device::peak_memory(model.base.device()) {
        report["peak_device_memory_bytes"] = json!(bytes);
    }
    report["adapter"] = json!(args.out);
    print_json(&report)?;
    Ok(Ending::Done)
}

/// What there is to learn.
enum Task {
    Rows(Vec<ChatRow>),
    Pairs(Vec<PreferencePair>),
}

impl Task {
    fn read(args: &TuneArgs) -> miette::Result<Self> {
        if args.dpo {
            return load_pairs(&args.data).map(Self::Pairs).into_diagnostic();
        }
        load_rows(&args.data, RowFormat::Auto).map(Self::Rows).into_diagnostic()
    }
}

/// Supervised fine-tuning: the adapter, seconds from the first step on, and what is to be said of it.
fn on_rows(
    args: &TuneArgs,
    rows: &[ChatRow],
    model: &ChatModel,
    lora: &LoraConfig,
    start: &Adapter,
    console: &Console,
) -> miette::Result<(Adapter, f64, Value)> {
    let tokenized = model.tokenize(rows, args.max_length).into_diagnostic()?;
    if tokenized.is_empty() {
        miette::bail!("{}: none of its {} rows has a response that fits", args.data.display(), rows.len());
    }
    let settings = SftSettings {
        max_grad_norm: Some(1.0),
        pass_tokens: args.pass_tokens,
        checkpoint_activations: args.checkpoint_activations,
        shards: LONE_SHARDS,
        ..SftSettings::new(args.steps, args.batch_size, args.lr.unwrap_or(SFT_LEARNING_RATE))
    };
    let cut = tokenized.iter().filter(|row| model.tokenizer.is_cut(row)).count();
    args.tell_of_cuts("rows", rows.len() - tokenized.len(), cut, model, console);
    console.stage(&format!("fine-tuning on {} rows", tokenized.len()));
    let streams = TrainStreams::of(args.seed, RoundId::START, None);
    let mut on_step = |report: &StepReport| console.step(report.step as u64, args.steps as u64);
    let cancel = CancelFlag::new();
    let started = Instant::now();
    let outcome =
        train_sft(&model.base, lora, start, &tokenized, &settings, streams, &cancel, &mut on_step).into_diagnostic()?;
    let seconds = started.elapsed().as_secs_f64();
    let report = json!({
        "train_tokens": outcome.tokens,
        "final_loss": outcome.losses.last(),
        "mean_loss": outcome.mean_loss(),
    });
    Ok((outcome.adapter, seconds, report))
}

/// Direct Preference Optimization: the adapter, seconds from the first step on, and what is to be said of it.
fn on_pairs(
    args: &TuneArgs,
    pairs: &[PreferencePair],
    model: &ChatModel,
    lora: &LoraConfig,
    start: &Adapter,
    console: &Console,
) -> miette::Result<(Adapter, f64, Value)> {
    let tokenized: Vec<_> = pairs
        .iter()
        .map(|pair| TokenizedPair::of(model, pair, args.max_length))
        .collect::<Result<_, _>>()
        .into_diagnostic()?;
    let tokenized: Vec<_> = tokenized.into_iter().flatten().collect();
    let left_out = pairs.len() - tokenized.len();
    let is_cut = |pair: &&TokenizedPair| [&pair.chosen, &pair.rejected].iter().any(|row| model.tokenizer.is_cut(row));
    args.tell_of_cuts("pairs", 0, tokenized.iter().filter(is_cut).count(), model, console);
    if tokenized.is_empty() {
        let data = args.data.display();
        miette::bail!("{data}: none of its {} pairs has two responses that fit and differ", pairs.len());
    }
    let settings = DpoSettings {
        beta: args.beta,
        max_grad_norm: Some(1.0),
        pass_tokens: args.pass_tokens,
        checkpoint_activations: args.checkpoint_activations,
        shards: LONE_SHARDS,
        ..DpoSettings::new(args.steps, args.batch_size, args.lr.unwrap_or(DPO_LEARNING_RATE))
    };
    console.stage(&format!("training on {} preference pairs", tokenized.len()));
    let streams = TrainStreams::of_preferences(args.seed, RoundId::START);
    let mut on_step = |step: &DpoStep| console.step(step.step as u64, args.steps as u64);
    let cancel = CancelFlag::new();
    let started = Instant::now();
    let outcome =
        train_dpo(&model.base, lora, start, &tokenized, &settings, streams, &cancel, &mut on_step).into_diagnostic()?;
    let seconds = started.elapsed().as_secs_f64();
    let last = outcome.steps.last();
    let report = json!({
        "pairs": tokenized.len(),
        "pairs_left_out": left_out,
        "train_tokens": outcome.tokens,
        "reference_tokens": outcome.reference_tokens,
        "final_loss": last.map(|step| step.loss),
        "mean_loss": outcome.mean(|step| step.loss),
        "final_reward_margin": last.map(|step| step.margin),
        "final_reward_accuracy": last.map(|step| step.accuracy),
        "mean_reward_margin": outcome.mean(|step| step.margin),
        "mean_reward_accuracy": outcome.mean(|step| step.accuracy),
    });
    Ok((outcome.adapter, seconds, report))
}

impl TuneArgs {
    /// What can be told to be wrong before anything is read.
    fn check(&self) -> miette::Result<()> {
        if self.steps == 0 || self.batch_size == 0 {
            miette::bail!("--steps and --batch-size: found 0; allowed: 1 or more");
        }
        check_lora(self.rank, self.alpha)?;
        for (option, value) in [("--lr", self.lr), ("--beta", Some(self.beta))] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                miette::bail!("{option}: found {value}; allowed: a number above 0");
            }
        }
        for (option, value) in [("--max-length", Some(self.max_length)), ("--pass-tokens", self.pass_tokens)] {
            if let Some(value) = value.filter(|value| *value < 16) {
                miette::bail!("{option}: found {value}; allowed: 16 tokens or more");
            }
        }
        outputs::check_folder(&self.out, peft::CONFIG_FILE)
    }

    fn tell_of_cuts(&self, what: &str, left_out: usize, cut: usize, model: &ChatModel, console: &Console) {
        let max_length = self.max_length.min(model.context());
        for (count, note) in [(left_out, "left out: no response within"), (cut, "cut after")] {
            if count > 0 {
                console.line(&format!("{what} {note} {max_length} tokens: {count}"));
            }
        }
    }

    fn new_adapter(&self) -> LoraConfig {
        let targets: BTreeSet<_> = self.targets.iter().copied().collect();
        LoraConfig { rank: self.rank, alpha: self.alpha, dropout: 0.0, targets, use_rslora: false }
    }
}
