//! Adapters between fedward and PEFT (`tests/reference/peft_interchange.py`).

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use fedward::{
    lora::{LoraConfig, LoraRef, Target, peft},
    model::{BaseModel, Checkpoint, Design, Llama3RopeScaling, ModelConfig, Precision, RopeScaling},
};
use fedward_actors::{
    CancelFlag,
    protocol::{Adapter, GlobalModel, hex},
};
use safetensors::SafeTensors;
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
        let lora = LoraRef::from(&adapter);
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

/// Opens each adapter of varying modules, and compares what it adds to each weight; with a model, its logits too.
fn check_patterns_of_peft(directory: &Path, model: Option<&BaseModel>) -> usize {
    let expected = expected_of(directory);
    for (name, expected) in expected.as_object().unwrap() {
        let (config, adapter) = peft::load(&directory.join(name), &tiny_llama()).unwrap();
        let mut deltas = expected["deltas"].as_object().unwrap().clone();
        for pair in adapter.layout().tensors().chunks_exact(2) {
            let ([a, b], rank) = ([&pair[0], &pair[1]].map(|tensor| adapter.tensor(tensor)), config.rank);
            let module =
                pair[0].name.strip_prefix("base_model.model.").unwrap().strip_suffix(".lora_A.weight").unwrap();
            let Some(expected) = deltas.remove(module) else {
                assert!(a.iter().chain(b).all(|value| *value == 0.0), "{name}: {module} is adapted");
                continue;
            };
            let columns = a.len() / rank;
            let delta = |index: usize| -> f64 {
                let (row, column) = (index / columns, index % columns);
                let products = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * columns + column]));
                config.scaling() * products.sum::<f64>()
            };
            let ours: Vec<_> = (5..b.len() / rank * columns).step_by(211).map(delta).collect();
            let theirs = reals_of(&expected);
            assert_eq!(ours.len(), theirs.len(), "{name}: {module}");
            let largest = theirs.iter().fold(1e-3_f64, |largest, value| largest.max(value.abs()));
            for (ours, theirs) in ours.iter().zip(&theirs) {
                // Products of f32 numbers, printed with seven digits.
                assert!((ours - theirs).abs() < 1e-6 * largest, "{name}: {module}: found {ours}, expected {theirs}");
            }
        }
        assert!(deltas.is_empty(), "{name}: not adapted: {deltas:?}");
        let Some(model) = model else { continue };
        let lora = LoraRef::from(&adapter);
        let tokens: Vec<u32> = (3..23).collect();
        let logits = model.next_token_logits(Some(lora), &tokens, &CancelFlag::new()).unwrap();
        let ours: Vec<f64> = logits.iter().step_by(25).map(|&logit| f64::from(logit)).collect();
        let error = relative_error(&ours, &reals_of(&expected["logits"]));
        assert!(error < 1e-5, "{name}: logits {error:e}");
    }
    expected.as_object().unwrap().len()
}

#[test]
fn adapters_that_vary_by_module_or_have_other_names_compute_what_peft_does() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/peft_patterns");
    assert_eq!(check_patterns_of_peft(&fixtures, None), 20);
}

#[test]
fn adapters_that_vary_by_module_have_the_logits_of_an_installed_peft() {
    fedward::model::init_backend();
    let (adapters, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if script("make_patterns", adapters.path()).is_none() {
        return;
    }
    script("base", base.path()).unwrap();
    let checkpoint = Checkpoint::open(base.path()).unwrap();
    let model = BaseModel::load(checkpoint.config, &*checkpoint.weights, test_device(), Precision::F32).unwrap();
    assert_eq!(check_patterns_of_peft(adapters.path(), Some(&model)), 20);
}

#[test]
fn zeros_that_fill_a_rank_up_are_saved_and_read_back() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/peft_patterns");
    let (config, adapter) = peft::load(&fixtures.join("ranks"), &tiny_llama()).unwrap();
    assert_eq!((config.rank, config.targets.len()), (4, 3));
    // The smallest rank, 1, has the largest scaling, 8 / 1.
    assert_eq!(config.scaling().to_bits(), 8.0_f64.to_bits());
    let dir = tempfile::tempdir().unwrap();
    peft::save(dir.path(), &config, &adapter, "tiny").unwrap();
    assert_eq!(peft::load(dir.path(), &tiny_llama()).unwrap(), (config, adapter));
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

/// `peft` adds up adapters that are active at once: frozen terms of other ranks and scalings, and the one on top of them.
#[test]
fn a_model_with_frozen_terms_has_the_logits_of_an_installed_peft_as_terms_and_as_one_stack() {
    fedward::model::init_backend();
    let dir = tempfile::tempdir().unwrap();
    let targets: BTreeSet<_> = [Target::QProj, Target::VProj, Target::DownProj].into();
    let configs = [(2, 1.0, false), (5, 20.0, false), (3, 7.5, true)].map(|(rank, alpha, use_rslora)| LoraConfig {
        rank,
        alpha,
        dropout: 0.0,
        targets: targets.clone(),
        use_rslora,
    });
    for (index, config) in configs.iter().enumerate() {
        peft::save(&dir.path().join("terms").join(index.to_string()), config, &numbered(config), "tiny").unwrap();
    }
    let [first, second, top] = configs.each_ref().map(numbered);
    let model = GlobalModel::from(top).with_frozen(first).with_frozen(second);
    peft::save(&dir.path().join("stack"), &configs[2], &model, "tiny").unwrap();
    let Some(printed) = script("sum_of_terms", dir.path()) else { return };
    let base_folder = tempfile::tempdir().unwrap();
    script("base", base_folder.path()).unwrap();
    let checkpoint = Checkpoint::open(base_folder.path()).unwrap();
    let base = BaseModel::load(checkpoint.config, &*checkpoint.weights, test_device(), Precision::F32).unwrap();
    let tokens: Vec<u32> = (3..23).collect();
    let logits = |lora: Option<LoraRef<'_>>| -> Vec<f64> {
        let logits = base.next_token_logits(lora, &tokens, &CancelFlag::new()).unwrap();
        logits.iter().step_by(25).map(|&logit| f64::from(logit)).collect()
    };
    let ours = logits(Some((&model).into()));
    let theirs: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    for what in ["terms", "stack"] {
        let error = relative_error(&ours, &reals_of(&theirs[what]));
        assert!(error < 1e-5, "{what}: {error:e}");
        eprintln!("frozen terms, {what} in peft: logits differ by {error:e}");
    }
    assert!(relative_error(&ours, &logits(Some(model.trainable().into()))) > 1e-3, "frozen terms change nothing");
}

