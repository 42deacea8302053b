//! `fedward guard train`.

use std::{collections::BTreeSet, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Instant};

use clap::{Args, ValueEnum};
use fedward_actors::{cancel::CancelFlag, policy::Assessed, protocol::Adapter};
use miette::IntoDiagnostic;
use serde_json::json;

use super::{
    rows::{RowsArgs, assessed, viewed},
    table::tables,
};
use crate::{
    cli::{
        Ending,
        model_args::{ModelArgs, PassArgs, check_lora, check_tokens},
        outputs,
        overlap::tell_of_overlap,
        print_json,
    },
    data::{LabelledRow, catalogue},
    lora::{LoraConfig, Target},
    model::ChatModel,
    progress::Progress,
    report::Console,
    safety::guard::{
        FeatureReading, Fitted, GUARD_FILE, GuardFile, GuardHeads, GuardReport, GuardTuning, Measurement, Phrasing,
        Split, assess, names_of, steps_an_epoch, tune, viewing,
    },
    train::{LONE_SHARDS, LrSchedule, SftSettings, StepReport},
};

const HEAD_MAX_LENGTH: usize = 96;
const LORA_MAX_LENGTH: usize = 320;
/// Llama Guard's own question is longer.
const CHECKPOINT_MAX_LENGTH: usize = 1024;

/// What is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GuardKind {
    /// Logistic heads on the frozen model's mean hidden state
    Head,
    /// An adapter by which the model answers in Llama Guard's protocol
    Lora,
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// What is fitted
    #[arg(long, value_enum)]
    kind: GuardKind,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowsArgs,
    /// What of each row the guard is shown, here and wherever it is used: query, response or both; labels should
    /// be about that part, and of rows that are alike in it the first counts
    #[arg(long, value_name = "PART", value_parser = assessed, default_value = "both")]
    assess: Assessed,
    /// Where the guard is written; scenarios name it as guard.path
    #[arg(long)]
    out: PathBuf,
    /// A row is called unsafe unless the probability that it is safe exceeds 1 less this
    #[arg(long, default_value_t = 0.5)]
    threshold: f64,
    /// Tokens of a row that a head reads, or of the longest question to a fine-tuned model [default: 96, for lora 320, with a Llama
    /// Guard checkpoint 1024]
    #[arg(long)]
    max_length: Option<usize>,
    /// Blocks of the model below the heads [default: half of them]
    #[arg(long)]
    layers: Option<usize>,
    /// lora: optimizer steps
    #[arg(long, default_value_t = 60)]
    steps: usize,
    /// lora: as many steps as go over all rows so often, those of the rarer verdict repeated
    #[arg(long, conflicts_with = "steps")]
    epochs: Option<NonZeroUsize>,
    /// lora: rows a step
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// lora: highest learning rate
    #[arg(long, default_value_t = 5e-4)]
    lr: f64,
    /// lora: rank of the adapter
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// lora: alpha of the adapter
    #[arg(long, default_value_t = 32.0)]
    alpha: f64,
    /// lora: layers of the adapter
    #[arg(long, value_delimiter = ',', default_value = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj")]
    targets: Vec<Target>,
    #[command(flatten)]
    passes: PassArgs,
}

/// Fits a guard to four fifths of each source, measures it on the rest, writes it, and prints one line of JSON.
pub(super) fn train(args: &TrainArgs) -> miette::Result<Ending> {
    args.check()?;
    let console = Console::new();
    let rows = args.rows.load()?;
    let overlaps = tell_of_overlap(&rows, |row| [row.row.messages.as_slice()], &console);
    let split = Split::of(viewed(args.assess, rows), args.rows.seed);
    let model = args.model.load(&console)?;
    let begun = Instant::now();
    let (fitted, adapter) = match args.kind {
        GuardKind::Head => (args.head(&model, &split.fitted, &console)?, None),
        GuardKind::Lora => {
            let (fitted, lora, adapter) = args.lora(&model, &split.fitted, &console)?;
            (fitted, Some((lora, adapter)))
        }
    };
    let fit_seconds = begun.elapsed().as_secs_f64();
    console.stage(&format!("measuring it on {} held-out rows", split.held_out.len()));
    let guard = fitted.guard(Arc::clone(&model), adapter.clone(), args.threshold).into_diagnostic()?;
    let guard = viewing(guard, args.assess);
    let verdicts = assess(guard.as_ref(), &split.held_out, model.threads, &CancelFlag::new()).into_diagnostic()?;
    let measured = Measurement::of(&split.held_out, &verdicts);
    let file = GuardFile {
        base_model: args.base_model()?,
        base_sha256: model.sha256.clone(),
        threshold: args.threshold,
        assess: args.assess,
        fitted,
        report: GuardReport::new(split.fitted.len(), measured.clone()),
        fitted_on: names_of(&split.fitted),
    };
    file.write(&args.out, adapter.as_ref().map(|(lora, adapter)| (lora, adapter))).into_diagnostic()?;
    console.finish();
    tell!("{}", tables(&measured));
    let mut line = json!({
        "guard": args.out,
        "version": guard.version(),
        "fitted_rows": split.fitted.len(),
        "fit_seconds": fit_seconds,
        "held_out": measured,
        "malformed": guard.tally().map(|tally| tally.malformed),
    });
    if !overlaps.is_empty() {
        line["overlaps"] = json!(overlaps);
    }
    print_json(&line)?;
    Ok(Ending::Done)
}

