//! `fedward score`.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use fedward_actors::{cancel::CancelFlag, protocol::ChatRow};
use miette::IntoDiagnostic;
use serde_json::{Value, json};

use super::{
    Ending,
    model_args::{AdapterArgs, ModelArgs},
    print_json,
};
use crate::{
    data::{RowFormat, load_rows_with_records},
    progress::Progress,
    report::Console,
};

#[derive(Debug, Args)]
pub(super) struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Chat rows in any form that scenarios take
    #[arg(long)]
    data: PathBuf,
    /// Tokens after which a row is cut
    #[arg(long, default_value_t = 2048)]
    max_length: usize,
}

/// Prints each record with `response_tokens` and `log_likelihood` (the sum over the response, its closing token included).
pub(super) fn score(args: &ScoreArgs) -> miette::Result<Ending> {
    let console = Console::new();
    let rows = load_rows_with_records(&args.data, RowFormat::Auto).into_diagnostic()?;
    let model = args.model.load(&console)?;
    let adapter = args.adapter.load(&model)?;
    let cancel = CancelFlag::new();
    let row_ids = |row: &ChatRow| model.row_ids(row, args.max_length).transpose();
    let tokenized: Vec<_> = rows
        .iter()
        .map(|(_, row)| row.as_ref().and_then(row_ids).transpose())
        .collect::<Result<_, _>>()
        .into_diagnostic()?;
    let scorable: Vec<_> = tokenized.iter().flatten().cloned().collect();
    let tokens: usize = scorable.iter().map(|row| row.ids.len()).sum();
    console.stage(&format!("scoring {} rows", scorable.len()));
    let started = Instant::now();
    let scores = model.score(adapter.as_ref(), &scorable, &cancel, &console).into_diagnostic()?;
    let seconds = started.elapsed().as_secs_f64();
    console.line(&format!("scored {} rows: {tokens} tokens in {seconds:.3} s", scorable.len()));
    let no_numbers = scores.iter().filter(|score| !score.log_likelihood.is_finite()).count();
    let mut scores = scores.into_iter();
    for ((record, _), tokenized) in rows.into_iter().zip(&tokenized) {
        let mut line = Value::Object(record);
        // A row without a response that fits has no likelihood; it keeps its line, so that lines stay aligned.
        let score = tokenized.as_ref().and_then(|_| scores.next());
        line["response_tokens"] = json!(score.as_ref().map_or(0, |score| score.response_tokens));
        line["log_likelihood"] = json!(score.map(|score| score.log_likelihood));
        print_json(&line)?;
    }
    if no_numbers > 0 {
        console.line(&format!(
            "{no_numbers} rows have tokens, but a log_likelihood that is no number: values of the model or of the adapter overflow"
        ));
    }
    Ok(Ending::Done)
}
