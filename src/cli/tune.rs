//! `fedward tune`: centralised fine-tuning, the upper baseline of a federation.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Instant,
};

use clap::Args;
use fedward_actors::{
    cancel::CancelFlag,
    protocol::{Adapter, ChatRow, RoundId},
};
use miette::IntoDiagnostic;
use serde_json::{Value, json};

use super::{
    Ending,
    model_args::{AdapterArgs, ModelArgs, PassArgs, check_lora, check_tokens},
    outputs,
    overlap::tell_of_overlap,
    print_json,
};
use crate::{
    data::{DataError, Place, PreferencePair, Repeats, RowFormat, load_pairs, load_placed_rows},
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
    #[command(flatten)]
    passes: PassArgs,
    /// Rank of a new adapter [default: 16]
    #[arg(long)]
    rank: Option<usize>,
    /// Alpha of a new adapter [default: 32]
    #[arg(long, allow_negative_numbers = true)]
    alpha: Option<f64>,
    /// Layers of a new adapter [default: `q_proj,v_proj`]
    #[arg(long, value_delimiter = ',')]
    targets: Option<Vec<Target>>,
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
    let overlaps = task.tell_of_overlap(&console);
    let model = args.model.load(&console)?;
    let (lora, start) = if let Some(loaded) = args.adapter.load(&model)?.into_parts() {
        args.check_shape(&loaded.0)?;
        loaded
    } else {
        let lora = args.new_adapter();
        let start = initial_adapter(&lora, model.base.config(), args.seed);
        (lora, start)
    };
    let (adapter, seconds, mut report) = match &task {
        Task::Rows(rows) => on_rows(args, rows, &model, &lora, &start, &console)?,
        Task::Pairs(pairs) => on_pairs(args, pairs, &model, &start, &console)?,
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
    if !overlaps.is_empty() {
        report["overlaps"] = json!(overlaps);
    }
    report["adapter"] = json!(args.out);
    print_json(&report)?;
    Ok(Ending::Done)
}

/// What there is to learn.
enum Task {
    Rows(Vec<(Place, ChatRow)>),
    Pairs(Vec<(Place, PreferencePair)>),
}

impl Task {
    fn read(args: &TuneArgs) -> miette::Result<Self> {
        if args.dpo {
            return load_pairs(&args.data).map(Self::Pairs).into_diagnostic();
        }
        load_placed_rows(&args.data, RowFormat::Auto).map(Self::Rows).into_diagnostic()
    }

    fn tell_of_overlap(&self, console: &Console) -> BTreeMap<&'static str, Repeats> {
        match self {
            Self::Rows(rows) => tell_of_overlap(rows, |(_, row)| [row.messages.as_slice()], console),
            Self::Pairs(pairs) => {
                tell_of_overlap(pairs, |(_, pair)| pair.sides().map(|row| row.messages.as_slice()), console)
            }
        }
    }
}

