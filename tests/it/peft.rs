//! Adapters between fedward and PEFT (`tests/reference/peft_interchange.py`).

use std::{fs, path::Path, process::Command};

use fedward::{
    lora::{LoraConfig, LoraRef, Target, peft},
    model::{BaseModel, Checkpoint, Design, Llama3RopeScaling, ModelConfig, Precision, RopeScaling},
};
use fedward_actors::{
    CancelFlag,
    protocol::{Adapter, hex},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::Kind;

use crate::{
    engine_support::{lora_of, reals_of, relative_error},
    support::test_device,
};

/// The script's tiny model.
fn tiny_llama() -> ModelConfig {
    ModelConfig {
        vocab_size: 300,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: Some(RopeScaling::Llama3(Llama3RopeScaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32.0,
        })),
        max_position_embeddings: 64,
        tie_word_embeddings: false,
        design: Design::LLAMA,
    }
}

/// An adapter with the numbers that the script expects.
fn numbered(config: &LoraConfig) -> Adapter {
    let layout = config.layout(&tiny_llama());
    let values = (0..layout.len()).map(|index| ((index * 37 % 101) as f32 - 50.0) / 1000.0).collect();
    Adapter::new(layout, values).unwrap()
}

fn lora(targets: impl IntoIterator<Item = Target>, use_rslora: bool) -> LoraConfig {
    LoraConfig { rank: 3, alpha: 7.5, dropout: 0.1, targets: targets.into_iter().collect(), use_rslora }
}

fn sha256(values: &[f32]) -> String {
    hex(&Sha256::digest(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()))
}

/// Runs the script, if `FEDWARD_PYTHON` names a Python with peft; returns what it prints.
fn script(command: &str, directory: &Path) -> Option<String> {
    let Some(python) = std::env::var_os("FEDWARD_PYTHON") else {
        eprintln!("skipped: FEDWARD_PYTHON names no Python with torch, transformers and peft");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/peft_interchange.py");
    let output = Command::new(python).arg(script).arg(command).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What the script says of the adapters that it wrote.
fn expected_of(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("expected.json")).unwrap()).unwrap()
}

/// Opens each adapter that the script wrote, and compares settings and numbers; with a model, its logits too.
fn check_adapters_of_peft(directory: &Path, model: Option<&BaseModel>) -> usize {
    let expected = expected_of(directory);
    for (name, expected) in expected.as_object().unwrap() {
        let (found, adapter) = peft::load(&directory.join(name), &tiny_llama()).unwrap();
        let dropout = expected["dropout"].as_f64().unwrap();
        assert_eq!(found, LoraConfig { dropout, ..lora_of(expected) }, "{name}");
        assert_eq!(adapter.values().len() as u64, expected["numbers"].as_u64().unwrap(), "{name}");
        assert_eq!(sha256(adapter.values()), expected["sha256"].as_str().unwrap(), "{name}");
        let Some(model) = model else { continue };
        let lora = LoraRef { config: &found, adapter: &adapter };
        let tokens: Vec<u32> = (3..23).collect();
        let logits = model.next_token_logits(Some(lora), &tokens, &CancelFlag::new()).unwrap();
        let ours: Vec<f64> = logits.iter().step_by(25).map(|&logit| f64::from(logit)).collect();
        let error = relative_error(&ours, &reals_of(&expected["logits"]));
        // f32 through two layers, the adapter scaled before the product with us and after it with peft.
        assert!(error < 1e-5, "{name}: logits {error:e}");
    }
    expected.as_object().unwrap().len()
}

#[test]
fn adapters_saved_by_peft_open() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/peft");
    assert_eq!(check_adapters_of_peft(&fixtures, None), 3);
}

#[test]
fn adapters_of_every_set_of_targets_saved_by_an_installed_peft_compute_the_same() {
    fedward::model::init_backend();
    let (adapters, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if script("make_all", adapters.path()).is_none() {
        return;
    }
    script("base", base.path()).unwrap();
    let checkpoint = Checkpoint::open(base.path()).unwrap();
    let model = BaseModel::load(checkpoint.config, &*checkpoint.weights, test_device(), Precision::F32).unwrap();
    assert_eq!(check_adapters_of_peft(adapters.path(), Some(&model)), 127);
}

#[test]
fn an_installed_peft_opens_what_is_saved_for_every_set_of_targets() {
    let dir = tempfile::tempdir().unwrap();
    // The settings of the script's `every_subset`.
    for number in 1_usize..128 {
        let targets = Target::ALL.into_iter().enumerate().filter(|(bit, _)| number >> bit & 1 == 1);
        let config = LoraConfig {
            rank: [1, 2, 3, 4, 8, 16, 64][number % 7],
            alpha: [1.0, 16.0, 7.5, 0.5, 32.0][number % 5],
            dropout: 0.1,
            targets: targets.map(|(_, target)| target).collect(),
            use_rslora: number.count_ones() % 2 == 0,
        };
        peft::save(&dir.path().join(format!("subset-{number}")), &config, &numbered(&config), "tiny").unwrap();
    }
    let Some(printed) = script("check_all", dir.path()) else { return };
    let report: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(report["adapters"], 127);
    eprintln!("peft: {report}");
}

#[test]
fn other_kinds_of_an_installed_peft_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    if script("make_others", dir.path()).is_none() {
        return;
    }
    let kinds: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kinds.len(), 10);
    for kind in kinds {
        let name = kind.file_name().unwrap().to_str().unwrap();
        let error = peft::load(&kind, &tiny_llama()).unwrap_err().to_string();
        assert!(error.contains(&format!("adapter_config.json: {name}: found ")), "{name}: {error}");
    }
}

