//! What a template's source is rewritten to before the template engine sees it.
//!
//! The engine has no say over some of Jinja's language: line ends, `generation` blocks, what `%` and `~` do, escapes in strings,
//! macros of any number of arguments. Here they become what it has; what cannot is refused by name.

use std::collections::BTreeMap;

use super::{
    comparisons::{self, in_bracket},
    escapes::literal,
    lexer::{Piece, Token, TokenKind, pieces},
    limits::{DEEPEST_BLOCKS, MOST_BRANCHES, MOST_OPERATORS},
};

/// The functions that stand for `~`, for `%`, for a call of a macro that takes any number of arguments, and for the value of an
/// assignment.
pub(super) const CONCAT: &str = "__concatenated";
pub(super) const REMAINDER: &str = "__remainder";
pub(super) const CALL_VARIADIC: &str = "__called";
pub(super) const KEEP: &str = "__kept";

/// How deep brackets may lie in one another.
const DEEPEST: usize = 100;

/// Parameters by macro, of those that take any number of arguments.
type Variadic<'s> = BTreeMap<&'s str, Vec<&'s str>>;

/// Rewrites a template.
///
/// # Errors
///
/// Says what of the template is not supported.
pub(super) fn prepare(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let pieces = pieces(&source);
    let variadic = variadic_macros(&pieces);
    let mut written = String::with_capacity(source.len());
    let mut blocks = Blocks::default();
    for piece in &pieces {
        match piece {
            Piece::Plain(text) => written.push_str(text),
            Piece::Code { open, tokens, close } => {
                let operators = operators(tokens);
                if operators > MOST_OPERATORS {
                    return Err(format!(
                        "found {operators} operators and filters in one statement, at most {MOST_OPERATORS} are supported"
                    ));
                }
                let rewriter = Rewriter { variadic: &variadic };
                written.push_str(open);
                if open.starts_with("{%") {
                    blocks.enter_or_leave(tokens)?;
                    check_scopes(tokens)?;
                    written.push_str(&rewriter.statement(tokens)?);
                } else {
                    written.push_str(&rewriter.code(tokens, None, 0)?);
                }
                written.push_str(close);
            }
        }
    }
    Ok(written)
}

/// Statements that have an end of their own.
const BLOCKS: [&str; 9] = ["for", "if", "with", "macro", "call", "filter", "block", "generation", "set"];

/// The blocks that are open at a place in a template, each with the branches that it has had.
#[derive(Default)]
struct Blocks<'s>(Vec<(&'s str, usize)>);

impl<'s> Blocks<'s> {
    /// Goes past a statement. Refuses to leave a loop through another block, for the template engine loses count, and more blocks in
    /// one another than its stack is known to hold.
    fn enter_or_leave(&mut self, tokens: &[Token<'s>]) -> Result<(), String> {
        let Some(statement) = tokens.first().map(|token| token.text) else { return Ok(()) };
        if statement == "autoescape" {
            return Err("{% autoescape %} is not supported".to_owned());
        }
        if let Some(block) = statement.strip_prefix("end") {
            self.0.pop_if(|(open, _)| *open == block);
        } else if BLOCKS.contains(&statement) {
            let assigns = statement == "set" && top_level(tokens).any(|token| token.text == "=");
            if !assigns {
                self.0.push((statement, 0));
            }
            if self.0.len() > DEEPEST_BLOCKS {
                return Err(format!("found blocks more than {DEEPEST_BLOCKS} deep"));
            }
        } else if statement == "elif" {
            let branches = self.0.last_mut().map_or(0, |(_, branches)| {
                *branches += 1;
                *branches
            });
            if branches > MOST_BRANCHES {
                return Err(format!("found an if with more than {MOST_BRANCHES} branches"));
            }
        } else if statement == "break" || statement == "continue" {
            let inside = self.0.iter().rev().map(|(block, _)| *block).take_while(|block| *block != "for");
            if let Some(block) = inside.into_iter().find(|block| *block != "if") {
                return Err(format!(
                    "{statement} inside {{% {block} %}} is not supported; put it outside of that block"
                ));
            }
        }
        Ok(())
    }
}

/// How many levels an expression may have, at most: each operator, bracket and filter may lie in the one before it.
fn operators(tokens: &[Token]) -> usize {
    let counts = |token: &&Token| match token.kind {
        TokenKind::Open => true,
        TokenKind::Operator => ![",", ":", "="].contains(&token.text),
        TokenKind::Name => ["and", "or", "not", "in", "is", "if"].contains(&token.text),
        _ => false,
    };
    tokens.iter().filter(counts).count()
}

/// Tokens outside of brackets.
pub(super) fn top_level<'t, 's>(tokens: &'t [Token<'s>]) -> impl Iterator<Item = &'t Token<'s>> {
    let mut depth = 0_usize;
    tokens.iter().filter(move |token| {
        let outside = depth == 0;
        match token.kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        outside
    })
}

