//! Whether a model's chat template takes the conversations of a file.

use std::{collections::HashSet, path::Path};

use fedward_actors::protocol::{ChatRow, Role};

use crate::{
    data::{DataError, Place},
    model::ChatTokenizer,
};

/// Refuses rows that the chat template does not take, before anything is computed with them: a client could not train on any
/// of its rows if one were among them. Templates ask who speaks when, so one row stands for all with the same turns.
///
/// # Errors
///
/// [`DataError::BadRecord`] names the first of them.
pub(crate) fn check_turns(rows: &[(Place, ChatRow)], path: &Path, tokenizer: &ChatTokenizer) -> Result<(), DataError> {
    let mut seen: HashSet<Vec<Role>> = HashSet::new();
    let mut is_new = |row: &ChatRow| seen.insert(row.messages.iter().map(|message| message.role).collect());
    for (place, row) in rows.iter().filter(|(_, row)| is_new(row)) {
        tokenizer.row_ids(row, usize::MAX).map_err(|error| {
            DataError::bad_record(path, *place, format!("{error}; change or remove rows with such turns"))
        })?;
    }
    Ok(())
}
