//! Which labelled rows a guard is fitted on, and which are kept to measure it.

use std::collections::{BTreeMap, HashSet};

use fedward_actors::{
    protocol::RoundId,
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;

use crate::data::LabelledRow;

/// Every so many rows of a source is held out to measure the guard.
const HELD_OUT_EVERY: usize = 5;

/// Rows to fit on and rows to measure with; no conversation is in both.
pub struct Split {
    /// To fit on.
    pub fitted: Vec<LabelledRow>,
    /// To measure with.
    pub held_out: Vec<LabelledRow>,
}

impl Split {
    /// Shuffles the rows of each source with `seed` and holds out every fifth; a conversation that comes twice counts once.
    pub fn of(rows: Vec<LabelledRow>, seed: u64) -> Self {
        let mut seen = HashSet::new();
        let mut sources: BTreeMap<String, Vec<LabelledRow>> = BTreeMap::new();
        for row in rows.into_iter().filter(|row| seen.insert(row.row.digest())) {
            sources.entry(row.source.clone()).or_default().push(row);
        }
        let mut rng = stream(seed, Purpose::Guard, RoundId::START, None);
        let mut split = Self { fitted: Vec::new(), held_out: Vec::new() };
        for mut rows in sources.into_values() {
            rows.shuffle(&mut rng);
            for (index, row) in rows.into_iter().enumerate() {
                let side = if index % HELD_OUT_EVERY == 0 { &mut split.held_out } else { &mut split.fitted };
                side.push(row);
            }
        }
        split
    }
}

#[cfg(test)]
mod tests {
    use fedward_actors::protocol::ChatRow;

    use super::*;

    #[test]
    fn each_source_is_split_and_no_conversation_is_on_both_sides() {
        let row = |source: &str, index: usize| LabelledRow {
            row: ChatRow::single_turn(format!("{source} {index}"), "b"),
            is_unsafe: false,
            hazards: Some(std::collections::BTreeSet::new()),
            source: source.to_owned(),
        };
        let mut rows: Vec<_> =
            (0..20).map(|index| row("a", index)).chain((0..10).map(|index| row("b", index))).collect();
        rows.extend(rows.clone());
        let split = Split::of(rows.clone(), 1);
        let count = |rows: &[LabelledRow], source: &str| rows.iter().filter(|row| row.source == source).count();
        assert_eq!((count(&split.held_out, "a"), count(&split.held_out, "b")), (4, 2));
        assert_eq!((count(&split.fitted, "a"), count(&split.fitted, "b")), (16, 8));
        let fitted: HashSet<_> = split.fitted.iter().map(|row| row.row.digest()).collect();
        assert!(split.held_out.iter().all(|row| !fitted.contains(&row.row.digest())));
        assert_eq!(Split::of(rows.clone(), 1).held_out, split.held_out);
        assert_ne!(Split::of(rows, 2).held_out, split.held_out);
    }
}
