//! Hugging Face directories, written by the tests themselves: what opens, and which errors name what.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use fedward::model::Checkpoint;
use fedward_actors::protocol::{ChatMessage, ChatRow, Role, hex};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::support::fedward;

const TEMPLATE: &str =
    "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content | trim }}{{ eos_token }}{% endfor %}";

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true,
        "rms_norm_eps": 1e-5, "eos_token_id": 1,
    })
}

pub(crate) fn tokenizer() -> Value {
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(0, "<s>"), added(1, "</s>"), added(7, "<stop>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, ":": 4, "ab": 5, "<": 6, "<stop>": 7},
                  "merges": [["a", "b"]]},
    })
}

fn shapes() -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![8, 4]),
        ("model.norm.weight".to_owned(), vec![4]),
    ]);
    for (name, shape) in [
        ("input_layernorm", vec![4]),
        ("post_attention_layernorm", vec![4]),
        ("self_attn.q_proj", vec![4, 4]),
        ("self_attn.k_proj", vec![2, 4]),
        ("self_attn.v_proj", vec![2, 4]),
        ("self_attn.o_proj", vec![4, 4]),
        ("mlp.gate_proj", vec![6, 4]),
        ("mlp.up_proj", vec![6, 4]),
        ("mlp.down_proj", vec![4, 6]),
    ] {
        shapes.insert(format!("model.layers.0.{name}.weight"), shape);
    }
    shapes
}

/// Numbers that every float type holds exactly, others for each tensor.
fn values(name: &str, shape: &[usize]) -> impl Iterator<Item = f32> {
    let first = name.bytes().map(usize::from).sum::<usize>() % 97;
    (0..shape.iter().product::<usize>()).map(move |index| (first + index) as f32 / 4.0)
}

fn write_weights(path: &Path, shapes: &BTreeMap<String, Vec<usize>>, dtype: Dtype) {
    let encode = |value: f32| match dtype {
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::F64 => f64::from(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    let data: Vec<(&String, &Vec<usize>, Vec<u8>)> =
        shapes.iter().map(|(name, shape)| (name, shape, values(name, shape).flat_map(encode).collect())).collect();
    let views: HashMap<_, _> = data
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(dtype, (*shape).clone(), bytes).unwrap()))
        .collect();
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

pub(crate) fn write_json(dir: &Path, name: &str, value: &Value) {
    fs::write(dir.join(name), value.to_string()).unwrap();
}

/// A directory that opens.
pub(crate) fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_json(dir.path(), "config.json", &config());
    write_json(dir.path(), "generation_config.json", &json!({"eos_token_id": [1, 7]}));
    write_json(dir.path(), "tokenizer.json", &tokenizer());
    let tokens = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE});
    write_json(dir.path(), "tokenizer_config.json", &tokens);
    write_weights(&dir.path().join("model.safetensors"), &shapes(), Dtype::F32);
    dir
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).reshape([-1])).unwrap()
}

fn error(dir: &Path) -> String {
    Checkpoint::open(dir).err().expect("should not open").to_string()
}

#[test]
fn each_float_type_opens() {
    let dir = directory();
    for (dtype, kind) in [(Dtype::F32, Kind::Float), (Dtype::F16, Kind::Float), (Dtype::BF16, Kind::BFloat16)] {
        write_weights(&dir.path().join("model.safetensors"), &shapes(), dtype);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let name = "model.layers.0.mlp.down_proj.weight";
        let tensor = checkpoint.weights.tensor(name, &[4, 6]).unwrap();
        assert_eq!(tensor.kind(), kind);
        assert_eq!(flat(&tensor), values(name, &[4, 6]).collect::<Vec<_>>(), "{dtype:?}");
    }
    write_weights(&dir.path().join("model.safetensors"), &shapes(), Dtype::F64);
    assert!(error(dir.path()).contains("model.embed_tokens.weight: found type F64, allowed: F32, F16, BF16"));
}