#[test]
fn a_directory_saved_by_an_installed_transformers_opens() {
    let dir = tempfile::tempdir().unwrap();
    if script("base", dir.path()).is_none() {
        return;
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.config, tiny_llama());
    assert_eq!(checkpoint.tokenizer.stop_ids(), [2, 5]);
    assert!(dir.path().join("model.safetensors.index.json").exists(), "the script should have sharded the model");
    let expected = expected_of(dir.path());
    for (name, shape) in checkpoint.config.tensors() {
        let tensor = checkpoint.weights.tensor(&name, &shape).unwrap().to_kind(Kind::Float).reshape([-1]);
        assert_eq!(
            sha256(&Vec::<f32>::try_from(tensor).unwrap()),
            expected["tensors"][&name].as_str().unwrap(),
            "{name}"
        );
    }
    let messages = serde_json::from_value(expected["messages"].clone()).unwrap();
    let row = fedward_actors::protocol::ChatRow { messages, topic: None, label: None };
    let found = checkpoint.tokenizer.row_ids(&row, 999).unwrap().unwrap();
    assert_eq!(json!(found.ids), expected["ids"]);
    assert_eq!(json!(found.ids[..found.response_start]), expected["prompt_ids"]);
    assert_eq!(json!(checkpoint.tokenizer.prompt_ids(row.prompt()).unwrap()), expected["prompt_ids"]);
}

#[test]
fn what_is_saved_loads_and_saves_alike() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora([Target::VProj, Target::DownProj], true);
    let adapter = numbered(&config);
    // Twice, so that replacing is covered too.
    for _ in 0..2 {
        peft::save(&dir.path().join("adapter"), &config, &adapter, "tiny").unwrap();
    }
    let (loaded_config, loaded) = peft::load(&dir.path().join("adapter"), &tiny_llama()).unwrap();
    assert_eq!((loaded_config, loaded), (config.clone(), adapter.clone()));
    let mut names: Vec<_> =
        fs::read_dir(dir.path().join("adapter")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    peft::save(&dir.path().join("again"), &config, &adapter, "tiny").unwrap();
    for name in names {
        let read = |parent: &str| fs::read(dir.path().join(parent).join(&name)).unwrap();
        assert_eq!(read("adapter"), read("again"));
    }
}

#[test]
fn other_adapters_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora([Target::QProj], false);
    peft::save(dir.path(), &config, &numbered(&config), "tiny").unwrap();
    let path = dir.path().join("adapter_config.json");
    let saved: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let cases = [
        ("use_dora", json!(true), "use_dora: found true"),
        ("bias", json!("all"), "bias: found \"all\", allowed: \"none\""),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save: found [\"lm_head\"]"),
        ("rank_pattern", json!({"q_proj": 4}), "rank_pattern: found {\"q_proj\":4}"),
        ("alpha_pattern", json!({"q_proj": 4}), "alpha_pattern"),
        ("layers_to_transform", json!([0]), "layers_to_transform: found [0]"),
        ("layers_to_transform", json!(0), "layers_to_transform: found 0"),
        ("peft_type", json!("IA3"), "peft_type: found \"IA3\", allowed: \"LORA\""),
        ("init_lora_weights", json!("pissa"), "init_lora_weights: found \"pissa\""),
        ("some_future_variant", json!({"on": true}), "some_future_variant"),
        ("target_modules", json!(".*q_proj"), "target_modules: found the pattern \".*q_proj\""),
        ("target_modules", json!(["lm_head"]), "unknown target \"lm_head\"; allowed: q_proj"),
        ("target_modules", json!(["q_proj", "v_proj"]), "v_proj.lora_A.weight of shape [3, 32] is missing"),
        ("target_modules", json!(["v_proj"]), "v_proj.lora_A.weight of shape [3, 32] is missing"),
        ("r", json!(4), "q_proj.lora_A.weight: found shape [3, 32], expected [4, 32]"),
        ("r", json!(0), "r: found 0"),
        ("r", json!("x"), "r: found \"x\", expected a number"),
        ("lora_alpha", Value::Null, "lora_alpha: found null"),
        ("lora_dropout", json!(1.0), "lora_dropout: found 1"),
    ];
    for (key, value, expected) in cases {
        let mut changed = saved.clone();
        changed[key] = value;
        fs::write(&path, changed.to_string()).unwrap();
        let error = peft::load(dir.path(), &tiny_llama()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
    fs::write(&path, saved.to_string()).unwrap();
    let shallow = ModelConfig { num_hidden_layers: 1, ..tiny_llama() };
    let error = peft::load(dir.path(), &shallow).unwrap_err().to_string();
    assert!(error.contains("layers.1.self_attn.q_proj.lora_A.weight does not belong"), "{error}");
    let weights = dir.path().join("adapter_model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in (0..whole.len()).step_by(13) {
        fs::write(&weights, &whole[..length]).unwrap();
        let error = peft::load(dir.path(), &tiny_llama()).unwrap_err().to_string();
        assert!(error.contains("adapter_model.safetensors"), "{error}");
    }
    let mut poisoned = whole.clone();
    let last = poisoned.len() - 4;
    poisoned[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, poisoned).unwrap();
    let error = peft::load(dir.path(), &tiny_llama()).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}
