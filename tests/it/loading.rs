//! GGUF files and Hugging Face directories: values against references, damage against errors.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fedward::model::{Checkpoint, ModelError};
use fedward_actors::protocol::{ChatRow, hex};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::{fixture, support::default_model_path};

/// Bytes of a tensor's numbers as little-endian `f32`.
fn bytes(tensor: &Tensor) -> Vec<u8> {
    let values = Vec::<f32>::try_from(tensor.to_kind(Kind::Float).reshape([-1])).unwrap();
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn the_default_model_dequantizes_bit_for_bit() {
    let path = default_model_path();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let config = &checkpoint.config;
    assert_eq!((config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads), (30, 9, 3));
    assert_eq!((config.vocab_size, config.hidden_size, config.head_dim), (49_152, 576, 64));
    assert!(config.tie_word_embeddings && (config.rms_norm_eps - 1e-5).abs() < 1e-20);
    assert_eq!(checkpoint.tokenizer.stop_ids(), [2]);
    let names = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
    ];
    let expected: BTreeMap<String, String> =
        serde_json::from_value(fixture("gguf_tensors.json")["tensors"].clone()).unwrap();
    let tensors = config.tensors();
    assert_eq!((tensors.len(), expected.len()), (272, 272));
    tensors.par_iter().for_each(|(name, shape)| {
        let gguf = names.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
        let found = Sha256::digest(bytes(&checkpoint.weights.tensor(name, shape).unwrap()));
        assert_eq!(hex(&found)[..16], expected[&gguf], "{name}");
    });
    let wrong = checkpoint.weights.tensor("model.norm.weight", &[577]).unwrap_err().to_string();
    assert!(wrong.contains("output_norm.weight") && wrong.contains("[576]") && wrong.contains("[577]"), "{wrong}");
    assert!(checkpoint.weights.tensor("lm_head.weight", &[49_152, 576]).is_err());
}

/// Run with `--nocapture` to see how long opening and tokenizing take.
#[test]
fn opening_the_default_model_is_quick() {
    let path = default_model_path();
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let opened = start.elapsed();
    let start = Instant::now();
    let numbers: usize = checkpoint
        .config
        .tensors()
        .iter()
        .map(|(name, shape)| checkpoint.weights.tensor(name, shape).unwrap().numel())
        .sum();
    let dequantized = start.elapsed();
    assert_eq!(numbers, 134_515_008);
    let row = ChatRow::single_turn("How do tides work? ".repeat(10), "The Moon pulls at the sea. ".repeat(20));
    let start = Instant::now();
    let tokens: usize = (0..1000).map(|_| checkpoint.tokenizer.row_ids(&row, 4096).unwrap().unwrap().ids.len()).sum();
    let tokenized = start.elapsed();
    eprintln!("open {opened:?}, dequantize {dequantized:?}, 1000 rows of {} tokens {tokenized:?}", tokens / 1000);
    // Far above what an idle machine needs, so that only a change of order of magnitude fails.
    assert!(opened + dequantized < Duration::from_secs(30) && tokenized < Duration::from_secs(30));
}

/// A GGUF file of a tiny llama, written by hand.
pub(crate) struct TinyGguf {
    metadata: Vec<(&'static str, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn typed(kind: u32, value: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), value].concat()
}

fn list(kind: u32, values: &[Vec<u8>]) -> Vec<u8> {
    let count = (values.len() as u64).to_le_bytes();
    typed(9, &[&kind.to_le_bytes()[..], &count, &values.concat()].concat())
}

impl TinyGguf {
    pub(crate) fn new() -> Self {
        let integer = |value: u32| typed(4, &value.to_le_bytes());
        let tokens = ["<|im_start|>", "<|im_end|>", "a", "b", "ab", "Ċ", "Ġ", "Z"].map(text);
        let kinds = [3, 3, 1, 1, 1, 1, 1, 1].map(|kind: i32| kind.to_le_bytes().to_vec());
        let template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>{% endif %}";
        let metadata = vec![
            ("general.architecture", typed(8, &text("llama"))),
            ("llama.block_count", integer(1)),
            ("llama.context_length", integer(16)),
            ("llama.embedding_length", integer(32)),
            ("llama.feed_forward_length", integer(32)),
            ("llama.attention.head_count", integer(4)),
            ("llama.attention.head_count_kv", integer(2)),
            ("llama.attention.layer_norm_rms_epsilon", typed(6, &1e-5_f32.to_le_bytes())),
            ("tokenizer.ggml.model", typed(8, &text("gpt2"))),
            ("tokenizer.ggml.pre", typed(8, &text("smollm"))),
            ("tokenizer.ggml.tokens", list(8, &tokens)),
            ("tokenizer.ggml.token_type", list(5, &kinds)),
            ("tokenizer.ggml.merges", list(8, &[text("a b")])),
            ("tokenizer.ggml.eos_token_id", integer(1)),
            ("tokenizer.chat_template", typed(8, &text(template))),
        ];
        let f32s = |count: usize| (0..count).flat_map(|index| (index as f32).to_le_bytes()).collect::<Vec<_>>();
        let q8 = |rows: usize| {
            (0..rows)
                .flat_map(|row| [half::f16::ONE.to_le_bytes().as_slice(), &[row as u8; 32]].concat())
                .collect::<Vec<_>>()
        };
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), vec![32, 8], 8, q8(8)),
            ("output_norm.weight".to_owned(), vec![32], 0, f32s(32)),
        ];
        for (name, rows) in [
            ("attn_q", 32),
            ("attn_k", 16),
            ("attn_v", 16),
            ("attn_output", 32),
            ("ffn_gate", 32),
            ("ffn_up", 32),
            ("ffn_down", 32),
        ] {
            tensors.push((format!("blk.0.{name}.weight"), vec![32, rows], 8, q8(rows as usize)));
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensors.push((format!("blk.0.{name}.weight"), vec![32], 0, f32s(32)));
        }
        Self { metadata, tensors }
    }

    fn set(mut self, key: &'static str, value: Option<Vec<u8>>) -> Self {
        self.metadata.retain(|(other, _)| *other != key);
        self.metadata.extend(value.map(|value| (key, value)));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            file.extend(text(key));
            file.extend(value);
        }
        let mut data = Vec::new();
        for (name, dimensions, kind, raw) in &self.tensors {
            file.extend(text(name));
            file.extend((dimensions.len() as u32).to_le_bytes());
            file.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(raw);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        [file, data].concat()
    }
}

