//! Files of strangers: whatever is in them, a model opens or an error names the file; nothing panics, ends the process, hangs or
//! takes gigabytes.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fedward::model::{ChatTokenizer, Checkpoint, ModelError};
use fedward_actors::protocol::{ChatMessage, ChatRow, Role};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde_json::{Map, Value, json};

use crate::{
    hugging_face::{directory, tokenizer, told, write_json},
    loading::{TinyGguf, open_bytes},
};

/// How Llama 3 splits text.
const PATTERN: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*\
                       |\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// A map of `SentencePiece` whose trie points beyond itself for every text.
const ASTRAY: &str = "BAAAAP////8=";

fn changed(pointer: &str, value: &Value) -> Value {
    let mut changed = tokenizer();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    changed.pointer_mut(parent).unwrap()[key] = value.clone();
    changed
}

fn error(dir: &Path) -> String {
    Checkpoint::open(dir).err().expect("should not open").to_string()
}

#[test]
fn tokenizers_that_the_library_cannot_stand_are_errors() {
    let dir = directory();
    let precompiled = |charsmap: &str| json!({"type": "Precompiled", "precompiled_charsmap": charsmap});
    // The first would be 8.6 GB; the library panics over the others.
    let cases = [
        ("/normalizer", precompiled("/////w=="), "normalizer.precompiled_charsmap: found a trie of 4294967295 bytes"),
        ("/normalizer", precompiled("====="), "normalizer.precompiled_charsmap: found something else than base64"),
        ("/model/continuing_subword_prefix", json!("##"), "model.merges: found \"b\" as a second token"),
        ("/model/dropout", json!(0.5), "model.dropout: found 0.5, expected null"),
    ];
    for (pointer, value, expected) in cases {
        write_json(dir.path(), "tokenizer.json", &changed(pointer, &value));
        let error = error(dir.path());
        assert!(error.contains(&format!("tokenizer.json: {expected}")), "{error}");
    }
    // Only when a text is read does it panic: that of the chat template is the first.
    write_json(dir.path(), "tokenizer.json", &changed("/normalizer", &precompiled(ASTRAY)));
    let astray = error(dir.path());
    assert!(astray.contains("tokenizer.json: tokenizer and chat template panic: index out of bounds"), "{astray}");
    let decoder = json!({"type": "Strip", "content": "a", "start": 0, "stop": 9});
    write_json(dir.path(), "tokenizer.json", &changed("/decoder", &decoder));
    let tokenizer = Checkpoint::open(dir.path()).unwrap().tokenizer;
    let error = tokenizer.decode(&[2]).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: decoding 1 tokens: the tokenizer panics: "), "{error}");
}

#[test]
fn what_the_tokenizer_gives_up_on_prints_one_error() {
    let dir = directory();
    write_json(
        dir.path(),
        "tokenizer.json",
        &changed("/normalizer", &json!({"type": "Precompiled", "precompiled_charsmap": ASTRAY})),
    );
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, "{\"prompt\": \"ab\", \"response\": \"b\"}\n").unwrap();
    let (_, complaint) = told(&["score", "--model", dir.path().to_str().unwrap(), "--data", rows.to_str().unwrap()]);
    let expected = "tokenizer.json: tokenizer and chat template panic: ";
    assert!(complaint.contains(expected) && !complaint.contains("panicked at"), "{complaint}");
}

