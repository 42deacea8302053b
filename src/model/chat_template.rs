//! Chat templates (Jinja), rendered so that no message can pass for a special token.
//!
//! The usual way (render to text, then look for special tokens in it) lets a row that contains `<|im_end|>` end its own
//! turn. Here the special tokens of the *template* are replaced by marks before rendering, and only marks become
//! special tokens; messages go through the template as they are, so that trimming or searching templates see real text,
//! and whatever looks like a special token in them stays text.

use std::{collections::BTreeMap, ops::Range};

use fedward_actors::protocol::ChatMessage;
use minijinja::{
    Environment, Error, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind, merge_maps},
};

/// Opens a mark; doubled, it stands for itself. From the last private-use plane, which no text should use.
const MARK: char = '\u{10FFFD}';
/// The character that follows [`MARK`] for special token 0.
const FIRST_MARKED: u32 = 0x10_0000;
/// Steps that a rendering may take: ten thousand turns take a million.
const MAX_STEPS: u64 = 4_000_000;
/// How the complaint of a template that takes more begins.
const ENDLESS: &str = "chat template: takes more than";
/// How many special tokens can be marked.
const MOST_MARKED: usize = 0xFF00;

/// A special token of the tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpecialToken {
    pub(super) content: String,
    pub(super) id: u32,
}

/// A conversation as text, and which parts of the text are special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// Byte ranges and token ids, in order.
    pub(super) specials: Vec<(Range<usize>, u32)>,
}

/// A chat template with the special tokens that it may write.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    marked_source: String,
    /// `bos_token` and the like, marked.
    variables: Vec<(String, String)>,
    specials: Vec<SpecialToken>,
    content_form: ContentForm,
}

/// What templates take a message's content for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentForm {
    /// A text.
    Text,
    /// A list of parts, each with a type: `[{"type": "text", "text": …}]`.
    Parts,
}