impl TrainArgs {
    fn check(&self) -> miette::Result<()> {
        if self.steps == 0 || self.batch_size == 0 {
            miette::bail!("--steps and --batch-size: found 0; allowed: 1 or more");
        }
        check_lora(self.rank, self.alpha)?;
        if !(0.0..=1.0).contains(&self.threshold) {
            miette::bail!("--threshold: found {}; allowed: from 0 to 1", self.threshold);
        }
        check_tokens("--max-length", self.max_length)?;
        self.passes.check()?;
        if self.kind == GuardKind::Head && (self.passes.pass_tokens.is_some() || self.passes.checkpoint_activations) {
            miette::bail!(
                "--pass-tokens and --checkpoint-activations: heads are fitted without passes; allowed with --kind lora"
            );
        }
        outputs::check_folder(&self.out, GUARD_FILE)
    }

    /// A name of the catalogue as it is, a path from the root: the guard is read from other folders.
    fn base_model(&self) -> miette::Result<String> {
        if catalogue::find(&self.model.model).is_some() {
            return Ok(self.model.model.clone());
        }
        Ok(std::fs::canonicalize(&self.model.model).into_diagnostic()?.display().to_string())
    }

    fn head(&self, model: &ChatModel, rows: &[LabelledRow], console: &Console) -> miette::Result<Fitted> {
        let all = model.base.config().num_hidden_layers;
        let layers = self.layers.unwrap_or(all.div_ceil(2));
        if !(1..=all).contains(&layers) {
            miette::bail!("--layers: found {layers}; allowed: 1 to {all}, as many as the model has");
        }
        let reading = FeatureReading { layers, max_length: self.max_length.unwrap_or(HEAD_MAX_LENGTH) };
        console.stage(&format!("fitting heads to {} rows", rows.len()));
        let heads = GuardHeads::fit(model, rows, reading, &CancelFlag::new()).into_diagnostic()?;
        Ok(Fitted::Head { reading, heads })
    }

    fn lora(
        &self,
        model: &ChatModel,
        rows: &[LabelledRow],
        console: &Console,
    ) -> miette::Result<(Fitted, LoraConfig, Adapter)> {
        let targets: BTreeSet<_> = self.targets.iter().copied().collect();
        let lora = LoraConfig { rank: self.rank, alpha: self.alpha, dropout: 0.0, targets, use_rslora: false };
        let phrasing = Phrasing::of(&model.tokenizer).into_diagnostic()?;
        let max_length = self.max_length.unwrap_or(match phrasing {
            Phrasing::Own => CHECKPOINT_MAX_LENGTH,
            Phrasing::Task => LORA_MAX_LENGTH,
        });
        let steps = self.epochs.map_or(self.steps, |epochs| epochs.get() * steps_an_epoch(rows, self.batch_size));
        let sft = SftSettings {
            max_grad_norm: Some(1.0),
            pass_tokens: self.passes.pass_tokens,
            checkpoint_activations: self.passes.checkpoint_activations,
            shards: LONE_SHARDS,
            schedule: LrSchedule::Linear { warmup_ratio: 0.1 },
            ..SftSettings::new(steps, self.batch_size, self.lr)
        };
        let tuning = GuardTuning { lora, sft, phrasing, max_length, seed: self.rows.seed };
        console.stage(&format!("fine-tuning on {} rows", rows.len()));
        let mut on_step = |report: &StepReport| console.step(report.step as u64, steps as u64);
        let adapter = tune(model, rows, &tuning, &CancelFlag::new(), &mut on_step).into_diagnostic()?;
        Ok((Fitted::Lora { phrasing, max_length }, tuning.lora, adapter))
    }
}
