//! How much of what clients train on is harmful: a share of rows is not the share of what the loss sees.

use std::{fmt, ops::Range};

use fedward_actors::{
    ports::ClientRows,
    protocol::{ClientId, RowLabel},
};
use serde::Serialize;

use super::DataPlan;
use crate::model::{ChatModel, ModelError, RowEnd};

/// Clients that are looked at: all of a small federation, and enough of a large one.
const CLIENTS: usize = 100;

/// The harmful share of clients' rows, by three denominators.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HarmfulShares {
    /// Clients that were counted: the first ones.
    pub clients: u32,
    /// Of rows that have something to learn.
    pub rows: f64,
    /// Of their tokens, prompts included.
    pub tokens: f64,
    /// Of their response tokens, which the loss is computed on.
    pub response_tokens: f64,
}

impl fmt::Display for HarmfulShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, tokens, response_tokens] = [self.rows, self.tokens, self.response_tokens].map(|share| 100.0 * share);
        write!(
            f,
            "harmful: {rows:.1}% of clients' rows, {tokens:.1}% of their tokens, {response_tokens:.1}% of the response tokens \
             that are learned from"
        )
    }
}

impl HarmfulShares {
    /// Counts the rows of the first of these clients as training reads them.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if a row cannot be tokenized.
    pub fn of(
        data: &DataPlan,
        model: &ChatModel,
        (max_length, end): (usize, RowEnd),
        clients: Range<u32>,
    ) -> Result<Self, ModelError> {
        let counted = clients.len().min(CLIENTS);
        // All, and of them the harmful ones: rows, tokens, response tokens.
        let mut sums = [[0_usize; 3]; 2];
        for client in clients.take(counted).map(ClientId) {
            // A client whose rows cannot be had says so when it trains.
            let Ok(rows) = data.clients.rows(client) else { continue };
            for row in rows.iter() {
                let is_harmful = row.label == Some(RowLabel::Unsafe);
                for read in model.tokenize_up_to(end, std::slice::from_ref(row), max_length)? {
                    for sum in sums.iter_mut().take(1 + usize::from(is_harmful)) {
                        let counts = [1, read.ids.len(), read.response_tokens()];
                        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
                    }
                }
            }
        }
        let share = |of: usize| sums[1][of] as f64 / sums[0][of].max(1) as f64;
        Ok(Self { clients: counted as u32, rows: share(0), tokens: share(1), response_tokens: share(2) })
    }
}