#[test]
fn shards_are_found_by_their_index() {
    let dir = directory();
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(error(dir.path()).contains("neither model.safetensors nor model.safetensors.index.json"));
    let (first, second): (BTreeMap<_, _>, BTreeMap<_, _>) =
        shapes().into_iter().partition(|(name, _)| name.contains("mlp"));
    write_weights(&dir.path().join("one.safetensors"), &first, Dtype::F32);
    write_weights(&dir.path().join("two.safetensors"), &second, Dtype::F32);
    let index = |second: &str| {
        let map: BTreeMap<_, _> = shapes()
            .into_keys()
            .map(|name| {
                let file = if name.contains("mlp") { "one.safetensors" } else { second };
                (name, file.to_owned())
            })
            .collect();
        write_json(dir.path(), "model.safetensors.index.json", &json!({"metadata": {}, "weight_map": map}));
    };
    index("two.safetensors");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for (name, shape) in checkpoint.config.tensors() {
        let tensor = checkpoint.weights.tensor(&name, &shape).unwrap();
        assert_eq!(tensor.size(), shape);
        assert_eq!(flat(&tensor), values(&name, &shapes()[&name]).collect::<Vec<_>>(), "{name}");
    }
    index("../two.safetensors");
    assert!(error(dir.path()).contains("\"../two.safetensors\" is not a file name"));
    index("three.safetensors");
    assert!(error(dir.path()).contains("three.safetensors: No such file"));
    index("two.safetensors");
    fs::copy(dir.path().join("two.safetensors"), dir.path().join("one.safetensors")).unwrap();
    assert!(error(dir.path()).contains("is also in"));
}

#[test]
fn the_tokenizer_follows_its_files() {
    let dir = directory();
    let messages = [ChatMessage::new(Role::User, " ab "), ChatMessage::new(Role::Assistant, "</s>b")];
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.tokenizer.stop_ids(), [1, 7]);
    // Letters that the vocabulary lacks vanish, as in the library: what is left is "a:", the look-alike's "<", and the rest.
    assert_eq!(checkpoint.tokenizer.prompt_ids(&messages).unwrap(), [0, 4, 5, 1, 2, 2, 4, 6, 3, 1]);
    let named = json!([{"name": "rag", "template": "x"}, {"name": "default", "template": "{{ eos_token }}"}]);
    write_json(dir.path(), "tokenizer_config.json", &json!({"eos_token": "</s>", "chat_template": named}));
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tokenizer.prompt_ids(&messages).unwrap(), [1]);
    fs::write(dir.path().join("chat_template.jinja"), "{{ eos_token }}a").unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tokenizer.prompt_ids(&messages).unwrap(), [1, 2]);
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let named = json!([{"name": "rag", "template": "x"}]);
    write_json(dir.path(), "tokenizer_config.json", &json!({"chat_template": named}));
    assert!(error(dir.path()).contains("tokenizer_config.json: chat_template: found rag, expected one named default"));
    fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    let untaught = Checkpoint::open(dir.path()).unwrap().tokenizer.prompt_ids(&messages).unwrap_err().to_string();
    assert!(untaught.contains("no chat template"), "{untaught}");
    write_json(dir.path(), "tokenizer_config.json", &json!({"eos_token": "<eos>"}));
    assert!(error(dir.path()).contains("eos_token: \"<eos>\" is not in tokenizer.json"));
}