/// Refuses values that read what is assigned beside them: the template engine looks names up in another order.
fn check_scopes(tokens: &[Token]) -> Result<(), String> {
    let (assigned, what) = match tokens.first().map(|token| token.text) {
        Some("with") => (&tokens[1..], "with"),
        Some("macro") if tokens.len() > 3 => (&tokens[3..tokens.len() - 1], "macro"),
        _ => return Ok(()),
    };
    let (mut targets, mut depth, mut in_value) = (Vec::new(), 0_usize, false);
    for (index, token) in assigned.iter().enumerate() {
        match (token.kind, token.text) {
            (TokenKind::Open, _) => depth += 1,
            (TokenKind::Close, _) => depth = depth.saturating_sub(1),
            (_, "=") if depth == 0 => in_value = true,
            (_, ",") if depth == 0 => in_value = false,
            (TokenKind::Name, name) if in_value => {
                let attribute = index > 0 && [".", "|"].contains(&assigned[index - 1].text);
                let named = assigned.get(index + 1).is_some_and(|next| next.text == "=");
                let earlier = &targets[..targets.len().saturating_sub(1)];
                if earlier.contains(&name) && !attribute && !named {
                    return Err(format!("{what}: a value that reads {name}, assigned beside it, is not supported"));
                }
            }
            (TokenKind::Name, name) if depth == 0 => targets.push(name),
            _ => {}
        }
    }
    Ok(())
}

/// Macros that read `varargs` or `kwargs`.
fn variadic_macros<'s>(pieces: &[Piece<'s>]) -> Variadic<'s> {
    let mut variadic = Variadic::new();
    let mut open: Vec<(&str, Vec<&str>)> = Vec::new();
    for piece in pieces {
        let Piece::Code { tokens, .. } = piece else { continue };
        match tokens.as_slice() {
            [first, name, bracket, parameters @ ..] if first.text == "macro" && bracket.text == "(" => {
                let mut names = Vec::new();
                let mut expected = true;
                for token in top_level(parameters) {
                    if expected && token.kind == TokenKind::Name {
                        names.push(token.text);
                    }
                    expected = token.text == ",";
                }
                open.push((name.text, names));
            }
            [first, ..] if first.text == "endmacro" => {
                open.pop();
            }
            tokens => {
                let reads = |token: &Token| token.text == "varargs" || token.text == "kwargs";
                if let Some((name, parameters)) = open.last().filter(|_| tokens.iter().any(reads)) {
                    variadic.insert(name, parameters.clone());
                }
            }
        }
    }
    variadic
}

/// Rewrites code.
struct Rewriter<'v> {
    variadic: &'v Variadic<'v>,
}

