//! `fedward generate`.

use std::{num::NonZeroUsize, path::PathBuf, time::Instant};

use clap::Args;
use fedward_actors::{
    cancel::CancelFlag,
    protocol::{ClientId, RoundId},
    streams::{Purpose, stream},
};
use miette::IntoDiagnostic;
use serde_json::json;

use super::{
    Ending,
    model_args::{AdapterArgs, ModelArgs, temperature, top_p},
    print_result,
};
use crate::{
    data::{DataError, PassedRecord, load_prompts},
    model::{Asked, Decoding, FinishReason, ModelError, Reply},
    progress::Progress,
    report::Console,
    wiring::SetupError,
};

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Prompts: chat rows in any form that scenarios take (a response is ignored), or JSON lines with `prompt`
    #[arg(long)]
    prompts: PathBuf,
    /// Longest response
    #[arg(long, default_value = "128")]
    max_new_tokens: NonZeroUsize,
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the fewest tokens that are together as likely as this; 1 draws from all
    #[arg(long, default_value_t = 1.0, value_parser = top_p, allow_negative_numbers = true)]
    top_p: f64,
    /// Draw from this many tokens at most
    #[arg(long)]
    top_k: Option<NonZeroUsize>,
    /// What sampling is drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Prints each record with `response`, `finish_reason` and `response_tokens`.
pub(super) fn generate(args: &GenerateArgs) -> miette::Result<Ending> {
    if args.temperature == 0.0 && (args.top_p < 1.0 || args.top_k.is_some()) {
        miette::bail!("--top-p and --top-k: greedy decoding does not read them; set a --temperature above 0");
    }
    let console = Console::new();
    let mut records = load_prompts(&args.prompts).into_diagnostic()?;
    let prompts: Vec<_> = records.iter_mut().map(|record| std::mem::take(&mut record.meaning)).collect();
    let model = args.model.load(&console)?;
    let adapter = args.adapter.load(&model)?;
    let decoding = Decoding {
        max_new_tokens: args.max_new_tokens.get(),
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k.map(NonZeroUsize::get),
    };
    let rng_of = |index: usize| stream(args.seed, Purpose::Sampling, RoundId::START, Some(ClientId(index as u32)));
    console.stage(&format!("responding to {} prompts", prompts.len()));
    let started = Instant::now();
    let places: Vec<_> = records.iter().map(|record| record.place).collect();
    let (mut records, mut tokens) = (records.into_iter(), 0);
    let mut on_reply = |reply: Reply| {
        tokens += reply.tokens;
        records.next().map_or(Ok(()), |record| print_result(line(record.passed(), &reply), &console))
    };
    let named = |error| match error {
        ModelError::Prompt { index, problem, .. } => {
            DataError::bad_record(&args.prompts, places[index], problem).into()
        }
        other => SetupError::from(other),
    };
    let asked = Asked { adapter: adapter.as_ref(), conversations: &prompts, decoding, rng_of: &rng_of };
    model.reply_each(asked, &CancelFlag::new(), &console, &mut on_reply).map_err(named).into_diagnostic()?;
    let seconds = started.elapsed().as_secs_f64();
    console.line(&format!("{} responses: {tokens} tokens in {seconds:.3} s", prompts.len()));
    Ok(Ending::Done)
}

fn line(mut record: PassedRecord, reply: &Reply) -> PassedRecord {
    let finish_reason = match reply.finish_reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    };
    record.set("response", json!(reply.text));
    record.set("finish_reason", json!(finish_reason));
    record.set("response_tokens", json!(reply.tokens));
    record
}
