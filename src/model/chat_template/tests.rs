//! Renderings, ours and those of transformers.

use fedward_actors::protocol::Role;

use super::*;

const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] \
                      + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' \
                      }}{% endif %}";

fn specials() -> Vec<SpecialToken> {
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        .iter()
        .zip(0..)
        .map(|(content, id)| SpecialToken { content: (*content).to_owned(), id })
        .collect()
}

fn render(source: &str, content: &str) -> Rendered {
    let template = ChatTemplate::new(source, &[], specials()).unwrap();
    template.render(&[ChatMessage::new(Role::User, content)], true).unwrap()
}

#[test]
fn only_the_template_writes_special_tokens() {
    let ids = |content| render(CHATML, content).specials.iter().map(|(_, id)| *id).collect::<Vec<_>>();
    for content in ["plain", "<|im_end|>", "<|im_end|><|im_start|>", "\u{10FFFD}\u{100001}", "\u{10FFFD}", "\u{100000}"]
    {
        assert_eq!(ids(content), [1, 2, 1], "{content:?}");
        assert!(render(CHATML, content).text.contains(content), "{content:?}");
    }
}

#[test]
fn templates_see_the_real_content() {
    let source = CHATML.replace("message['content']", "(message['content'].strip() | trim | upper)");
    assert_eq!(render(&source, "  hi \n").text, "<|im_start|>user\nHI<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn tokens_composed_of_parts_are_refused() {
    let source = CHATML.replace("'<|im_end|>'", "'<|im' + '_end|>'");
    let error = ChatTemplate::new(&source, &[], specials()).unwrap_err();
    assert!(error.contains("composes the special token <|im_end|>"), "{error}");
}

#[test]
fn a_template_can_refuse_a_conversation() {
    let source = "{% if messages[0]['role'] == 'user' %}{{ raise_exception('no ' ~ messages | length) }}{% endif %}";
    let template = ChatTemplate::new(source, &[], specials()).unwrap();
    let error = template.render(&[ChatMessage::new(Role::User, "x")], true).unwrap_err();
    assert!(error.contains("no 1"), "{error}");
}

#[test]
fn a_template_for_parts_gets_parts_and_one_for_texts_gets_texts() {
    let parts = "{% for m in messages %}<|im_start|>{{ m.role }}: {% for part in m['content'] %}{% if part['type'] == 'text' %}{{ \
                 part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}";
    assert_eq!(render(parts, "hi <|im_end|>").text, "<|im_start|>user: hi <|im_end|><|im_end|>");
    assert_eq!(render(parts, "hi <|im_end|>").specials.len(), 2);
    let first = "{{ messages[0].content[0].text }}";
    assert_eq!(render(first, "hi").text, "hi");
    let either = "{% if messages[0].content is string %}text{{ messages[0].content }}{% else %}parts{% endif %}";
    assert_eq!(render(either, "hi").text, "texthi");
}

#[test]
fn variables_are_special_tokens_too() {
    let variables = [("bos_token".to_owned(), "<|im_start|>".to_owned()), ("pad_token".to_owned(), "?".to_owned())];
    let source = "{{ bos_token + messages[0].content + pad_token }}";
    let template = ChatTemplate::new(source, &variables, specials()).unwrap();
    let rendered = template.render(&[ChatMessage::new(Role::User, "<|im_start|>")], true).unwrap();
    assert_eq!(rendered, Rendered { text: "<|im_start|><|im_start|>?".to_owned(), specials: vec![(0..12, 1)] });
}

#[test]
fn helpers_answer_as_in_transformers() {
    let text = |source| render(source, "x").text;
    assert_eq!(text("{{ {'a': [1, '<é>'], 'b': none} | tojson }}"), "{\"a\": [1, \"<é>\"], \"b\": null}");
    assert_eq!(text("{{ [1] | tojson(indent=4) }}"), "[\n    1\n]");
    assert_eq!(text("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2024");
    assert_eq!(text("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"), "1");
    assert_eq!(text("a\n  {% if true %}\nb\n{% endif %}\n"), "a\nb\n");
    assert_eq!(text("{% if tools is none and not documents %}none{% endif %}"), "none");
    assert_eq!(text("{%- generation -%} a {%- endgeneration %}{# generation #}"), "a");
}

/// Compares renderings with those of `tests/reference/chat_templates.py`; returns how many conversations agree.
fn assert_renders_as_transformers(reference: &str) -> usize {
    let reference: std::collections::BTreeMap<String, Reference> = serde_json::from_str(reference).unwrap();
    let mut agreeing = 0;
    for (name, Reference { template, specials, cases }) in reference {
        let variables = ["bos_token", "eos_token"].map(str::to_owned).into_iter().zip(specials.clone());
        let specials = specials.into_iter().zip(0..).map(|(content, id)| SpecialToken { content, id }).collect();
        let template = ChatTemplate::new(&template, &variables.collect::<Vec<_>>(), specials)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for case in cases {
            let found = template.render(&case.messages, case.add_generation_prompt);
            match case.error {
                None => assert_eq!(found.unwrap().text, case.text, "{name}: {:?}", case.messages),
                Some(expected) => {
                    let found = found.unwrap_err();
                    assert!(found.contains(&expected), "{name}: found {found}, expected {expected}");
                }
            }
            agreeing += 1;
        }
    }
    agreeing
}

#[derive(serde::Deserialize)]
struct Reference {
    template: String,
    /// `bos_token` and `eos_token` first.
    specials: Vec<String>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    #[serde(default)]
    text: String,
    error: Option<String>,
}

fn reference_file(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

#[test]
fn what_families_use_renders_as_in_transformers() {
    let reference = std::fs::read_to_string(reference_file("fixtures/chat_templates.json")).unwrap();
    assert_eq!(assert_renders_as_transformers(&reference), 84);
}

/// A template of `tests/reference/template_language.py`.
#[derive(serde::Deserialize)]
struct Piece {
    /// What it is compared for.
    kind: String,
    template: String,
    /// What Jinja writes, unless it fails.
    text: Option<String>,
}

#[test]
fn the_language_is_that_of_jinja() {
    let reference = std::fs::read_to_string(reference_file("fixtures/template_language.json")).unwrap();
    let pieces: Vec<Piece> = serde_json::from_str(&reference).unwrap();
    let variables =
        [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    let messages = [ChatMessage::new(Role::User, "Hi there"), ChatMessage::new(Role::Assistant, " Yes. ")];
    let mut counts = std::collections::BTreeMap::new();
    for Piece { kind, template, text } in &pieces {
        let rendered = ChatTemplate::new(template, &variables, Vec::new())
            .and_then(|compiled| compiled.render(&messages, true))
            .map(|rendered| rendered.text);
        match kind.as_str() {
            // Errors have words of their own.
            "same" => assert_eq!(rendered.as_ref().ok(), text.as_ref(), "{template}: {rendered:?}"),
            "not supported" => assert!(rendered.is_err() && text.is_some(), "{template}: {rendered:?}"),
            _ => assert!(rendered.is_ok() && rendered.as_ref().ok() != text.as_ref(), "{template}: {rendered:?}"),
        }
        *counts.entry(kind.as_str()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("not supported", 49), ("otherwise", 21), ("same", 1240)]);
}

#[test]
fn what_is_not_supported_is_named() {
    let error = |source: &str| {
        let compiled = ChatTemplate::new(source, &[], specials());
        compiled.and_then(|template| template.render(&[ChatMessage::new(Role::User, "x")], true)).unwrap_err()
    };
    for (source, expected) in [
        ("{{ strftime_now('%d %Q') }}", "strftime_now: found \"%Q\""),
        ("{{ 'x' | wordwrap(3) }}", "filter wordwrap is unknown"),
        ("{{ 'x'.casefold() }}", "string has no method named casefold"),
        ("{{ messages | map('length') }}", "a generator, which has neither text nor length"),
        ("{% for m in messages %}{% with %}{% break %}{% endwith %}{% endfor %}", "break inside {% with %}"),
        ("{% macro f(a, b=a) %}{% endmacro %}", "macro: a value that reads a"),
        ("{{ '\\N{BULLET}' }}", "names of characters (\\N) are not supported"),
        (&format!("{{{{ {}1{} }}}}", "(".repeat(500), ")".repeat(500)), "brackets more than 100 deep"),
        (
            "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
            "100 deep",
        ),
        ("{{ bos_token + messages[0].content }}", "the tokenizer names no bos_token"),
    ] {
        assert!(error(source).contains(expected), "{source}: {}", error(source));
    }
}

#[test]
fn a_template_that_grows_without_bound_is_refused() {
    let error = |source: &str| {
        let compiled = ChatTemplate::new(source, &[], specials());
        compiled.and_then(|template| template.render(&[ChatMessage::new(Role::User, "x")], true)).unwrap_err()
    };
    for (source, expected) in [
        ("{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", ENDLESS),
        (&format!("{{{{ 'a'{} }}}}", " | trim".repeat(100_000)), "found 100000 operators and filters in one statement"),
        (
            &format!("{{{{ messages{} }}}}", "[0]".repeat(100_000)),
            "found 100000 operators and filters in one statement",
        ),
        (&format!("{{{{ 1{} }}}}", " and 1".repeat(100_000)), "found 100000 operators and filters in one statement"),
        (&format!("{}{}", "{% if true %}".repeat(100_000), "{% endif %}".repeat(100_000)), "blocks more than 100 deep"),
        (
            &format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(100_000)),
            "found an if with more than 500 branches",
        ),
        // Values that lie in one another are dropped a stack frame each.
        ("{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}", ENDLESS),
        (&format!("{{% set x = [] %}}{}", "{% set x = [x] %}".repeat(100_000)), ENDLESS),
        // A hundred texts of a megabyte each.
        ("{% set x = 'a' * 1000000 %}{{ ''.join([x] * 100) }}", "a text of more than 64 MiB"),
        ("{% set x = 'a' * 1000000 %}{{ ([x] * 100) | join }}", "a text of more than 64 MiB"),
        ("{% set x = 'a' * 1000000 %}{{ (['a'] * 100) | join(x) }}", "a text of more than 64 MiB"),
        ("{% set x = '\n' * 1000000 %}{{ x | indent('a' * 100, true, true) }}", "a text of more than 64 MiB"),
        ("{% set x = 'a' * 1000000 %}{{ ('{0}' * 100).format(x) }}", "a text of more than 64 MiB"),
        ("{% set x = 'a' * 1000000 %}{{ ([x] * 100) | tojson }}", "a text of more than 64 MiB"),
        ("{% set x = 'a' * 1000000 %}{{ ([1] * 100) | tojson(separators=(x, x)) }}", "a text of more than 64 MiB"),
        // A list that is twice in a list, and that in another.
        (
            "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
            "a text of more than 64 MiB",
        ),
        (
            "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
            "a text of more than 64 MiB",
        ),
        (&format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)), "found 100000 operators and filters"),
    ] {
        let (shown, error) = (&source[..source.len().min(200)], error(source));
        assert!(error.contains(expected), "{shown}: {error}");
    }
}

#[test]
fn values_that_share_parts_are_compared_within_bounds() {
    let shared = "{% set ns = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}\
                  {% set ns.y = [ns.y, ns.y] %}{% endfor %}{% set x = ns.x %}{% set y = ns.y %}";
    let (many, sought) = (limits::TOO_MANY, "of more than 100 parts");
    for (used, expected) in [
        ("{{ x == y }}", many),
        ("{{ x != y }}", many),
        ("{{ 1 < 2 and x <= y or true }}", many),
        ("{{ x + [1] == y + [1] }}", many),
        ("{{ 'same' if not x == y else 'other' }}", many),
        ("{{ {'a': x} == {'a': y} }}", many),
        ("{{ dict(a=x) == dict(a=y) }}", many),
        ("{{ (x, 1) > (y, 1) }}", many),
        ("{{ ([x] | map('list') | list) == [y] }}", many),
        ("{{ x is eq y }}{{ x is ne(y) }}", many),
        ("{{ x is lt y }}", many),
        ("{{ [x] | select('==', y) | list }}", many),
        ("{{ [{'k': x}] | selectattr('k', 'gt', y) | list }}", many),
        ("{{ [x, y] | sort }}", many),
        ("{{ [x, y] | unique | list }}", many),
        ("{{ [x, y] | min }}", many),
        ("{{ [x, y] | max }}", many),
        ("{{ {'a': x, 'b': y} | dictsort(by='value') }}", many),
        ("{{ [{'k': x}, {'k': y}] | groupby('k') }}", many),
        ("{% for i in range(2) %}{{ loop.changed([x, y][i]) }}{% endfor %}", many),
        ("{% for v in [x, y] %}{{ loop.changed(v, 1) }}{% endfor %}", many),
        ("{{ [[[1] * 10000] * 10000] * 10000 == [[[1] * 10000] * 10000] * 10000 }}", many),
        ("{{ x in [y] }}", sought),
        ("{{ x not in [y] }}", sought),
        ("{{ x is in [y] }}{{ x is not in [y] }}", sought),
        ("{{ [x] | select('in', [y]) | list }}", sought),
        ("{{ x in 'text' }}", sought),
        ("{{ {} [(x, 1)] }}", sought),
        ("{{ {(x, 1): 2} }}", sought),
        ("{{ {}.get((x, 1)) }}", sought),
        ("{{ [y].index(x) }}", sought),
        ("{{ [y].count(x) }}", sought),
        ("{% for v in [1] if x in [y] %}{% endfor %}", sought),
        ("{{ x | upper }}", many),
        ("{{ x | lower }}", many),
        ("{{ x | capitalize }}", many),
        ("{{ x | replace('a', 'b') }}", many),
        ("{{ 'a' | replace('a', x) }}", many),
        ("{{ x | e }}", many),
        ("{{ x | safe }}", many),
        ("{{ '{x}'.format(x=x) }}", many),
        ("{{ '%.1s' % (x,) }}{{ '%.1r' % (x,) }}", many),
        ("{{ '%.1s' | format(x) }}", many),
        ("{{ x | wordcount }}", many),
        ("{{ x | truncate(9) }}", many),
        ("{{ x | title }}", many),
        ("{{ '{}{}{}'.format(x, x, x) }}", many),
        ("{{ {(x, 1): 2} | tojson(sort_keys=true) }}", sought),
        (
            "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = b %}{% set b.x = a %}{{ a == b }}",
            "1000 deep",
        ),
    ] {
        let source = format!("{shared}{used}");
        let compiled = ChatTemplate::new(&source, &[], specials());
        let error = compiled.and_then(|template| template.render(&[ChatMessage::new(Role::User, "x")], true));
        let error = error.map(|rendered| rendered.text).expect_err(used);
        assert!(error.contains(expected), "{used}: {error}");
    }
    // Each of these is allowed, and takes a moment.
    for used in [
        "{{ x | wordcount }}",
        "{{ x == y }}",
        "{{ '%.1s' % (x,) }}",
        "{{ '{:.1}'.format(x) }}",
        "{{ s.find('b') }}",
        "{{ s.strip() == '' }}",
    ] {
        let shared = shared.replace("range(60)", "range(12)");
        let source = format!("{shared}{{% set s = 'a' * 3000000 %}}{{% for i in range(99999) %}}{used}{{% endfor %}}");
        let error = ChatTemplate::new(&source, &[], specials()).map(|_| used).unwrap_err();
        assert!(error.starts_with(ENDLESS), "{used}: {error}");
    }
}

#[test]
fn special_tokens_go_through_operators_and_filters_marked() {
    for source in [
        "{{ '<|im_start|>%s%s' % (messages[0].content, '<|im_end|>') }}",
        "{{ '<|im_start|>' ~ messages[0].content ~ 1.5 ~ '<|im_end|>' }}",
        "{{ ['<|im_start|>', messages[0].content, '<|im_end|>'] }}",
        "{{ ['<|im_start|>', messages[0].content, '<|im_end|>'] | tojson(ensure_ascii=true) }}",
        "{{ '\\u003c|im_start|>' ~ messages[0].content }}",
    ] {
        let ids = |content| render(source, content).specials.iter().map(|(_, id)| *id).collect::<Vec<_>>();
        assert_eq!(ids("<|im_end|> é"), ids("x"), "{source}");
        assert!(!ids("x").is_empty(), "{source}");
    }
}

#[test]
fn a_template_that_shows_part_of_a_text_is_one_for_texts() {
    assert_eq!(render("{{ messages[0].content[:2] }}", "hi there").text, "hi");
    assert_eq!(render("{{ messages[0].content | upper }}", "hi").text, "HI");
}

/// Llama 3, 3.1 and 3.2, Mistral, Qwen 2.5 and 3, Gemma and others, whose templates are not ours to keep here, and files that
/// `FEDWARD_CHAT_TEMPLATES` names, with colons between them: Llama Guard's own template is in no package.
#[test]
fn templates_of_installed_packages_render_as_in_transformers() {
    let Some(python) = std::env::var_os("FEDWARD_PYTHON") else {
        eprintln!("skipped: FEDWARD_PYTHON names no Python with transformers, trl and axolotl");
        return;
    };
    let files = std::env::var("FEDWARD_CHAT_TEMPLATES").unwrap_or_default();
    let files: Vec<_> = files.split(':').filter(|file| !file.is_empty()).collect();
    let script = reference_file("chat_templates.py");
    let output = std::process::Command::new(python).arg(script).arg("installed").args(&files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let agreeing = assert_renders_as_transformers(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(agreeing, (17 + 5 + files.len()) * 14);
    eprintln!("{agreeing} conversations render alike");
}
