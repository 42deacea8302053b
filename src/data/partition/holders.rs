//! Rows that belong to clients by their topics.

use std::collections::BTreeMap;

use fedward_actors::protocol::ChatRow;
use rand::{Rng, seq::SliceRandom};

use super::PartitionScheme;
use crate::data::DataError;

/// Gives whole topics to clients, in alphabetical order and in turn; the rows of a topic that several clients have are
/// divided among them by `rng`. Returns each client's rows, at least one of them.
///
/// # Errors
///
/// [`DataError::BadSetting`] if a client would have no row, or if topics are [`PartitionScheme::ClientFiles`] and there are not as
/// many as clients.
pub(super) fn hold(
    rows: &[ChatRow],
    scheme: PartitionScheme,
    clients: u32,
    rng: &mut impl Rng,
) -> Result<Vec<Vec<u32>>, DataError> {
    let mut topics: BTreeMap<Option<&str>, Vec<u32>> = BTreeMap::new();
    for (index, row) in (0..).zip(rows) {
        topics.entry(row.topic.as_deref()).or_default().push(index);
    }
    let clients = clients as usize;
    if scheme == PartitionScheme::ClientFiles && topics.len() != clients {
        return Err(DataError::BadSetting(format!(
            "{} of {clients} clients' files have rows left to train on, expected all; add rows to those of which all are held out \
             to be measured, lower evaluation.utility_rows, or lower federation.clients",
            topics.len()
        )));
    }
    let mut held = vec![Vec::new(); clients];
    let n_topics = topics.len();
    for (number, mut rows) in topics.into_values().enumerate() {
        if n_topics >= clients {
            held[number % clients].append(&mut rows);
            continue;
        }
        rows.shuffle(rng);
        let holders: Vec<usize> = (number..clients).step_by(n_topics).collect();
        for (row, &holder) in rows.into_iter().zip(holders.iter().cycle()) {
            held[holder].push(row);
        }
    }
    let without = held.iter().filter(|rows| rows.is_empty()).count();
    if without > 0 {
        return Err(DataError::BadSetting(format!(
            "{without} of {clients} clients would hold no row: found {} rows of {n_topics} values, and a value that several clients \
             have is divided among them; lower federation.clients, or name a larger source of benign rows",
            rows.len()
        )));
    }
    Ok(held)
}