pub(crate) fn open_bytes(dir: &Path, bytes: &[u8]) -> Result<Checkpoint, ModelError> {
    let path = dir.join("tiny.gguf");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

#[test]
fn a_file_written_by_hand_opens() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = TinyGguf::new().bytes();
    let checkpoint = open_bytes(dir.path(), &tiny).unwrap();
    assert!((checkpoint.config.rope_theta - 10_000.0).abs() < f64::EPSILON);
    // Head width 8: the even rows of a head come first, then the odd ones.
    let query = checkpoint.weights.tensor("model.layers.0.self_attn.q_proj.weight", &[32, 32]).unwrap();
    let first_column = Vec::<f32>::try_from(query.narrow(1, 0, 1).reshape([-1])).unwrap();
    assert_eq!(first_column[..10], [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0, 8.0, 10.0]);
    let value = checkpoint.weights.tensor("model.layers.0.self_attn.v_proj.weight", &[16, 32]).unwrap();
    assert_eq!(Vec::<f32>::try_from(value.narrow(1, 0, 1).reshape([-1])).unwrap()[..4], [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(checkpoint.sha256().unwrap(), hex(&Sha256::digest(&tiny)));
    assert_eq!(checkpoint.tokenizer.encode_text("ab ba").unwrap(), [4, 6, 3, 2]);
}

#[test]
fn a_head_beside_the_embedding_is_used() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open_bytes(dir.path(), &TinyGguf::new().bytes()).unwrap().config.tie_word_embeddings);
    let mut tiny = TinyGguf::new();
    let numbers = |first: u32| (0..256).flat_map(|index| ((first + index) as f32).to_le_bytes()).collect::<Vec<_>>();
    tiny.tensors.push(("output.weight".to_owned(), vec![32, 8], 0, numbers(7)));
    let checkpoint = open_bytes(dir.path(), &tiny.bytes()).unwrap();
    assert!(!checkpoint.config.tie_word_embeddings);
    let head = checkpoint.weights.tensor("lm_head.weight", &[8, 32]).unwrap();
    assert_eq!(bytes(&head), numbers(7));
}

#[test]
fn control_tokens_are_special_whatever_their_type() {
    let dir = tempfile::tempdir().unwrap();
    let types = |kinds: [i32; 8]| Some(list(5, &kinds.map(|kind| kind.to_le_bytes().to_vec())));
    let ids = |tiny: TinyGguf, content: &str| {
        let tokenizer = open_bytes(dir.path(), &tiny.bytes()).unwrap().tokenizer;
        tokenizer.row_ids(&ChatRow::single_turn(content, "b"), usize::MAX).unwrap().unwrap().ids
    };
    let typed_control = ids(TinyGguf::new(), "ab");
    assert_eq!(typed_control, [0, 4, 1, 0, 3, 1]);
    for kind in [1, 2, 5] {
        let normal = || TinyGguf::new().set("tokenizer.ggml.token_type", types([kind, kind, 1, 1, 1, 1, 1, 1]));
        assert_eq!(ids(normal(), "ab"), typed_control, "type {kind}");
        let look_alike = "<|im_start|>ab<|im_end|>";
        assert_eq!(ids(normal(), look_alike), ids(TinyGguf::new(), look_alike), "type {kind}");
    }
    // What the template does not write is text, and so is what text is split into.
    let template = "{% for m in messages %}ab{{ m.content }}{% endfor %}{% if add_generation_prompt %}ab{% endif %}";
    let plain = TinyGguf::new().set("tokenizer.ggml.token_type", types([1; 8]));
    let plain = plain.set("tokenizer.chat_template", Some(typed(8, &text(template))));
    assert_eq!(ids(plain, "a"), [4, 2, 4, 3, 1]);
}

