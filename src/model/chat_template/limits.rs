//! What a template may not grow to. The engine counts the bytes of what was made once it is there; what can be far more than
//! everything before it is counted here while it is made. Values that lie in one another, and expressions that do, are dropped
//! and compiled one stack frame a level, and a stack that overflows ends the process.

use minijinja::{Error, State, Value, value::ValueKind};

use super::{
    iterators::{self, is_placeless},
    python::{self, refused},
};

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

/// Parts of a value that may be compared with another: a part counts as often as it lies in the value, for that is how often a
/// comparison looks at it. The engine counts those of the outermost list alone.
const MOST_COMPARED: usize = 200_000;

/// How deep values that are compared may lie in one another. A namespace may even lie in itself.
const DEEPEST_COMPARED: usize = 1000;

/// Parts of a value that is looked for, as a key or in a list: each key and element may be compared with it.
const MOST_SOUGHT: usize = 100;

/// How the complaint of a value with too many parts begins.
pub(super) const TOO_MANY: &str = "the template goes through a value of more than";

/// Parts that one step pays for.
const PARTS_PER_STEP: usize = 2;

/// Refuses to compare a value that has too many parts. Comparing is paid for by the part.
pub(super) fn compared(state: &State, value: &Value) -> Result<(), Error> {
    let parts = count_parts(value, MOST_COMPARED)?;
    state.consume_fuel((parts / PARTS_PER_STEP) as u64)
}

/// Refuses to look for a value that has too many parts.
pub(super) fn sought(value: &Value) -> Result<(), Error> {
    count_parts(value, MOST_SOUGHT).map(|_| ())
}

/// Bytes of text that one step pays for.
const BYTES_PER_STEP: usize = 64;

/// The text of a value that has parts; any other value as it is. The engine would write it without bounds and in its own way.
pub(super) fn shown(state: &State, value: &Value) -> Result<Value, Error> {
    if !has_parts(value) {
        return Ok(value.clone());
    }
    compared(state, value)?;
    let text = python::text(value);
    check_written(text.len())?;
    state.consume_fuel((text.len() / BYTES_PER_STEP) as u64)?;
    Ok(Value::from(text))
}

/// A method goes through a text.
pub(super) fn read(state: &State, text: &str) -> Result<(), Error> {
    state.consume_fuel((text.len() / (4 * BYTES_PER_STEP)) as u64)
}

fn has_parts(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable)
}

/// How many parts are in a value, each as often as it is.
fn count_parts(value: &Value, most: usize) -> Result<usize, Error> {
    if !has_parts(value) {
        return Ok(0);
    }
    let mut counted = 0;
    let mut open = vec![parts(value)?];
    while let Some(inside) = open.last_mut() {
        let Some(part) = inside.next() else {
            open.pop();
            continue;
        };
        counted += 1;
        if counted > most {
            return Err(refused(format!("{TOO_MANY} {most} parts")));
        }
        if has_parts(&part) {
            if open.len() >= DEEPEST_COMPARED {
                return Err(refused(format!(
                    "the template goes through values that lie more than {DEEPEST_COMPARED} deep in one another"
                )));
            }
            open.push(parts(&part)?);
        }
    }
    Ok(counted)
}

/// The elements of a list, and keys and values of a mapping.
fn parts(value: &Value) -> Result<Box<dyn Iterator<Item = Value>>, Error> {
    if let Some(elements) = iterators::elements(value) {
        return Ok(Box::new(elements.into_iter()));
    }
    let elements = value.try_iter()?;
    if value.kind() != ValueKind::Map {
        return Ok(Box::new(elements));
    }
    let map = value.clone();
    Ok(Box::new(elements.flat_map(move |key| {
        let inside = map.get_item(&key).unwrap_or_default();
        [key, inside]
    })))
}

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
