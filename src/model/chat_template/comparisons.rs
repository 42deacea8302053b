//! Comparisons. The engine looks at all parts of the values that it compares, as often as they lie in one another: a list that
//! holds another twice, which holds another twice, takes for ever. Here what is compared or looked for is counted before.

use minijinja::{
    Environment, Error, State, Value, filters, tests,
    value::{Rest, ValueOrKwargs},
};

use super::{
    lexer::{Token, TokenKind},
    limits,
    source::{Item, ItemKind, operand, top_level},
};

/// The functions that count what is compared, that do so with several values, and that count what is looked for.
pub(super) const COMPARED: &str = "__compared";
pub(super) const ALL_COMPARED: &str = "__all_compared";
pub(super) const SOUGHT: &str = "__sought";

/// A test of the engine that compares two values.
type Test = fn(&Value, &Value) -> bool;

/// Has the filters and tests of the engine that compare values do so within bounds.
pub(super) fn register(environment: &mut Environment) {
    for (name, filter) in [
        ("sort", Value::from_function(filters::sort)),
        ("groupby", Value::from_function(filters::groupby)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
    ] {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            args.iter().try_for_each(|arg| limits::compared(state, arg))?;
            filter.call(state, &args)
        });
    }
    let tests: [(&[&str], Test); 6] = [
        (&["eq", "equalto", "=="], tests::is_eq),
        (&["ne", "!="], tests::is_ne),
        (&["lt", "lessthan", "<"], tests::is_lt),
        (&["le", "<="], tests::is_le),
        (&["gt", "greaterthan", ">"], tests::is_gt),
        (&["ge", ">="], tests::is_ge),
    ];
    for (names, test) in tests {
        for name in names {
            environment.add_test(*name, move |state: &mut State, value: &Value, other: &Value| {
                limits::compared(state, value)?;
                limits::compared(state, other)?;
                Ok::<_, Error>(test(value, other))
            });
        }
    }
    environment.add_test("in", |state: &mut State, value: &Value, other: &Value| {
        limits::sought(value)?;
        tests::is_in(state, value, other)
    });
}

/// What counts an operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Not,
    Compared,
    Sought,
}

/// Writes code, with a function around what is compared with `==`, `<` and the like, looked for with `in`, or a key.
pub(super) fn rewritten(items: &[Item], statement: Option<&str>) -> String {
    let mut operands: Vec<_> = items.chunk_by(|a, b| !parts_operands(a) && !parts_operands(b)).collect();
    operands.retain(|operand| !operand.is_empty());
    let mut counted = vec![Counted::Not; operands.len()];
    // The first `in` of a loop is none that looks for anything.
    let mut loops = statement == Some("for");
    for (index, found) in operands.iter().enumerate() {
        let [Item { text, kind: ItemKind::Border, .. }] = found else { continue };
        let Some(left) = index.checked_sub(1) else { continue };
        match text.as_str() {
            "==" | "!=" | "<" | "<=" | ">" | ">=" => {
                let right = index + 1;
                if right < operands.len() && !is_plain(operands[left]) && !is_plain(operands[right]) {
                    (counted[left], counted[right]) = (Counted::Compared, Counted::Compared);
                }
            }
            "in" if loops => loops = false,
            // A test of that name counts by itself.
            "in" if ends_in_test(operands[left]) => {}
            "in" => {
                let negated = operands[left].first().is_some_and(|item| item.text == "not");
                let left = if negated { left.checked_sub(1) } else { Some(left) };
                if let Some(left) = left {
                    counted[left] = Counted::Sought;
                }
            }
            ":" => counted[left] = Counted::Sought,
            _ => {}
        }
    }
    let written = operands.into_iter().zip(counted).map(|(items, counted)| {
        let is_operand = items.first().is_some_and(|first| !parts_operands(first));
        let function = match counted {
            _ if !is_operand || is_plain(items) => return operand(items),
            Counted::Not => return operand(items),
            Counted::Compared => COMPARED,
            Counted::Sought => SOUGHT,
        };
        let (space, text) = (&items[0].space, operand(items));
        format!("{space}{function}({})", &text[space.len()..])
    });
    written.collect()
}

/// Whether an item stands between the operands of comparisons: a border, but for signs.
fn parts_operands(item: &Item) -> bool {
    item.kind == ItemKind::Border && !["+", "-"].contains(&item.text.as_str())
}

/// Whether `is` or `is not` ends an operand.
fn ends_in_test(operand: &[Item]) -> bool {
    operand.last().is_some_and(|last| last.kind == ItemKind::Operand && ["is", "not"].contains(&last.text.as_str()))
}

/// Whether an operand is a text, a number or the like, or an empty list: whatever is compared with it is found to differ at once.
fn is_plain(items: &[Item]) -> bool {
    items.iter().all(|item| {
        let literal = |first: char| first.is_ascii_digit() || "'\"".contains(first);
        let words = ["true", "false", "none", "True", "False", "None", "[]", "{}", "()"];
        item.kind == ItemKind::Sign || item.text.starts_with(literal) || words.contains(&item.text.as_str())
    })
}

/// What stands in a bracket behind an operand: a key that is looked for, or the values of which `loop.changed` asks whether they are
/// other ones.
pub(super) fn in_bracket(before: &[Item], open: &str, inside: String, tokens: &[Token]) -> String {
    let behind = |index: usize| before.len().checked_sub(index).map_or("", |at| before[at].text.as_str());
    let is_test = behind(2) == "is" || (behind(2) == "not" && behind(3) == "is");
    let literal = |token: &Token| matches!(token.kind, TokenKind::Text | TokenKind::Number | TokenKind::Operator);
    let is_slice = top_level(tokens).any(|token| token.text == ":");
    match open {
        "(" if behind(1) == "changed" && behind(2) == "." && !tokens.is_empty() => format!("{ALL_COMPARED}({inside})"),
        "[" if !is_test && !is_slice && !tokens.iter().all(literal) => format!("{SOUGHT}(({inside}))"),
        _ => inside,
    }
}