/// A token, or a whole bracket.
pub(super) struct Item {
    pub(super) space: String,
    pub(super) text: String,
    pub(super) kind: ItemKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemKind {
    /// Part of an operand.
    Operand,
    /// Binds more loosely than `~`.
    Border,
    Concat,
    Product,
    /// Belongs to the operand behind it.
    Sign,
}

impl Rewriter<'_> {
    /// Rewrites a statement. What `set` assigns goes through a function that bounds how deep values come to lie in one another.
    fn statement(&self, tokens: &[Token]) -> Result<String, String> {
        let name = tokens.first().map(|token| token.text);
        let mut depth = 0_usize;
        let assigns = tokens.iter().position(|token| {
            match token.kind {
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.text == "="
        });
        let Some((target, value)) = assigns.filter(|_| name == Some("set")).map(|at| tokens.split_at(at + 1)) else {
            return self.code(tokens, name, 0);
        };
        let is_constant =
            value.iter().all(|token| matches!(token.kind, TokenKind::Number | TokenKind::Text) || is_word(token.text));
        if value.is_empty() || is_constant {
            return self.code(tokens, name, 0);
        }
        let (target, levels) = (self.code(target, name, 0)?, operators(value).max(1));
        Ok(format!("{target} {KEEP}(({}), {levels})", self.code(value, None, 1)?))
    }

    /// Rewrites code; `statement` is its first word, where it is no expression.
    fn code(&self, tokens: &[Token], statement: Option<&str>, depth: usize) -> Result<String, String> {
        if depth > DEEPEST {
            return Err(format!("found brackets more than {DEEPEST} deep"));
        }
        let mut items: Vec<Item> = Vec::new();
        let mut index = 0;
        while let Some(token) = tokens.get(index) {
            let before = index.checked_sub(1).map(|before| tokens[before].text);
            let operand_before = items.last().is_some_and(|item| item.kind == ItemKind::Operand);
            let (text, kind) = match token.kind {
                TokenKind::Open => {
                    let end = index + closing(&tokens[index..]);
                    let inside = self.code(&tokens[index + 1..end], None, depth + 1)?;
                    let close = tokens.get(end).map_or(String::new(), |close| format!("{}{}", close.space, close.text));
                    let inside = if operand_before {
                        in_bracket(&items, token.text, inside, &tokens[index + 1..end])
                    } else {
                        inside
                    };
                    let bracket = (token.text, inside.as_str(), close.as_str());
                    index = end + 1;
                    let defined = tokens.get(1).filter(|_| statement == Some("macro") && items.len() == 2);
                    if defined.is_none() && token.text == "(" && self.make_variadic(&mut items, &inside) {
                        continue;
                    }
                    (self.bracket(bracket, defined.map(|name| name.text)), ItemKind::Operand)
                }
                TokenKind::Text => (literal(token.text)?.into_owned(), ItemKind::Operand),
                TokenKind::Name if statement.is_some() && index == 0 => {
                    (statement_name(token.text).to_owned(), ItemKind::Border)
                }
                TokenKind::Name => (token.text.to_owned(), name_kind(token.text, before)),
                TokenKind::Number | TokenKind::Close => (token.text.to_owned(), ItemKind::Operand),
                TokenKind::Operator => (token.text.to_owned(), operator_kind(token.text, operand_before)),
            };
            items.push(Item { space: token.space.to_owned(), text, kind });
            if token.kind != TokenKind::Open {
                index += 1;
            }
        }
        Ok(comparisons::rewritten(&items, statement))
    }

    /// A bracket as it stands; that of a variadic macro's parameters with two more.
    fn bracket(&self, (open, inside, close): (&str, &str, &str), defined: Option<&str>) -> String {
        let more = match defined.filter(|name| self.variadic.contains_key(name)) {
            Some(_) if inside.trim().is_empty() => "varargs=(), kwargs={}",
            Some(_) => ", varargs=(), kwargs={}",
            None => "",
        };
        format!("{open}{inside}{more}{close}")
    }

    /// Has the last item, if it is a variadic macro, be called with what stands in the bracket behind it.
    fn make_variadic(&self, items: &mut [Item], inside: &str) -> bool {
        let [before @ .., called] = items else { return false };
        let is_attribute = before.last().is_some_and(|before| [".", "|", "is"].contains(&before.text.as_str()));
        let Some(parameters) = self.variadic.get(called.text.as_str()).filter(|_| !is_attribute) else { return false };
        let parameters: Vec<_> = parameters.iter().map(|name| format!("'{name}'")).collect();
        let args = if inside.trim().is_empty() { String::new() } else { format!(", {inside}") };
        called.text = format!("{CALL_VARIADIC}({}, [{}]{args})", called.text, parameters.join(", "));
        true
    }
}

/// Where the bracket that tokens begin with closes, or their end.
fn closing(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    let end = tokens.iter().position(|token| {
        match token.kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    end.unwrap_or(tokens.len())
}

/// `generation` is the block by which templates tell `transformers` what an assistant says; like `with` it renders what it holds
/// and keeps its variables to itself.
fn statement_name(name: &str) -> &str {
    match name {
        "generation" => "with",
        "endgeneration" => "endwith",
        other => other,
    }
}

/// Whether it is a constant that Jinja has a word for.
fn is_word(name: &str) -> bool {
    ["true", "false", "none", "True", "False", "None"].contains(&name)
}

fn name_kind(name: &str, before: Option<&str>) -> ItemKind {
    match name {
        // A test binds as closely as a filter.
        "not" if before == Some("is") => ItemKind::Operand,
        "and" | "or" | "not" | "in" | "if" | "else" | "recursive" if before != Some(".") => ItemKind::Border,
        _ => ItemKind::Operand,
    }
}

fn operator_kind(operator: &str, operand_before: bool) -> ItemKind {
    match operator {
        "~" => ItemKind::Concat,
        "*" | "/" | "//" | "%" if operand_before => ItemKind::Product,
        "-" | "+" if operand_before => ItemKind::Border,
        "-" | "+" => ItemKind::Sign,
        "." | "|" | "**" => ItemKind::Operand,
        _ => ItemKind::Border,
    }
}

/// Writes what has no comparison in it, with functions for `~` and `%`.
pub(super) fn operand(items: &[Item]) -> String {
    let runs = items.chunk_by(|a, b| a.kind != ItemKind::Border && b.kind != ItemKind::Border);
    runs.map(concatenation).collect()
}

fn plain(items: &[Item]) -> String {
    items.iter().flat_map(|item| [item.space.as_str(), &item.text]).collect()
}

fn concatenation(items: &[Item]) -> String {
    let operands: Vec<_> = items.split(|item| item.kind == ItemKind::Concat).collect();
    // An operand that is missing is for the template engine to complain of.
    if operands.iter().any(|operand| operand.is_empty()) {
        return plain(items);
    }
    let operands: Vec<_> = operands.into_iter().map(product).collect();
    match operands.as_slice() {
        [only] => only.clone(),
        _ => format!("{}{CONCAT}({})", items[0].space, operands.join(",")),
    }
}

fn product(items: &[Item]) -> String {
    let operands: Vec<_> = items.split(|item| item.kind == ItemKind::Product).collect();
    let operators: Vec<_> = items.iter().filter(|item| item.kind == ItemKind::Product).collect();
    if operands.iter().any(|operand| operand.is_empty()) || operators.iter().all(|operator| operator.text != "%") {
        return plain(items);
    }
    let mut written = plain(operands[0]);
    for (operator, operand) in operators.into_iter().zip(&operands[1..]) {
        written = if operator.text == "%" {
            format!("{}{REMAINDER}({written},{})", items[0].space, plain(operand))
        } else {
            format!("{written}{}{}{}", operator.space, operator.text, plain(operand))
        };
    }
    written
}
