//! What a template may not grow to. The engine counts the bytes of what was made once it is there; what can be far more than
//! everything before it is counted here while it is made. Values that lie in one another, and expressions that do, are dropped
//! and compiled one stack frame a level, and a stack that overflows ends the process.

use minijinja::{Error, State, Value, value::ValueKind};

use super::{iterators::is_placeless, python::refused};

/// What one operation may write. A row is shorter than an eighth of it, and no escaping makes more than six characters of one.
pub(super) const LONGEST_WRITTEN: usize = 64 << 20;

/// The complaint of what writes more.
pub(super) const TOO_LONG: &str = "a text of more than 64 MiB";

/// Operators, brackets and filters in one statement: each may be a level of the expression.
pub(super) const MOST_OPERATORS: usize = 1000;

/// How deep blocks may lie in one another.
pub(super) const DEEPEST_BLOCKS: usize = 100;

/// Branches of one `if`: each `elif` lies in the one before it.
pub(super) const MOST_BRANCHES: usize = 500;

/// Steps that keeping a value takes for each level that may have been added to it; a rendering adds no more than two thousand.
const STEPS_PER_LEVEL: u64 = 2000;

/// Parts that are looked at to see that a value is flat, and levels.
const FLAT: (usize, usize) = (64, 3);

/// Refuses to write a text of `bytes`.
pub(super) fn check_written(bytes: usize) -> Result<(), Error> {
    if bytes <= LONGEST_WRITTEN {
        return Ok(());
    }
    Err(refused(TOO_LONG))
}

/// Adds `part` to `written`, unless that is too long.
pub(super) fn push(written: &mut String, part: &str) -> Result<(), Error> {
    check_written(written.len().saturating_add(part.len()))?;
    written.push_str(part);
    Ok(())
}

/// A value that is assigned, of an expression that adds up to `levels` levels to others: values that lie deep in one another cost.
pub(super) fn keep(state: &State, value: &Value, levels: u64) -> Result<Value, Error> {
    let (mut parts, levels_left) = FLAT;
    if !is_flat(value, &mut parts, levels_left) {
        state.consume_fuel(levels.saturating_mul(STEPS_PER_LEVEL))?;
    }
    Ok(value.clone())
}

/// Whether few parts are in a value, and few levels of them. What is used up by looking at it is not looked at.
fn is_flat(value: &Value, parts_left: &mut usize, levels_left: usize) -> bool {
    let Some(left) = parts_left.checked_sub(1) else { return false };
    *parts_left = left;
    match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable if !is_placeless(value) => {
            let Some(levels) = levels_left.checked_sub(1) else { return false };
            let is_map = value.kind() == ValueKind::Map;
            let Ok(mut elements) = value.try_iter() else { return false };
            elements.all(|element| {
                let inside = if is_map { value.get_item(&element).ok() } else { Some(element) };
                inside.is_some_and(|inside| is_flat(&inside, parts_left, levels))
            })
        }
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable | ValueKind::Plain => false,
        _ => true,
    }
}