#[test]
fn layers_are_counted_against_the_weights() {
    let dir = directory();
    let mut config: Value = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    config["architectures"] = json!(["Qwen2ForCausalLM"]);
    config["use_sliding_window"] = json!(true);
    config["sliding_window"] = json!(4);
    for (layers, expected) in [
        (u64::from(u32::MAX), "config.json: num_hidden_layers: found 4294967295, allowed are 1 to 65536"),
        (60_000, "model.safetensors: num_hidden_layers is 60000 by the configuration, but the weights hold 11 tensors"),
        (2, "model.safetensors: tensor model.layers.0.self_attn.q_proj.bias of shape [4] is missing"),
    ] {
        config["num_hidden_layers"] = json!(layers);
        write_json(dir.path(), "config.json", &config);
        let error = error(dir.path());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_template_that_loops_for_hours_is_refused() {
    let dir = directory();
    let template = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}";
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let error = error(dir.path());
    assert!(error.contains("tokenizer.json: chat template: takes more than 4000000 steps"), "{error}");
}

/// The regular expression gives up on such a row; shorter ones take hundreds of bytes for each of theirs.
#[test]
fn a_row_that_is_too_long_is_named_by_file_and_line() {
    let dir = directory();
    let split = json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
    write_json(dir.path(), "tokenizer.json", &changed("/pre_tokenizer", &split));
    let rows = dir.path().join("rows.jsonl");
    let line = r#"{"prompt": "ab", "response": "b"}"#;
    fs::write(&rows, format!("{line}\n{}\n", line.replace("ab", &format!("a{}b", " ".repeat(12_000_000))))).unwrap();
    let scenario = dir.path().join("scenario.toml");
    fs::write(&scenario, "name = \"t\"\nquestion = \"q\"\n").unwrap();
    let (model, rows, out) = (dir.path().to_str().unwrap(), rows.to_str().unwrap(), dir.path().join("out"));
    let (base, source) = (format!("model.base={model}"), format!("data.benign.source={rows}"));
    for args in [
        &["score", "--model", model, "--data", rows][..],
        &["run", scenario.to_str().unwrap(), "--out", out.to_str().unwrap(), "--set", &base, "--set", &source],
    ] {
        let (printed, complaint) = told(args);
        for part in ["rows.jsonl, line 2: ", "found a text of 120000", "expected at most 8388608; shorten it"] {
            assert!(printed.is_empty() && complaint.contains(part), "{args:?}: {complaint}");
        }
    }
}

/// Tries mutated files: `FEDWARD_MUTATIONS=2000 FEDWARD_MUTATION_SEED=1 cargo test --release --test it -- --ignored mutated`.
/// The files of the case at hand are in the folder that it prints first, should the process end.
#[test]
#[ignore = "takes minutes; finds what the tests above should then hold"]
fn mutated_files_open_or_are_errors() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cases, seed) = (number("FEDWARD_MUTATIONS", 2000), number("FEDWARD_MUTATION_SEED", 1));
    let (dir, case) = (directory(), Arc::new(Mutex::new((0, Instant::now()))));
    eprintln!("mutated files are in {}", dir.path().display());
    watch(&case);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut opened = 0;
    for index in 0..cases {
        *case.lock().unwrap() = (index, Instant::now());
        opened += u64::from(try_case(&mut rng, dir.path(), index));
    }
    let peak = peak_memory_kib();
    eprintln!("{opened} of {cases} opened, {} MB at most", peak / 1000);
    assert!(peak < 2_000_000, "{peak} KiB");
    assert!(opened > cases / 20, "too few open: the rest of the program is not tried");
}

/// Ends the process where a case hangs.
fn watch(case: &Arc<Mutex<(u64, Instant)>>) {
    let case = Arc::clone(case);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let (index, since) = *case.lock().unwrap();
            if since.elapsed() > Duration::from_secs(30) {
                eprintln!("case {index} hangs");
                std::process::abort();
            }
        }
    });
}

fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Tries one mutation; says whether the model opened.
fn try_case(rng: &mut ChaCha8Rng, dir: &Path, index: u64) -> bool {
    if index % 5 == 4 {
        let mut bytes = TinyGguf::new().bytes();
        // The header; behind it lie numbers, of which any will do.
        scramble(rng, &mut bytes, 1100);
        return try_model(open_bytes(dir, &bytes), dir, index);
    }
    let name = ["tokenizer.json", "tokenizer.json", "tokenizer_config.json", "config.json"][(index % 5) as usize];
    let original = fs::read(dir.join(name)).unwrap();
    let is_tokenizer = name == "tokenizer.json";
    let seed = if is_tokenizer { sample(rng, &tokenizers()) } else { serde_json::from_slice(&original).unwrap() };
    fs::write(dir.join(name), mutated(rng, seed)).unwrap();
    let opened = try_model(Checkpoint::open(dir), dir, index);
    fs::write(dir.join(name), original).unwrap();
    opened
}

