//! How likely a model finds the responses of rows.

use fedward_actors::CancelFlag;

use super::{
    BaseModel, Portions, Predictions, ResponseLoss, Result, TokenizedRow, Work, parallel, transformer::Transformer,
};
use crate::lora::LoraRef;

/// How likely a response is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowScore {
    /// Sum of the response tokens' log-probabilities, in nats.
    pub log_likelihood: f64,
    /// How many tokens that is. A row's first token is never one: nothing comes before it.
    pub response_tokens: usize,
}

/// Scores the response of each row, in the order of the rows.
///
/// # Errors
///
/// [`ModelError::Unusable`](super::ModelError::Unusable) if a row is empty, too long or holds an unknown token, or if the adapter does not fit;
/// [`ModelError::Cancelled`](super::ModelError::Cancelled) soon after the flag is raised.
pub fn score(
    model: &BaseModel,
    adapter: Option<LoraRef>,
    rows: &[TokenizedRow],
    cancel: &CancelFlag,
) -> Result<Vec<RowScore>> {
    model.compute(Work::Reading, || {
        let model = Transformer::new(model, adapter, cancel)?;
        model.check_rows(rows.iter().map(|row| row.ids.as_slice()))?;
        let mut scores = vec![RowScore { log_likelihood: 0.0, response_tokens: 0 }; rows.len()];
        let most = Portions::on(model.device).pass_tokens;
        for pass in passes(rows.iter().map(|row| row.ids.len()), most) {
            let members: Vec<&TokenizedRow> = pass.iter().map(|&row| &rows[row]).collect();
            let ids: Vec<&[u32]> = members.iter().map(|row| row.ids.as_slice()).collect();
            let packed = model.pack(&ids, true)?;
            let predictions = Predictions::new(&packed, &members)?;
            let hidden = model.forward(&packed, None)?;
            let loss = ResponseLoss::new(&model, &hidden, &predictions, false)?;
            for (&row, score) in pass.iter().zip(row_scores(&loss.losses, predictions.counts())) {
                scores[row] = score;
            }
        }
        Ok(scores)
    })
}

/// As [`score`], on up to `threads` threads; the result does not depend on how many.
pub(crate) fn score_side_by_side(
    model: &BaseModel,
    adapter: Option<LoraRef<'_>>,
    rows: &[TokenizedRow],
    threads: usize,
    cancel: &CancelFlag,
) -> Result<Vec<RowScore>> {
    let chunk = Portions::on(model.device()).scored_rows;
    parallel::by_chunks(rows, chunk, threads, |_, chunk| score(model, adapter, chunk, cancel))
}

/// Sums losses row by row.
pub(crate) fn row_scores(losses: &[f32], counts: &[usize]) -> Vec<RowScore> {
    let mut rest = losses;
    counts
        .iter()
        .map(|&count| {
            let (own, others) = rest.split_at(count);
            rest = others;
            RowScore { log_likelihood: -own.iter().map(|&loss| f64::from(loss)).sum::<f64>(), response_tokens: count }
        })
        .collect()
}

/// Splits rows into passes of similar length and at most `most` tokens each.
fn passes(lengths: impl Iterator<Item = usize>, most: usize) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = lengths.collect();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| lengths[row]);
    let mut passes: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for row in order {
        tokens += lengths[row];
        match passes.last_mut() {
            Some(pass) if tokens <= most => pass.push(row),
            _ => {
                tokens = lengths[row];
                passes.push(vec![row]);
            }
        }
    }
    passes
}