impl ChatTemplate {
    /// Compiles `source` with the variables (`bos_token`, `eos_token`, …) that it may use.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the template, or which special token it composes of parts: such a token could not be told
    /// from a look-alike in a message.
    pub(super) fn new(
        source: &str,
        variables: &[(String, String)],
        mut specials: Vec<SpecialToken>,
    ) -> Result<Self, String> {
        if specials.len() > MOST_MARKED {
            return Err(format!("found {} special tokens, at most {MOST_MARKED} are supported", specials.len()));
        }
        // Longest first, so that the first match at a place is the longest.
        specials.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then(a.id.cmp(&b.id)));
        let environment = environment()?;
        let source = &group_generations(source);
        let mut template = Self {
            marked_source: mark(source, &specials),
            variables: variables.iter().map(|(name, text)| (name.clone(), mark(text, &specials))).collect(),
            environment,
            specials,
            content_form: ContentForm::Text,
        };
        if let Err(error) = template.environment.template_from_named_str("chat_template", &template.marked_source) {
            return Err(format!("chat template: {error}"));
        }
        template.refuse_endless()?;
        template.content_form = template.find_content_form();
        template.check_nothing_composed(source, variables)?;
        Ok(template)
    }

    /// Refuses a template that one message already keeps busy: each of the following would take as long.
    fn refuse_endless(&self) -> Result<(), String> {
        let message = ChatMessage::new(fedward_actors::protocol::Role::User, "text");
        match self.render(&[message], true) {
            Err(problem) if problem.starts_with(ENDLESS) => Err(problem),
            _ => Ok(()),
        }
    }

    /// Renders a conversation, with the opening of an assistant turn behind it if `add_generation_prompt`.
    pub(super) fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<Rendered, String> {
        let escaped = messages.iter().map(|message| escape(&message.content));
        let template = (&*self.marked_source, &*self.variables, self.content_form);
        let marked = self.render_source(template, messages, escaped, add_generation_prompt)?;
        Ok(unmark(&marked, &self.specials))
    }

    /// The form in which the template shows what a message says. A template for parts shows nothing of a text, and does not
    /// complain.
    fn find_content_form(&self) -> ContentForm {
        let shows = |form| {
            let said = "what is said";
            let message = [ChatMessage::new(fedward_actors::protocol::Role::User, said)];
            let template = (&*self.marked_source, &*self.variables, form);
            let rendered = self.render_source(template, &message, [said.to_owned()].into_iter(), true);
            rendered.is_ok_and(|text| text.contains(said))
        };
        if !shows(ContentForm::Text) && shows(ContentForm::Parts) { ContentForm::Parts } else { ContentForm::Text }
    }

    fn render_source(
        &self,
        (source, variables, form): (&str, &[(String, String)], ContentForm),
        messages: &[ChatMessage],
        contents: impl Iterator<Item = String>,
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        let messages: Vec<_> = messages
            .iter()
            .zip(contents)
            .map(|(message, content)| context! { role => message.role.as_str(), content => form.value(content) })
            .collect();
        let fixed = context! { messages, add_generation_prompt, tools => (), documents => () };
        let variables: Kwargs = variables.iter().map(|(name, text)| (name.as_str(), Value::from(text))).collect();
        let context = merge_maps([fixed, variables.into()]);
        self.environment.render_named_str("chat_template", source, context).map_err(|error| match error.kind() {
            ErrorKind::OutOfFuel => format!("{ENDLESS} {MAX_STEPS} steps; expected loops that end sooner"),
            _ => format!("chat template: {error}"),
        })
    }

    /// Renders sample conversations the usual way too, and compares: a special token that the template puts together
    /// from parts (`'<|' + role + '|>'`) escapes marking.
    fn check_nothing_composed(&self, source: &str, variables: &[(String, String)]) -> Result<(), String> {
        use fedward_actors::protocol::Role::{Assistant, System, User};
        let turns = |roles: &[_]| roles.iter().map(|&role| ChatMessage::new(role, "text")).collect::<Vec<_>>();
        for messages in [turns(&[User]), turns(&[User, Assistant]), turns(&[System, User, Assistant, User])] {
            for add_generation_prompt in [true, false] {
                let contents = messages.iter().map(|message| message.content.clone());
                let template = (source, variables, self.content_form);
                let usual = self.render_source(template, &messages, contents, add_generation_prompt);
                // Some templates refuse some sequences of roles; that is for whoever renders them to hear.
                let Ok(usual) = usual else { continue };
                let expected = unmark(&mark(&usual, &self.specials), &self.specials);
                let found = self.render(&messages, add_generation_prompt)?;
                if found == expected {
                    continue;
                }
                let composed = expected.specials.iter().find(|special| !found.specials.contains(special));
                let token = composed.map_or("?", |(range, _)| &expected.text[range.clone()]);
                return Err(format!(
                    "chat template: composes the special token {token} of parts, so that it cannot be told from the \
                     same text in a message; write it out in the template"
                ));
            }
        }
        Ok(())
    }
}

impl ContentForm {
    fn value(self, text: String) -> Value {
        match self {
            Self::Text => Value::from(text),
            Self::Parts => {
                let part = BTreeMap::from([("type", "text".to_owned()), ("text", text)]);
                Value::from(vec![Value::from(part)])
            }
        }
    }
}

/// The environment in which `transformers` renders chat templates.
fn environment() -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| format!("chat template: {error}"))?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(MAX_STEPS));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| strftime(format));
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// Python's `json.dumps`, which `transformers` puts in place of Jinja's escaping `tojson`.
#[allow(clippy::needless_pass_by_value, reason = "filters take their keyword arguments by value")]
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut text = String::new();
    write_json(&mut text, value, indent, 0)?;
    Ok(text)
}