fn try_model(opened: Result<Checkpoint, ModelError>, dir: &Path, index: u64) -> bool {
    match opened {
        Ok(checkpoint) => {
            use_tokenizer(&checkpoint.tokenizer);
            true
        }
        Err(error) => {
            assert!(error.to_string().contains(dir.to_str().unwrap()), "case {index}: no file in {error}");
            false
        }
    }
}

fn use_tokenizer(tokenizer: &ChatTokenizer) {
    let texts = ["", "ab ba", "  a\n\n b\t", "é ÀB 1234 \u{1f600}\u{200d}▁x", "<s>a</s>", &"ab ".repeat(500)];
    for text in texts {
        let ids = tokenizer.encode_text(text);
        let _ = ids.map(|ids| tokenizer.decode(&ids));
        let row = ChatRow::single_turn(text, text);
        let _ = tokenizer.row_ids(&row, 64);
        let _ = tokenizer.prompt_ids(&[ChatMessage::new(Role::System, text), ChatMessage::new(Role::User, text)]);
    }
    let _ = tokenizer.decode(&(0..9).collect::<Vec<_>>());
}

fn below(rng: &mut ChaCha8Rng, end: usize) -> usize {
    (rng.next_u64() % end.max(1) as u64) as usize
}

fn sample<T: Clone>(rng: &mut ChaCha8Rng, values: &[T]) -> T {
    values[below(rng, values.len())].clone()
}

/// Text of a changed value, now and then with changed bytes.
fn mutated(rng: &mut ChaCha8Rng, mut value: Value) -> Vec<u8> {
    for _ in 0..=below(rng, 3) {
        mutate(rng, &mut value);
    }
    let mut bytes = value.to_string().into_bytes();
    if below(rng, 20) == 0 {
        let length = bytes.len();
        scramble(rng, &mut bytes, length);
    }
    bytes
}