#[test]
fn other_kinds_of_an_installed_peft_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    if script("make_others", dir.path()).is_none() {
        return;
    }
    let kinds: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kinds.len(), 6);
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

/// Refuses tensors beside those of a LoRA of `q_proj`, twice the same one, and a pickle.
fn check_other_tensors(directory: &Path) {
    let path = directory.join("adapter_model.safetensors");
    let whole = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&whole).unwrap();
    let first = "model.layers.0.self_attn.q_proj.lora_A.weight";
    let other = file.tensor(&format!("base_model.model.{first}")).unwrap();
    for (name, expected) in [
        ("base_model.model.lm_head.lora_A.weight", "embeddings and the head are not adapted here"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings and the head are not adapted here"),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.other.weight",
            "does not belong to a LoRA of q_proj in 2 of 2",
        ),
        (first, "q_proj.lora_A.weight is there twice"),
    ] {
        let tensors = file.tensors().into_iter().chain([(name.to_owned(), other.clone())]);
        fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let error = peft::load(directory, &tiny_llama()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::remove_file(&path).unwrap();
    fs::write(directory.join("adapter_model.bin"), "no pickle").unwrap();
    let error = peft::load(directory, &tiny_llama()).unwrap_err().to_string();
    for part in ["adapter_model.bin: found a pickle", "torch.load('adapter_model.bin'", "weights_only=True"] {
        assert!(error.contains(part), "{error}");
    }
    fs::write(&path, whole).unwrap();
    assert!(peft::load(directory, &tiny_llama()).is_ok());
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
        ("rank_pattern", json!({"q_proj": 4}), "q_proj.lora_A.weight: found shape [3, 32], expected [4, 32]"),
        ("rank_pattern", json!({"q_proj": 0}), "rank_pattern.q_proj: found 0, allowed are whole numbers"),
        ("rank_pattern", json!([4]), "rank_pattern: found [4], expected an object"),
        ("alpha_pattern", json!({"q_proj": "x"}), "alpha_pattern.q_proj: found \"x\", expected a number"),
        ("alpha_pattern", json!({"(": 1}), "alpha_pattern: found the pattern \"(\", which is not read"),
        (
            "alpha_pattern",
            json!({"([a-z0-9_.]+)+(?!x)[A-Z]": 1}),
            "alpha_pattern: \"([a-z0-9_.]+)+(?!x)[A-Z]\" cannot be matched",
        ),
        ("layers_to_transform", json!([0]), "layers.1.self_attn.q_proj.lora_A.weight does not belong"),
        ("layers_to_transform", json!(1), "layers.0.self_attn.q_proj.lora_A.weight does not belong"),
        ("layers_to_transform", json!([2]), "target_modules: found [\"q_proj\"] (with exclude_modules and"),
        ("layers_to_transform", json!("0"), "layers_to_transform: found \"0\", expected a layer's number"),
        ("layers_pattern", json!("layers"), "layers_pattern: found \"layers\" without layers_to_transform"),
        ("exclude_modules", json!(["q_proj"]), "which is no linear layer of the model"),
        ("exclude_modules", json!(".*0.*"), "layers.0.self_attn.q_proj.lora_A.weight does not belong"),
        ("lora_bias", json!(true), "lora_bias: found true"),
        ("peft_type", json!("IA3"), "peft_type: found \"IA3\", allowed: \"LORA\""),
        ("init_lora_weights", json!("pissa"), "init_lora_weights: found \"pissa\""),
        ("some_future_variant", json!({"on": true}), "some_future_variant"),
        ("init_lora_weights", json!("olora"), "path_initial_model_for_weight_conversion=\"initial\""),
        ("target_modules", json!("q_proj"), "found \"q_proj\", which is no linear layer of the model; allowed: q_proj"),
        ("target_modules", json!(["lm_head"]), "found [\"lm_head\"], which is no linear layer of the model"),
        ("target_modules", json!({"q_proj": 1}), "target_modules: found {\"q_proj\":1}, expected a list of names"),
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
    check_other_tensors(dir.path());
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
