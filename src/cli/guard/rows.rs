//! The labelled rows of a command.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use clap::Args;
use fedward_actors::{
    policy::Assessed,
    protocol::{RoundId, RowLabel},
    streams::{Purpose, stream},
};
use miette::IntoDiagnostic;
use rand::seq::SliceRandom;
use serde_json::json;

use crate::{
    data::{LabelledFields, LabelledRow, Labels, load_labelled},
    safety::guard::part_read,
};

/// What a guard is shown of a row, as scenarios name it.
pub(super) fn assessed(name: &str) -> Result<Assessed, String> {
    serde_json::from_value(json!(name)).map_err(|_| "allowed: query, response, both".to_owned())
}

/// Rows as a guard is shown them. People are told of those that are alike but for their labels, which were given to the
/// whole, and of those that lack the part.
pub(super) fn viewed(assess: Assessed, rows: Vec<LabelledRow>) -> Vec<LabelledRow> {
    if assess == Assessed::Both {
        return rows;
    }
    let view = |labelled: LabelledRow| LabelledRow { row: assess.part(&labelled.row), ..labelled };
    let without_response = rows.iter().filter(|labelled| labelled.row.response().is_none()).count();
    let rows: Vec<_> = rows.into_iter().map(view).collect();
    let mut verdicts: HashMap<_, bool> = HashMap::new();
    let differs = |labelled: &&LabelledRow| {
        *verdicts.entry(labelled.row.digest()).or_insert(labelled.is_unsafe) != labelled.is_unsafe
    };
    let contradicting = rows.iter().filter(differs).count();
    if contradicting > 0 {
        let part = part_read(assess);
        tell!("{contradicting} of {} rows contradict others: {part} is the same, the label is not", rows.len());
    }
    if assess == Assessed::Response && without_response > 0 {
        tell!("{without_response} of {} rows have no response, and are shown whole", rows.len());
    }
    rows
}

#[derive(Debug, Args)]
pub(super) struct RowsArgs {
    /// Labelled rows: a file with `label` (and maybe `hazards`), `OpenAI`'s moderation set, or scored-responses of the catalogue
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Rows in any form that scenarios take, all of them safe
    #[arg(long = "safe", value_name = "FILE")]
    safe: Vec<PathBuf>,
    /// Rows in any form that scenarios take, all of them unsafe
    #[arg(long = "unsafe", value_name = "FILE")]
    unsafe_: Vec<PathBuf>,
    /// Keys of the --data files where they say it otherwise, for example prompt=question,response=answer,label=verdict
    #[arg(long, value_name = "NAME=KEY,…", requires = "data")]
    fields: Option<LabelledFields>,
    /// Value of the label that means unsafe, compared without case, numbers as numbers; every other one means safe [default:
    /// unsafe, with safe as the only other one]
    #[arg(long, value_name = "VALUE", requires = "fields")]
    unsafe_value: Vec<String>,
    /// Value of the label that means safe: one that is neither is refused then
    #[arg(long, value_name = "VALUE", requires = "unsafe_value")]
    safe_value: Vec<String>,
    /// Rows of each file, drawn with the seed, at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// What rows are drawn with
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl RowsArgs {
    pub(super) fn load(&self) -> miette::Result<Vec<LabelledRow>> {
        let mut fields = self.fields.clone();
        if let Some(fields) = &mut fields {
            fields.unsafe_values.clone_from(&self.unsafe_value);
            fields.safe_values.clone_from(&self.safe_value);
        }
        let mut rows = Vec::new();
        let told = self.data.iter().map(|path| (path, Labels::Told, fields.as_ref()));
        let safe = self.safe.iter().map(|path| (path, Labels::All(RowLabel::Safe), None));
        let unsafe_ = self.unsafe_.iter().map(|path| (path, Labels::All(RowLabel::Unsafe), None));
        for (path, labels, fields) in told.chain(safe).chain(unsafe_) {
            rows.extend(self.of_file(path, labels, fields)?);
        }
        if rows.is_empty() {
            miette::bail!("no rows are named: give --data, or --safe and --unsafe");
        }
        Ok(rows)
    }

    fn of_file(
        &self,
        path: &Path,
        labels: Labels,
        fields: Option<&LabelledFields>,
    ) -> miette::Result<Vec<LabelledRow>> {
        let mut rows = load_labelled(path, labels, fields).into_diagnostic()?;
        if let Some(limit) = self.limit {
            rows.shuffle(&mut stream(self.seed, Purpose::Guard, RoundId(2), None));
            rows.truncate(limit);
        }
        Ok(rows)
    }
}