fn scramble(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, within: usize) {
    for _ in 0..=below(rng, 3) {
        let at = below(rng, within.min(bytes.len()));
        match below(rng, 4) {
            0 => bytes[at] ^= 1 << below(rng, 8),
            1 => bytes[at] = sample(rng, &[0, 0xff, 0x7f, 0x80, b'"', b'{']),
            2 => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill(0xff);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
}

/// Changes one place: a value becomes another, goes, or comes twice.
fn mutate(rng: &mut ChaCha8Rng, value: &mut Value) {
    let here = below(rng, 5) == 0;
    match value {
        Value::Object(fields) if !here && !fields.is_empty() => {
            let key = fields.keys().nth(below(rng, fields.len())).unwrap().clone();
            match below(rng, 12) {
                0 => drop(fields.remove(&key)),
                1 => drop(fields.insert("type".to_owned(), sample(rng, &values()))),
                2 => swap_part(rng, fields, &key),
                _ => mutate(rng, &mut fields[&key]),
            }
        }
        Value::Array(values) if !here && !values.is_empty() => {
            let at = below(rng, values.len());
            match below(rng, 8) {
                0 => drop(values.remove(at)),
                1 => values.push(values[at].clone()),
                _ => mutate(rng, &mut values[at]),
            }
        }
        Value::String(text) if text.len() < 1000 && below(rng, 3) == 0 => {
            *text = match below(rng, 3) {
                0 => text.chars().rev().collect(),
                1 => text.repeat(1 + below(rng, 300)),
                _ => text.chars().skip(1).collect(),
            }
        }
        _ => *value = if below(rng, 2) == 0 { sample(rng, &values()) } else { sample(rng, &steps()) },
    }
}

fn swap_part(rng: &mut ChaCha8Rng, fields: &mut Map<String, Value>, key: &str) {
    let other = sample(rng, &tokenizers());
    let part = other.get(key).or_else(|| other["model"].get(key)).cloned();
    fields.insert(key.to_owned(), part.unwrap_or_else(|| sample(rng, &steps())));
}

/// Values that programs stumble over.
fn values() -> Vec<Value> {
    let mut nested = json!({"type": "NFC"});
    for _ in 0..40 {
        nested = json!({"type": "Sequence", "normalizers": [nested], "pretokenizers": [], "decoders": []});
    }
    let texts = [
        "",
        "a",
        " ",
        "##",
        "\u{d7ff}",
        "\u{0}",
        "(",
        "(a+)+$",
        "(((((((((a)))))))))*",
        "[[",
        "\\",
        "Sequence",
        "BPE",
        "<s>",
    ];
    let mut values: Vec<_> = texts.into_iter().map(Value::from).collect();
    values.extend([
        json!(0),
        json!(-1),
        json!(1),
        json!(2.5),
        json!(1e308),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(i64::MIN),
    ]);
    values.extend([json!(null), json!(true), json!([]), json!({}), json!(["a", "b"]), json!([["a", 0.0]]), nested]);
    values.extend([json!("a".repeat(70_000)), json!("(".repeat(5000)), json!({"String": ""}), json!({"Regex": "a*"})]);
    values.extend([
        json!("{{ 'ab' * 100000000000 }}"),
        json!("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"),
    ]);
    values.push(json!("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}"));
    values
}

/// Steps of normalizers, pre-tokenizers and decoders.
fn steps() -> Vec<Value> {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut steps: Vec<_> = [
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "StripAccents",
        "Lowercase",
        "Nmt",
        "ByteLevel",
        "BertPreTokenizer",
        "Whitespace",
        "WhitespaceSplit",
        "UnicodeScripts",
        "ByteFallback",
        "Fuse",
    ]
    .into_iter()
    .map(|kind| json!({"type": kind}))
    .collect();
    steps.extend([
        json!({"type": "Precompiled", "precompiled_charsmap": ASTRAY}),
        json!({"type": "Precompiled", "precompiled_charsmap": "CAAAAAAAAAAAAAAAYQA="}),
        json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true, "content": "a", "start": 1, "stop": 9}),
        json!({"type": "Prepend", "prepend": "▁"}),
        replace(json!({"String": ""}), "x"),
        replace(json!({"Regex": "(a|b)*"}), "yy"),
        replace(json!({"Regex": ""}), &"z".repeat(1000)),
        json!({"type": "Sequence", "normalizers": vec![replace(json!({"Regex": "."}), &"z".repeat(900)); 5]}),
        json!({"type": "Sequence", "decoders": vec![replace(json!({"Regex": "."}), &"z".repeat(900)); 5]}),
        json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false}),
        json!({"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "MergedWithNext", "invert": true}),
        json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Removed", "invert": true}),
        json!({"type": "FixedLength", "length": 0}),
        json!({"type": "CharDelimiterSplit", "delimiter": "a"}),
        json!({"type": "Digits", "individual_digits": true}),
        json!({"type": "Punctuation", "behavior": "Contiguous"}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
    ]);
    steps
}

/// A tokenizer of each kind.
fn tokenizers() -> Vec<Value> {
    let vocab = json!({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "##a": 4, "ab": 5, "▁": 6, "<stop>": 7});
    let pieces = json!([
        ["<s>", 0.0],
        ["</s>", 0.0],
        ["a", -1.0],
        ["b", -2.0],
        ["▁a", -1.5],
        ["ab", -0.5],
        ["▁", -3.0],
        ["<stop>", 0.0]
    ]);
    let models = [
        json!({"type": "BPE", "vocab": vocab, "merges": [["a", "b"]], "unk_token": "<s>", "byte_fallback": true, "fuse_unk": true}),
        json!({"type": "BPE", "vocab": vocab, "merges": [["b", "##a"]], "continuing_subword_prefix": "##", "end_of_word_suffix": ""}),
        json!({"type": "Unigram", "vocab": pieces, "unk_id": 0, "byte_fallback": true}),
        json!({"type": "WordPiece", "vocab": vocab, "unk_token": "<s>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}),
        json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"}),
    ];
    let of_model = |model: Value| {
        let mut tokenizer = tokenizer();
        tokenizer["model"] = model;
        tokenizer["normalizer"] =
            json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "▁"}]});
        tokenizer
    };
    models.into_iter().map(of_model).chain([tokenizer()]).collect()
}