#[test]
fn block_kinds_widen_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = fixture("gguf_tensors.json")["blocks"].clone();
    let blocks = blocks.as_array().unwrap();
    assert_eq!(blocks.len(), 10);
    for block in blocks {
        let from_hex = |key: &str| -> Vec<u8> {
            let digits = block[key].as_str().unwrap();
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
        };
        let (raw, values) = (from_hex("raw"), from_hex("values"));
        let width = values.len() / 4;
        let mut tiny = TinyGguf::new().set("llama.feed_forward_length", Some(typed(4, &(width as u32).to_le_bytes())));
        for (name, dimensions, kind, data) in &mut tiny.tensors {
            if name.contains("ffn_down") {
                *kind = block["number"].as_u64().unwrap() as u32;
                (*dimensions, *data) = (vec![width as u64, 32], raw.repeat(32));
            } else if name.contains("ffn_gate") || name.contains("ffn_up") {
                (*dimensions, *data) = (vec![32, width as u64], data[..34].repeat(width));
            }
        }
        let checkpoint = open_bytes(dir.path(), &tiny.bytes()).unwrap();
        let found = checkpoint.weights.tensor("model.layers.0.mlp.down_proj.weight", &[32, width as i64]).unwrap();
        assert_eq!(bytes(&found), values.repeat(32), "{}", block["kind"]);
    }
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let whole = TinyGguf::new().bytes();
    for length in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let error = open_bytes(dir.path(), &whole[..length]).err().unwrap_or_else(|| panic!("opens at {length}"));
        assert!(error.to_string().contains("tiny.gguf"), "{error}");
    }
    // Any flipped bit of the header must end in a checkpoint or an error, and tensors of a checkpoint must be readable.
    let mut opened = 0;
    for bit in (0..whole.len().min(1800) * 8).step_by(9) {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(checkpoint) = open_bytes(dir.path(), &damaged) {
            opened += 1;
            for (name, shape) in checkpoint.config.tensors() {
                drop(checkpoint.weights.tensor(&name, &shape).unwrap());
            }
        }
    }
    assert!(opened > 0, "some bits (of token texts, say) do no harm");
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("general.architecture", Some(typed(8, &text("qwen2"))), "found \"qwen2\", allowed is \"llama\""),
        ("llama.block_count", None, "metadata llama.block_count is missing"),
        ("llama.block_count", Some(typed(8, &text("two"))), "found a string, expected an integer"),
        (
            "llama.block_count",
            Some(typed(4, &2_u32.to_le_bytes())),
            "model.layers.1.input_layernorm.weight of shape [32]",
        ),
        ("llama.feed_forward_length", Some(typed(4, &64_u32.to_le_bytes())), "found shape [32, 32], expected [64, 32]"),
        ("llama.attention.head_count", Some(typed(4, &0_u32.to_le_bytes())), "found 0"),
        ("llama.rope.scaling.type", Some(typed(8, &text("yarn"))), "found \"yarn\""),
        ("tokenizer.ggml.pre", Some(typed(8, &text("qwen2"))), "allowed: gpt-2, llama-bpe, smollm"),
        ("tokenizer.ggml.model", Some(typed(8, &text("llama"))), "tokenizer.ggml.model: found \"llama\""),
        ("tokenizer.ggml.eos_token_id", Some(typed(4, &99_u32.to_le_bytes())), "found 99, allowed are 0 to 7"),
        ("tokenizer.ggml.eos_token_id", None, "eos_token_id is missing"),
        ("tokenizer.ggml.merges", Some(list(8, &[text("nospace")])), "not two tokens"),
        ("tokenizer.chat_template", Some(typed(8, &text("{% if %}"))), "chat template"),
        ("split.count", Some(typed(2, &3_u16.to_le_bytes())), "merge the parts"),
        ("general.alignment", Some(typed(4, &3_u32.to_le_bytes())), "allowed are powers of two"),
    ];
    for (key, value, expected) in cases {
        let error = open_bytes(dir.path(), &TinyGguf::new().set(key, value).bytes()).err().unwrap().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
    let mut strange = TinyGguf::new();
    strange.tensors[1].2 = 10;
    let error = open_bytes(dir.path(), &strange.bytes()).err().unwrap().to_string();
    assert!(error.contains("output_norm.weight") && error.contains("Q2_K"), "{error}");
    let mut biased = TinyGguf::new();
    biased.tensors.push(("blk.0.attn_q.bias".to_owned(), vec![32], 0, vec![0; 128]));
    let error = open_bytes(dir.path(), &biased.bytes()).err().unwrap().to_string();
    assert!(error.contains("blk.0.attn_q.bias") && error.contains("belongs to no layer"), "{error}");
}
