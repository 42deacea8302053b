//! Whether a model's chat template takes the conversations of a file.

use std::{collections::HashSet, path::Path};

use fedward_actors::protocol::{ChatMessage, ChatRow, Role};

use crate::{
    data::{DataError, Place, ReadRecord},
    model::{ChatTokenizer, ModelError},
};

/// Refuses rows that the chat template does not take, before anything is computed with them: whoever has one of
/// them among its rows could not train on any of them.
///
/// # Errors
///
/// [`DataError::BadRecord`] names the first of them.
pub(super) fn check_rows<'r>(
    rows: impl IntoIterator<Item = (Place, &'r ChatRow)>,
    path: &Path,
    tokenizer: &ChatTokenizer,
) -> Result<(), DataError> {
    let found = rows.into_iter().map(|(place, row)| (place, row.messages.as_slice(), row));
    check(found, path, |row| tokenizer.row_ids(row, usize::MAX).map(drop))
}

/// As [`check_rows`], of prompts.
///
/// # Errors
///
/// As [`check_rows`].
pub(super) fn check_prompts(
    prompts: &[ReadRecord<Vec<ChatMessage>>],
    path: &Path,
    tokenizer: &ChatTokenizer,
) -> Result<(), DataError> {
    let found = prompts.iter().map(|prompt| (prompt.place, prompt.meaning.as_slice(), &prompt.meaning));
    check(found, path, |prompt| tokenizer.prompt_ids(prompt).map(drop))
}

/// A conversation of so many bytes may be too long for the tokenizer.
const LONG: usize = 1 << 20;

/// Templates ask who speaks when, so of conversations with the same turns the first is looked at: all of them would take as
/// long as a round. Very long ones are looked at one by one.
fn check<'r, T: 'r>(
    found: impl Iterator<Item = (Place, &'r [ChatMessage], &'r T)>,
    path: &Path,
    render: impl Fn(&'r T) -> Result<(), ModelError>,
) -> Result<(), DataError> {
    let mut seen: HashSet<Vec<Role>> = HashSet::new();
    for (place, messages, conversation) in found {
        let is_long = messages.iter().map(|message| message.content.len()).sum::<usize>() > LONG;
        if seen.insert(messages.iter().map(|message| message.role).collect()) || is_long {
            render(conversation).map_err(|error| DataError::bad_record(path, place, error.to_string()))?;
        }
    }
    Ok(())
}
