//! Chat templates (Jinja), rendered so that no message can pass for a special token.
//!
//! The usual way (render to text, then look for special tokens in it) lets a row that contains `<|im_end|>` end its own
//! turn. Here the special tokens of the *template* are replaced by marks before rendering, and only marks become
//! special tokens; messages go through the template as they are, so that trimming or searching templates see real text,
//! and whatever looks like a special token in them stays text.

mod comparisons;
mod environment;
mod escapes;
mod filters;
mod iterators;
mod json;
mod lexer;
mod limits;
mod marks;
mod methods;
mod printf;
mod python;
mod source;
mod strftime;

use std::{collections::BTreeMap, ops::Range};

use fedward_actors::protocol::ChatMessage;
use minijinja::{
    Environment, ErrorKind, Value, context,
    value::{Kwargs, merge_maps},
};

use self::marks::{MOST_MARKED, escape, mark, unmark};
use crate::panics;

/// Steps that a rendering may take: ten thousand turns take a million.
const MAX_STEPS: u64 = 4_000_000;
/// How the complaint of a template that takes more begins.
const ENDLESS: &str = "chat template: takes more than";

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
        let environment = environment::environment()?;
        let source = &source::prepare(source).map_err(|problem| format!("chat template: {problem}"))?;
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
            Err(problem)
                if problem.starts_with(ENDLESS)
                    || [limits::TOO_LONG, limits::TOO_MANY].iter().any(|complaint| problem.contains(complaint)) =>
            {
                Err(problem)
            }
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
        let rendered = |form, said: &str| {
            let message = [ChatMessage::new(fedward_actors::protocol::Role::User, said)];
            let template = (&*self.marked_source, &*self.variables, form);
            self.render_source(template, &message, [said.to_owned()].into_iter(), true).ok()
        };
        // Two messages of one length: a loop over what it takes for parts goes around as often.
        let shows = |form| {
            let first = rendered(form, "what is said");
            first.is_some() && first != rendered(form, "how it reads")
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
        let render = || self.environment.render_named_str("chat_template", source, context);
        let rendered =
            panics::catch_all(render).map_err(|_| "chat template: the template engine fails on it".to_owned())?;
        rendered.map_err(|error| match error.kind() {
            ErrorKind::OutOfFuel => format!("{ENDLESS} {MAX_STEPS} steps; expected loops that end sooner"),
            _ => format!("chat template: {error}{}", self.missing_variables(source)),
        })
    }

    /// The special tokens that a template asks for by name and that the tokenizer does not name.
    fn missing_variables(&self, source: &str) -> String {
        let missing: Vec<_> =
            ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
                .into_iter()
                .filter(|name| source.contains(name) && self.variables.iter().all(|(known, _)| known != name))
                .collect();
        if missing.is_empty() { String::new() } else { format!("; the tokenizer names no {}", missing.join(", ")) }
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

#[cfg(test)]
mod tests;