/// With an indent every element has a line of its own; without one a space follows each comma.
fn write_json(text: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    let line = |text: &mut String, depth: usize| {
        if let Some(width) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let kind = value.kind();
    let (open, close) = match kind {
        ValueKind::Map => ('{', '}'),
        ValueKind::Seq | ValueKind::Iterable => ('[', ']'),
        ValueKind::None => {
            text.push_str("null");
            return Ok(());
        }
        ValueKind::Bool | ValueKind::Number => {
            text.push_str(&value.to_string().to_lowercase());
            return Ok(());
        }
        ValueKind::String => {
            text.push_str(&serde_json::Value::from(value.as_str().unwrap_or_default()).to_string());
            return Ok(());
        }
        _ => return Err(Error::new(ErrorKind::BadSerialization, format!("tojson: {kind} has no JSON form"))),
    };
    text.push(open);
    let mut empty = true;
    for element in value.try_iter()? {
        if !empty {
            text.push_str(if indent.is_some() { "," } else { ", " });
        }
        empty = false;
        line(text, depth + 1);
        if kind == ValueKind::Map {
            text.push_str(&serde_json::Value::from(element.to_string()).to_string());
            text.push_str(": ");
            write_json(text, &value.get_item(&element)?, indent, depth + 1)?;
        } else {
            write_json(text, &element, indent, depth + 1)?;
        }
    }
    if !empty {
        line(text, depth);
    }
    text.push(close);
    Ok(())
}

/// Formats the one day that templates get to see. The date of the run would change its tokens from day to day; this is
/// the date that Llama 3's templates fall back to.
fn strftime(format: &str) -> String {
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('d') => text.push_str("26"),
            Some('m') => text.push_str("07"),
            Some('b') => text.push_str("Jul"),
            Some('B') => text.push_str("July"),
            Some('y') => text.push_str("24"),
            Some('Y') => text.push_str("2024"),
            Some('a') => text.push_str("Fri"),
            Some('A') => text.push_str("Friday"),
            Some('H' | 'M' | 'S') => text.push_str("00"),
            Some('%') => text.push('%'),
            other => {
                text.push('%');
                text.extend(other);
            }
        }
    }
    text
}

/// Writes `with` for `generation`, the block by which templates tell `transformers` what an assistant says: both render
/// what they hold and keep its variables to themselves.
fn group_generations(source: &str) -> String {
    let mut written = String::with_capacity(source.len());
    let mut pieces = source.split_inclusive("{%");
    written.extend(pieces.next());
    for piece in pieces {
        let begin = piece.len() - piece.trim_start_matches(['-', '+']).trim_start().len();
        let (before, rest) = piece.split_at(begin);
        let word = rest.split(|character: char| !character.is_alphanumeric() && character != '_').next().unwrap_or("");
        let replaced = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            other => other,
        };
        written.extend([before, replaced, &rest[word.len()..]]);
    }
    written
}

/// Replaces each special token in `text` by its mark; `specials` come longest first.
fn mark(text: &str, specials: &[SpecialToken]) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let special = specials.iter().position(|special| rest.starts_with(&special.content));
        let mark_of = |index: usize| char::from_u32(FIRST_MARKED + index as u32);
        if let Some((index, second)) = special.and_then(|index| Some((index, mark_of(index)?))) {
            marked.extend([MARK, second]);
            rest = &rest[specials[index].content.len()..];
        } else {
            marked.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    marked
}

/// Doubles marks in a message, so that they stand for themselves.
fn escape(content: &str) -> String {
    content.replace(MARK, &[MARK, MARK].iter().collect::<String>())
}

/// Puts special tokens back where their marks are, and remembers where that was.
fn unmark(marked: &str, specials: &[SpecialToken]) -> Rendered {
    let mut rendered = Rendered { text: String::with_capacity(marked.len()), specials: Vec::new() };
    let mut characters = marked.chars().peekable();
    while let Some(character) = characters.next() {
        let special =
            |next: &char| (*next as u32).checked_sub(FIRST_MARKED).and_then(|index| specials.get(index as usize));
        match characters.peek() {
            Some(&MARK) if character == MARK => {
                characters.next();
                rendered.text.push(MARK);
            }
            Some(next) if character == MARK && special(next).is_some() => {
                if let Some(special) = special(next) {
                    let start = rendered.text.len();
                    rendered.text.push_str(&special.content);
                    rendered.specials.push((start..rendered.text.len(), special.id));
                }
                characters.next();
            }
            _ => rendered.text.push(character),
        }
    }
    rendered
}

#[cfg(test)]
mod tests;