#[test]
fn an_open_response_ends_with_the_token_that_the_tokenizer_names() {
    let dir = directory();
    let open = json!({"bos_token": "<s>", "eos_token": "<stop>", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"});
    write_json(dir.path(), "tokenizer_config.json", &open);
    let row = ChatRow::single_turn("b", "b");
    let ids = || Checkpoint::open(dir.path()).unwrap().tokenizer.row_ids(&row, usize::MAX).unwrap().unwrap().ids;
    // config.json says 1, generation_config.json 1 and 7; `eos_token` is 7.
    assert_eq!(ids(), [3, 3, 7]);
    let unnamed = json!({"chat_template": open["chat_template"]});
    write_json(dir.path(), "tokenizer_config.json", &unnamed);
    write_json(dir.path(), "generation_config.json", &json!({"eos_token_id": [0, 7]}));
    assert_eq!(ids(), [3, 3, 1], "config.json's first");
}

#[test]
fn a_tied_head_that_differs_is_used_as_it_is() {
    let dir = directory();
    let weights = dir.path().join("model.safetensors");
    let mut shapes = shapes();
    shapes.insert("lm_head.weight".to_owned(), vec![8, 4]);
    write_weights(&weights, &shapes, Dtype::F32);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(!checkpoint.config.tie_word_embeddings);
    let head = checkpoint.weights.tensor("lm_head.weight", &[8, 4]).unwrap();
    assert_eq!(flat(&head), values("lm_head.weight", &[8, 4]).collect::<Vec<_>>());
    shapes.insert("lm_head.weight".to_owned(), vec![9, 4]);
    write_weights(&weights, &shapes, Dtype::F32);
    assert!(error(dir.path()).contains("lm_head.weight: found shape [9, 4], expected [8, 4]"));

    // A copy of the embedding, in its own type and in another.
    let embedding: Vec<f32> = values("model.embed_tokens.weight", &[8, 4]).collect();
    for dtype in [Dtype::F32, Dtype::BF16] {
        let encode = |value: &f32| match dtype {
            Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        let copy: Vec<u8> = embedding.iter().flat_map(encode).collect();
        shapes.remove("lm_head.weight");
        let file: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
            .iter()
            .map(|(name, shape)| {
                (name.clone(), shape.clone(), values(name, shape).flat_map(f32::to_le_bytes).collect())
            })
            .collect();
        let views = file
            .iter()
            .map(|(name, shape, bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let head = ("lm_head.weight".to_owned(), TensorView::new(dtype, vec![8, 4], &copy).unwrap());
        fs::write(&weights, safetensors::serialize(views.chain([head]), None).unwrap()).unwrap();
        assert!(Checkpoint::open(dir.path()).unwrap().config.tie_word_embeddings, "{dtype:?}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for name in ["config.json", "tokenizer.json"] {
        let dir = directory();
        fs::remove_file(dir.path().join(name)).unwrap();
        assert!(error(dir.path()).contains(&format!("{name}: No such file")));
        fs::write(dir.path().join(name), "{").unwrap();
        assert!(error(dir.path()).contains(name));
    }
    let dir = directory();
    let mut changed = config();
    changed["num_hidden_layers"] = json!("two");
    write_json(dir.path(), "config.json", &changed);
    assert!(error(dir.path()).contains("config.json: num_hidden_layers: invalid type: string \"two\""));
    changed["num_hidden_layers"] = json!(2);
    write_json(dir.path(), "config.json", &changed);
    assert!(error(dir.path()).contains("model.layers.1.input_layernorm.weight of shape [4] is missing"));
    write_json(dir.path(), "config.json", &config());
    let weights = dir.path().join("model.safetensors");
    let mut wrong = shapes();
    wrong.insert("model.norm.weight".to_owned(), vec![5]);
    write_weights(&weights, &wrong, Dtype::F32);
    assert!(error(dir.path()).contains("model.safetensors: tensor model.norm.weight: found shape [5], expected [4]"));
    let mut wrong = shapes();
    wrong.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), vec![4]);
    write_weights(&weights, &wrong, Dtype::F32);
    assert!(error(dir.path()).contains("self_attn.q_proj.bias of shape [4] belongs to no layer"));
    write_weights(&weights, &shapes(), Dtype::F32);
    let whole = fs::read(&weights).unwrap();
    for length in (0..whole.len()).step_by(11) {
        fs::write(&weights, &whole[..length]).unwrap();
        let error = error(dir.path());
        assert!(error.contains("model.safetensors"), "{error}");
    }
    let missing = Checkpoint::open(Path::new("/nowhere/model.gguf")).err().unwrap().to_string();
    assert!(missing.starts_with("/nowhere/model.gguf: No such file"), "{missing}");
}

#[test]
fn a_directory_is_digested_as_sha256sum_would() {
    let dir = directory();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let names =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let line = |name: &&str| format!("{}  {name}", hex(&Sha256::digest(fs::read(dir.path().join(name)).unwrap())));
    let listing = names.iter().map(line).collect::<Vec<_>>().join("\n") + "\n";
    assert_eq!(checkpoint.sha256().unwrap(), hex(&Sha256::digest(listing)));
    assert_eq!(checkpoint.file_digests().unwrap().len(), 5);
}

/// What the program prints, and its complaint if it has one.
pub(crate) fn told(args: &[&str]) -> (String, String) {
    let output = fedward().args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn turns_that_a_template_refuses_are_named_by_file_and_line() {
    let dir = directory();
    let template =
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}".to_owned();
    fs::write(dir.path().join("chat_template.jinja"), template + TEMPLATE).unwrap();
    let rows = dir.path().join("rows.jsonl");
    let line = r#"{"prompt": "ab", "response": "b"}"#;
    let refused = r#"{"system": "a", "instruction": "ab", "output": "b"}"#;
    fs::write(&rows, format!("{line}\n{refused}\n{line}\n")).unwrap();
    let scenario = dir.path().join("scenario.toml");
    fs::write(&scenario, "name = \"t\"\nquestion = \"q\"\n").unwrap();
    let (model, rows, out) = (dir.path().to_str().unwrap(), rows.to_str().unwrap(), dir.path().join("out"));
    let out = out.to_str().unwrap();
    let (base, source) = (format!("model.base={model}"), format!("data.benign.source={rows}"));
    let run = ["run", scenario.to_str().unwrap(), "--out", out, "--set", &base, "--set", &source];
    let prompts = format!("cai.prompts={rows}");
    let red_prompts = [&run[..6], &["--set", "cai.schedule=every", "--set", &prompts]].concat();
    let pair = r#"{"prompt": "ab", "chosen": "b", "rejected": "a"}"#;
    let (prefixed, pairs) = (pair.replacen('{', r#"{"system": "a", "#, 1), dir.path().join("pairs.jsonl"));
    fs::write(&pairs, format!("{pair}\n{prefixed}\n")).unwrap();
    let pairs = pairs.to_str().unwrap();
    let prepared = format!("cai.data={pairs}");
    let revisions = [&run[..6], &["--set", "cai.schedule=every", "--set", &prepared]].concat();
    let of_rows = [
        &["tune", "--model", model, "--data", rows, "--out", out][..],
        &["score", "--model", model, "--data", rows],
        &["generate", "--model", model, "--prompts", rows],
    ];
    let of_pairs = ["tune", "--dpo", "--model", model, "--data", pairs, "--out", out];
    let cases = of_rows.into_iter().map(|args| ("rows.jsonl", args)).chain([
        ("pairs.jsonl", &of_pairs[..]),
        ("rows.jsonl", &run),
        ("rows.jsonl", &red_prompts),
        ("pairs.jsonl", &revisions),
    ]);
    for (file, args) in cases {
        let (printed, complaint) = told(args);
        for part in [&format!("{file}, line 2: "), "no system turns", "(turns: system, user"] {
            assert!(printed.is_empty() && complaint.contains(part), "{args:?}: {complaint}");
        }
    }
}

#[test]
fn fewer_bits_are_taken_where_they_are_asked_for() {
    let dir = directory();
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, r#"{"prompt": "ab", "response": "ba"}"#).unwrap();
    let (model, rows) = (dir.path().to_str().unwrap(), rows.to_str().unwrap());
    let score = |more: &[&str]| {
        let (printed, complaint) =
            told(&[&["score", "--dtype", "f32", "--model", model, "--data", rows], more].concat());
        let line: Value = serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{printed}{complaint}"));
        line["log_likelihood"].as_f64().unwrap().to_bits()
    };
    let found = [&[][..], &["--quantize", "int8"], &["--quantize", "nf4"]].map(score);
    assert!(found[0] != found[1] && found[1] != found[2] && found[0] != found[2], "{found:?}");
}
