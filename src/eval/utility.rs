//! How likely the responses of held-out benign rows are: what fine-tuning is for.

use fedward_actors::{
    ports::{BenchmarkScore, ItemScores, PortError, PortResult},
    protocol::{ChatRow, hex},
};
use serde_json::{Map, json};

use super::{
    BenchName, Benchmark, Finding, Measurement, Subject,
    bench::{Values, item_scores},
    bootstrap::bootstrap_ratio,
    measure::{Better, Cell, Column, GridPlace, GridTable, Measure, Paired, PairedItems, Plot, Unit},
};
use crate::model::{RowScore, TokenizedRow};

/// What is read off it.
pub const MEASURES: [Measure; 1] = [Measure {
    better: Better::Lower,
    column: Some(Column {
        title: "perplexity,\nheld-out\nbenign",
        reading: "perplexity: of held-out benign responses; lower is more useful.",
        cell: Cell::Count,
    }),
    paired: Some(Paired { title: "held-out\nbenign rows,\nnats a token", items: PairedItems::Likelihood }),
    plot: Some(Plot {
        title: "Perplexity of held-out benign rows, by round",
        label: "perplexity",
        caption: "Lower is more useful.",
    }),
    grid: Some(GridPlace::of(GridTable::Ours)),
    ..Measure::new(BenchName::Utility.name(), "perplexity", "perplexity", Unit::Perplexity)
}];

/// Bootstrap samples behind each interval of a likelihood.
pub(super) const RESAMPLES: u32 = 1000;

/// Tokens after which a row is cut.
const MAX_LENGTH: usize = 512;

/// The benchmark.
pub struct Utility {
    /// Held-out benign rows.
    pub rows: Vec<ChatRow>,
}

impl Benchmark for Utility {
    /// `mean_log_likelihood` of a response token, with bounds; `perplexity`, `response_tokens`. Items: `log_likelihood`,
    /// `response_tokens`.
    fn measure(&self, subject: &Subject<'_>) -> PortResult<Measurement> {
        let rows = subject.model.tokenize(&self.rows, MAX_LENGTH)?;
        let scores = subject.score(&BenchName::Utility.into(), &rows)?;
        let values = likelihood(&scores, subject.seed)
            .ok_or_else(|| PortError::Failed("utility: no held-out benign row has a response that fits".to_owned()))?;
        // Without one number a row, nobody could tell which row it belongs to; what is not finite, a row could not say.
        let is_told = self.rows.len() == scores.len() && scores.iter().all(|score| score.log_likelihood.is_finite());
        let items = is_told.then(|| items(&self.rows, &scores));
        let score = BenchmarkScore { items, ..values.score(rows.len()) };
        let findings = findings(&self.rows, &rows, &scores);
        Ok(Measurement { name: BenchName::Utility.name().to_owned(), score, findings, warnings: Vec::new() })
    }
}

fn items(rows: &[ChatRow], scores: &[RowScore]) -> ItemScores {
    let digests: Vec<_> = rows.iter().map(|row| hex(&row.digest().0)).collect();
    let likelihoods = scores.iter().map(|score| score.log_likelihood).collect();
    let tokens = scores.iter().map(|score| score.response_tokens as f64).collect();
    item_scores(digests.iter().map(String::as_str), [("log_likelihood", likelihoods), ("response_tokens", tokens)])
}

/// Values of response likelihoods; `None` without a token.
pub(super) fn likelihood(scores: &[RowScore], seed: u64) -> Option<Values> {
    let pairs: Vec<_> = scores.iter().map(|score| (score.log_likelihood, score.response_tokens as f64)).collect();
    let interval = bootstrap_ratio(&pairs, RESAMPLES, seed)?;
    let mut values = Values::default();
    values.mean("mean_log_likelihood", Some(interval));
    values.number("perplexity", (-interval.mean).exp());
    values.number("response_tokens", pairs.iter().map(|(_, tokens)| tokens).sum());
    Some(values)
}

/// What there is to say of each row; nothing where rows were left out, since it is not known which.
fn findings(rows: &[ChatRow], tokenized: &[TokenizedRow], scores: &[RowScore]) -> Vec<Finding> {
    if rows.len() != tokenized.len() {
        return Vec::new();
    }
    let finding = |(row, score): (&ChatRow, &RowScore)| Finding {
        item: row.topic.clone().unwrap_or_default(),
        prompt: row.prompt().last().map_or_else(String::new, |message| message.content.clone()),
        response: row.response().map(str::to_owned),
        verdicts: Map::from_iter([
            ("log_likelihood".to_owned(), json!(score.log_likelihood)),
            ("response_tokens".to_owned(), json!(score.response_tokens)),
        ]),
    };
    rows.iter().zip(scores).map(finding).collect()
}