/// Supervised fine-tuning: the adapter, seconds from the first step on, and what is to be said of it.
fn on_rows(
    args: &TuneArgs,
    rows: &[(Place, ChatRow)],
    model: &ChatModel,
    lora: &LoraConfig,
    start: &Adapter,
    console: &Console,
) -> miette::Result<(Adapter, f64, Value)> {
    let ids = |(place, row): &(Place, ChatRow)| {
        let ids = model.row_ids(row, args.max_length);
        ids.map_err(|error| DataError::bad_record(&args.data, *place, error.to_string())).transpose()
    };
    let tokenized: Vec<_> = rows.iter().filter_map(ids).collect::<Result<_, _>>().into_diagnostic()?;
    if tokenized.is_empty() {
        miette::bail!("{}: none of its {} rows has a response that fits", args.data.display(), rows.len());
    }
    let settings = args.sft();
    let cut = tokenized.iter().filter(|row| model.tokenizer.is_cut(row)).count();
    args.tell_of_cuts("rows", rows.len() - tokenized.len(), cut, model, console);
    console.stage(&format!("fine-tuning on {} rows", tokenized.len()));
    let streams = TrainStreams::of(args.seed, RoundId::START, None);
    let mut on_step = |report: &StepReport| console.step(report.step as u64, args.steps as u64);
    let cancel = CancelFlag::new();
    let started = Instant::now();
    let outcome = train_sft(&model.base, start, lora.dropout, &tokenized, &settings, streams, &cancel, &mut on_step)
        .into_diagnostic()?;
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
    pairs: &[(Place, PreferencePair)],
    model: &ChatModel,
    start: &Adapter,
    console: &Console,
) -> miette::Result<(Adapter, f64, Value)> {
    let ids = |(place, pair): &(Place, PreferencePair)| {
        let ids = TokenizedPair::of(model, pair, args.max_length);
        ids.map_err(|error| DataError::bad_record(&args.data, *place, error.to_string())).transpose()
    };
    let tokenized: Vec<_> = pairs.iter().filter_map(ids).collect::<Result<_, _>>().into_diagnostic()?;
    let left_out = pairs.len() - tokenized.len();
    let is_cut = |pair: &&TokenizedPair| [&pair.chosen, &pair.rejected].iter().any(|row| model.tokenizer.is_cut(row));
    args.tell_of_cuts("pairs", 0, tokenized.iter().filter(is_cut).count(), model, console);
    if tokenized.is_empty() {
        let data = args.data.display();
        miette::bail!("{data}: none of its {} pairs has two responses that fit and differ", pairs.len());
    }
    let settings = args.dpo();
    console.stage(&format!("training on {} preference pairs", tokenized.len()));
    let streams = TrainStreams::of_preferences(args.seed, RoundId::START);
    let mut on_step = |step: &DpoStep| console.step(step.step as u64, args.steps as u64);
    let cancel = CancelFlag::new();
    let started = Instant::now();
    let outcome =
        train_dpo(&model.base, start, &tokenized, &settings, streams, &cancel, &mut on_step).into_diagnostic()?;
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
        let LoraConfig { rank, alpha, .. } = self.new_adapter();
        check_lora(rank, alpha)?;
        for (option, value) in [("--lr", self.lr), ("--beta", Some(self.beta))] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                miette::bail!("{option}: found {value}; allowed: a number above 0");
            }
        }
        check_tokens("--max-length", Some(self.max_length))?;
        self.passes.check()?;
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
        LoraConfig {
            rank: self.rank.unwrap_or(16),
            alpha: self.alpha.unwrap_or(32.0),
            dropout: 0.0,
            targets: self.targets().unwrap_or([Target::QProj, Target::VProj].into()),
            use_rslora: false,
        }
    }

    fn targets(&self) -> Option<BTreeSet<Target>> {
        self.targets.as_ref().map(|targets| targets.iter().copied().collect())
    }

    /// Whether an adapter that there is already has the shape that was asked for, if one was.
    fn check_shape(&self, adapter: &LoraConfig) -> miette::Result<()> {
        let names =
            |targets: &BTreeSet<Target>| targets.iter().map(|target| target.name()).collect::<Vec<_>>().join(",");
        let shape = [
            ("--rank", self.rank.map(|rank| rank.to_string()), adapter.rank.to_string()),
            ("--alpha", self.alpha.map(|alpha| alpha.to_string()), adapter.alpha.to_string()),
            ("--targets", self.targets().as_ref().map(names), names(&adapter.targets)),
        ];
        for (option, asked, has) in shape {
            if let Some(asked) = asked.filter(|asked| *asked != has) {
                miette::bail!("{option}: found {asked}, but the adapter has {has}, which stays; leave it out");
            }
        }
        Ok(())
    }

    fn sft(&self) -> SftSettings {
        SftSettings {
            max_grad_norm: Some(1.0),
            pass_tokens: self.passes.pass_tokens,
            checkpoint_activations: self.passes.checkpoint_activations,
            shards: LONE_SHARDS,
            ..SftSettings::new(self.steps, self.batch_size, self.lr.unwrap_or(SFT_LEARNING_RATE))
        }
    }

    fn dpo(&self) -> DpoSettings {
        DpoSettings {
            beta: self.beta,
            max_grad_norm: Some(1.0),
            pass_tokens: self.passes.pass_tokens,
            checkpoint_activations: self.passes.checkpoint_activations,
            shards: LONE_SHARDS,
            ..DpoSettings::new(self.steps, self.batch_size, self.lr.unwrap_or(DPO_LEARNING_RATE))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tune: TuneArgs,
    }

    fn parse(options: &str) -> Result<TuneArgs, String> {
        let line = format!("tune --data rows.jsonl --out here {options}");
        Line::try_parse_from(line.split_whitespace()).map(|line| line.tune).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_training_takes_is_what_the_options_say() {
        let args = parse("--pass-tokens 64 --checkpoint-activations --steps 3 --batch-size 5 --lr 0.25").unwrap();
        let expected = SftSettings {
            max_grad_norm: Some(1.0),
            pass_tokens: Some(64),
            checkpoint_activations: true,
            shards: LONE_SHARDS,
            ..SftSettings::new(3, 5, 0.25)
        };
        assert_eq!(args.sft(), expected);
        let expected = DpoSettings {
            max_grad_norm: Some(1.0),
            pass_tokens: Some(64),
            checkpoint_activations: true,
            shards: LONE_SHARDS,
            ..DpoSettings::new(3, 5, 0.25)
        };
        assert_eq!(args.dpo(), expected);
        assert!(parse("--pass-tokens 8").unwrap().check().unwrap_err().to_string().contains("--pass-tokens: found 8"));
    }

    #[test]
    fn an_adapter_that_there_is_keeps_its_shape() {
        let has = LoraConfig { rank: 8, ..parse("").unwrap().new_adapter() };
        assert_eq!((has.alpha, has.targets.len()), (32.0, 2));
        let complaint = |options| parse(options).unwrap().check_shape(&has).err().map(|error| error.to_string());
        for (options, expected) in [
            ("--rank 4", "--rank: found 4, but the adapter has 8"),
            ("--rank 8 --alpha 8", "--alpha: found 8, but the adapter has 32"),
            ("--targets v_proj", "--targets: found v_proj, but the adapter has q_proj,v_proj"),
        ] {
            let complaint = complaint(options).unwrap();
            assert!(complaint.starts_with(expected), "{complaint}");
        }
        assert_eq!(complaint("--rank 8 --alpha 32 --targets v_proj,q_proj"), None);
        assert_eq!(complaint(""), None);
    }
}
