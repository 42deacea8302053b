//! `fedward score`.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use fedward_actors::{cancel::CancelFlag, protocol::ChatRow};
use miette::IntoDiagnostic;
use serde_json::json;

use super::{
    Ending,
    model_args::{AdapterArgs, ModelArgs, check_tokens},
    print_result,
};
use crate::{
    data::{DataError, PassedRecord, ReadRecord, RowFormat, load_rows_with_records},
    model::{ChatModel, ModelError, RowScore, TokenizedRow},
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
    /// Tokens after which a row is cut [default: where the model's context ends]
    #[arg(long)]
    max_length: Option<usize>,
}

/// Prints each record with `response_tokens` and `log_likelihood` (the sum over the response, its closing token included), and
/// with `cut` where the response goes on.
pub(super) fn score(args: &ScoreArgs) -> miette::Result<Ending> {
    check_tokens("--max-length", args.max_length)?;
    let console = Console::new();
    let rows = load_rows_with_records(&args.data, RowFormat::Auto).into_diagnostic()?;
    let model = args.model.load(&console)?;
    let adapter = args.adapter.load(&model)?;
    let max_length = args.max_length.unwrap_or(usize::MAX).min(model.context());
    let tokenized: Vec<_> = rows
        .iter()
        .map(|record| {
            let ids = |row| model.row_ids(row, max_length);
            let row = record.meaning.as_ref().map(ids).transpose();
            row.map_err(|error| DataError::bad_record(&args.data, record.place, error.to_string()))
        })
        .collect::<Result<_, _>>()
        .into_diagnostic()?;
    let tokenized: Vec<_> = tokenized.into_iter().map(Option::flatten).collect();
    let scorable: Vec<_> = tokenized.iter().flatten().cloned().collect();
    console.stage(&format!("scoring {} rows", scorable.len()));
    let started = Instant::now();
    let mut lines =
        Lines { rest: rows.into_iter().zip(tokenized), model: &model, console: &console, summary: Summary::default() };
    let mut on_score = |score| lines.print_with(score);
    model.score_each(adapter.as_ref(), &scorable, &CancelFlag::new(), &console, &mut on_score).into_diagnostic()?;
    let seconds = started.elapsed().as_secs_f64();
    lines.print_without_score().into_diagnostic()?;
    let summary = lines.summary;
    let tokens: usize = scorable.iter().map(|row| row.ids.len()).sum();
    console.line(&format!("scored {} rows: {tokens} tokens in {seconds:.3} s", scorable.len()));
    summary.tell(&console, max_length);
    Ok(Ending::Done)
}

/// A record with its row as text, if it has a response, and as tokens, if that fits.
type Read = (ReadRecord<Option<ChatRow>>, Option<TokenizedRow>);

/// Records that are still to be printed, in their order.
struct Lines<'m, R: Iterator<Item = Read>> {
    rest: R,
    model: &'m ChatModel,
    console: &'m Console,
    summary: Summary,
}

impl<R: Iterator<Item = Read>> Lines<'_, R> {
    /// Prints the next record that has a response, with its score, and those before it. A row without a response that fits has
    /// no likelihood; it keeps its line, so that lines stay aligned.
    fn print_with(&mut self, score: RowScore) -> Result<(), ModelError> {
        while let Some((record, tokenized)) = self.rest.next() {
            let Some(row) = tokenized else {
                self.print(record.passed(), None, false)?;
                continue;
            };
            return self.print(record.passed(), Some(score), self.model.tokenizer.is_cut(&row));
        }
        Ok(())
    }

    fn print_without_score(&mut self) -> Result<(), ModelError> {
        while let Some((record, _)) = self.rest.next() {
            self.print(record.passed(), None, false)?;
        }
        Ok(())
    }

    fn print(&mut self, mut record: PassedRecord, score: Option<RowScore>, is_cut: bool) -> Result<(), ModelError> {
        self.summary.add(score, is_cut);
        record.set("response_tokens", json!(score.map_or(0, |score| score.response_tokens)));
        record.set("log_likelihood", json!(score.map(|score| score.log_likelihood)));
        if is_cut {
            record.set("cut", json!(true));
        }
        print_result(record, self.console)
    }
}

/// What is to be said of all rows.
#[derive(Default)]
struct Summary {
    without_response: usize,
    cut: usize,
    no_numbers: usize,
}

impl Summary {
    fn add(&mut self, score: Option<RowScore>, is_cut: bool) {
        self.without_response += usize::from(score.is_none());
        self.cut += usize::from(is_cut);
        self.no_numbers += usize::from(score.is_some_and(|score| !score.log_likelihood.is_finite()));
    }

    fn tell(&self, console: &Console, max_length: usize) {
        let notes = [
            (self.cut, format!("cut after {max_length} tokens, and marked: their responses go on")),
            (
                self.without_response,
                format!("without a response to train on within {max_length} tokens, and so without a log_likelihood"),
            ),
            (self.no_numbers, "whose log_likelihood is no number: the model or the adapter overflows".to_owned()),
        ];
        for (count, note) in notes.into_iter().filter(|(count, _)| *count > 0) {
            console.line(&format!("rows {note}: {count}"));
        }
    }
}
