//! What the engine's tests share: weights by formula, the reference numbers, the default model.

use std::{collections::BTreeMap, path::PathBuf, sync::LazyLock};

use fedward::{
    lora::{LoraConfig, LoraRef, Target},
    model::{
        BaseModel, Checkpoint, Design, GenerationSettings, Llama3RopeScaling, ModelConfig, ModelError, Precision,
        RopeScaling, TokenizedRow, WeightSource, generate, score,
    },
    train::{SftSettings, StepReport, TrainStreams, train_sft},
};
use fedward_actors::{CancelFlag, protocol::Adapter};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;
use tch::Tensor;

/// Numbers in -1..1 from a name and an index, as `formula` in `tests/reference/engine_numbers.py`.
pub(crate) fn formula(name: &str, count: usize) -> Vec<f32> {
    let key = name
        .bytes()
        .fold(1_469_598_103_934_665_603_u64, |key, byte| (key ^ u64::from(byte)).wrapping_mul(1_099_511_628_211));
    (0..count as u64)
        .map(|index| {
            let mut z = index.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(key);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (2.0 * ((z >> 40) as f64 / f64::from(1 << 24)) - 1.0) as f32
        })
        .collect()
}

/// The small models' weights, as `small_weight` in `tests/reference/engine_numbers.py`.
pub(crate) struct FormulaWeights;

impl WeightSource for FormulaWeights {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let values: Vec<f32> = formula(name, shape.iter().product::<i64>() as usize)
            .into_iter()
            .map(|value| {
                let value = f64::from(value);
                if name.contains("norm") {
                    (1.0 + 0.2 * value) as f32
                } else if name.contains("embed_tokens") {
                    value as f32
                } else if name.contains("bias") {
                    (0.5 * value) as f32
                } else {
                    (value * (3.0 / shape[1] as f64).sqrt()) as f32
                }
            })
            .collect();
        Ok(Tensor::from_slice(&values).view(shape))
    }
}

/// The reference numbers.
pub(crate) fn reference() -> &'static Value {
    static REFERENCE: LazyLock<Value> = LazyLock::new(|| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/engine.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    });
    &REFERENCE
}

/// A small model's configuration as its reference has it.
pub(crate) fn config_of(value: &Value) -> ModelConfig {
    let integer = |key: &str| value[key].as_i64().unwrap();
    let rope = &value["rope_parameters"];
    let real = |key: &str| rope[key].as_f64().unwrap();
    ModelConfig {
        vocab_size: integer("vocab_size"),
        hidden_size: integer("hidden_size"),
        intermediate_size: integer("intermediate_size"),
        num_hidden_layers: integer("num_hidden_layers") as usize,
        num_attention_heads: integer("num_attention_heads"),
        num_key_value_heads: integer("num_key_value_heads"),
        head_dim: integer("head_dim"),
        rms_norm_eps: value["rms_norm_eps"].as_f64().unwrap(),
        rope_theta: real("rope_theta"),
        rope_scaling: (rope["rope_type"] == "llama3").then(|| {
            RopeScaling::Llama3(Llama3RopeScaling {
                factor: real("factor"),
                low_freq_factor: real("low_freq_factor"),
                high_freq_factor: real("high_freq_factor"),
                original_max_position_embeddings: real("original_max_position_embeddings"),
            })
        }),
        max_position_embeddings: integer("max_position_embeddings") as usize,
        tie_word_embeddings: value["tie_word_embeddings"].as_bool().unwrap(),
        design: Design::LLAMA,
    }
}

/// LoRA settings as a reference has them.
pub(crate) fn lora_of(value: &Value) -> LoraConfig {
    LoraConfig {
        rank: value["rank"].as_u64().unwrap() as usize,
        alpha: value["alpha"].as_f64().unwrap(),
        dropout: 0.0,
        targets: value["targets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().parse::<Target>().unwrap())
            .collect(),
        use_rslora: value["use_rslora"].as_bool().unwrap(),
    }
}

/// The adapter by formula, as `adapted` in `tests/reference/engine_numbers.py`.
pub(crate) fn formula_adapter(lora: &LoraConfig, model: &ModelConfig, b_scale: f64) -> Adapter {
    let layout = lora.layout(model);
    let values = layout
        .tensors()
        .iter()
        .flat_map(|tensor| {
            let scale = if tensor.name.contains("lora_A") { 1.0 / (tensor.shape[1] as f64).sqrt() } else { b_scale };
            formula(&tensor.name, tensor.len()).into_iter().map(move |value| (f64::from(value) * scale) as f32)
        })
        .collect();
    Adapter::new(layout, values).unwrap()
}

/// Rows as a reference has them.
pub(crate) fn rows_of(value: &Value) -> Vec<TokenizedRow> {
    let row = |value: &Value| TokenizedRow {
        ids: ids_of(&value["ids"]),
        response_start: value["response_start"].as_u64().unwrap() as usize,
    };
    value.as_array().unwrap().iter().map(row).collect()
}

/// Token ids.
pub(crate) fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Numbers.
pub(crate) fn reals_of(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Length of the difference over the length of the expected vector.
pub(crate) fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(found, expected)| (found - expected).powi(2)).sum();
    let length: f64 = expected.iter().map(|expected| expected.powi(2)).sum();
    (difference / length.max(f64::MIN_POSITIVE)).sqrt()
}

/// Eight elements spread over a tensor, as `samples` in `tests/reference/engine_numbers.py`.
pub(crate) fn samples(values: &[f32]) -> Vec<f64> {
    (0..8).map(|k| f64::from(values[k * (values.len() - 1) / 7])).collect()
}

/// Logits at the positions and of the tokens that a reference has, and the reference's.
pub(crate) fn logits_at(model: &BaseModel, rows: &[TokenizedRow], expected: &Value) -> [Vec<f64>; 2] {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for entry in expected.as_array().unwrap() {
        let row = &rows[entry["row"].as_u64().unwrap() as usize];
        for position in entry["positions"].as_array().unwrap() {
            let last = position["position"].as_u64().unwrap() as usize;
            let logits = model.next_token_logits(None, &row.ids[..=last], &CancelFlag::new()).unwrap();
            let stride = position["stride"].as_u64().unwrap() as usize;
            let top = ids_of(&position["top_ids"]).into_iter().map(|id| logits[id as usize]);
            ours.extend(top.chain(logits.iter().copied().step_by(stride)).map(f64::from));
            theirs.extend(position_logits(position));
        }
    }
    [ours, theirs]
}

/// Logits of `tests/reference/bf16_numbers.py`, in the order of [`logits_at`].
pub(crate) fn bf16_logits_of(entries: &Value) -> Vec<f64> {
    let positions = entries.as_array().unwrap().iter().flat_map(|entry| entry.as_array().unwrap());
    positions.flat_map(position_logits).collect()
}

fn position_logits(position: &Value) -> Vec<f64> {
    [reals_of(&position["top"]), reals_of(&position["strided"])].concat()
}

/// Largest difference of logits from those of a reference.
pub(crate) fn worst_logit_error(model: &BaseModel, rows: &[TokenizedRow], expected: &Value) -> f64 {
    let [ours, theirs] = logits_at(model, rows, expected);
    assert!(!ours.is_empty() && ours.len() == theirs.len());
    let errors = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs());
    errors.max_by(f64::total_cmp).unwrap_or(f64::NAN)
}

/// Log-likelihoods.
pub(crate) fn likelihoods(model: &BaseModel, lora: Option<LoraRef>, rows: &[TokenizedRow]) -> Vec<f64> {
    let scores = score(model, lora, rows, &CancelFlag::new()).unwrap();
    scores.iter().map(|score| score.log_likelihood).collect()
}

/// Samples of the tensors that a reference names, in its order.
pub(crate) fn sampled(adapter: &Adapter, named: &Value) -> Vec<f64> {
    let ours = by_name(adapter);
    named.as_array().unwrap().iter().flat_map(|tensor| samples(ours[tensor["name"].as_str().unwrap()])).collect()
}

/// Samples that a reference has of tensors.
pub(crate) fn samples_of(tensors: &Value) -> Vec<f64> {
    let of = |tensor: &Value| reals_of(if tensor.is_array() { tensor } else { &tensor["samples"] });
    tensors.as_array().unwrap().iter().flat_map(of).collect()
}

/// How much further than theirs ours may be from the exact numbers in bf16: the processor decides in which order products
/// are summed, and so how both are rounded.
const ROOM: f64 = 3.0;
/// How far neighbours in bf16 are apart, at most; to be nearer than that is luck.
pub(crate) const BF16_STEP: f64 = 1.0 / 256.0;
/// AdamW's first step takes each number as far as the learning rate says, by the sign of its gradient. Where that is almost
/// zero rounding decides: one number in forty-four that goes the other way makes an error like this.
const FEW_FLIPPED: f64 = 0.3;

/// Ours are about as near to the exact numbers as theirs, both computed in bf16.
pub(crate) fn assert_as_near(what: &str, ours: &[f64], theirs: &[f64], exact: &[f64]) {
    assert_nearly_as_near(what, ours, theirs, exact, BF16_STEP);
}

/// As [`assert_as_near`]; ours need not be nearer than `by_luck`.
fn assert_nearly_as_near(what: &str, ours: &[f64], theirs: &[f64], exact: &[f64], by_luck: f64) {
    let (our_error, their_error) = (relative_error(ours, exact), relative_error(theirs, exact));
    eprintln!("{what}: ours {our_error:.2e} from exact, theirs {their_error:.2e}");
    assert!(our_error < by_luck.max(ROOM * their_error), "{what}: {our_error:e} from exact, theirs {their_error:e}");
}

/// Ten steps and one in bf16 are about as near to the exact ones as peft's.
pub(crate) fn assert_steps_as_near(what: &str, trained: &Trained, theirs: &Value, exact: &Value) {
    let compare = |part: &str, ours: &[f64]| {
        assert_as_near(&format!("{what}: {part}"), ours, &reals_of(&theirs[part]), &reals_of(&exact[part]));
    };
    compare("losses", &trained.losses);
    compare("grad_norms", &trained.grad_norms);
    assert_all_move(what, trained, exact);
    // Most of an adapter is where it started.
    let start = sampled(&trained.start, &exact["after_first_step"]);
    let moved = |values: Vec<f64>| values.iter().zip(&start).map(|(after, before)| after - before).collect::<Vec<_>>();
    let ours = moved(sampled(&trained.after_first_step, &exact["after_first_step"]));
    let [theirs, exact] = [theirs, exact].map(|numbers| moved(samples_of(&numbers["after_first_step"])));
    assert_nearly_as_near(&format!("{what}: the first step"), &ours, &theirs, &exact, FEW_FLIPPED);
}

/// The first step takes every tensor about as far as the exact one does: all together may hide one that stands still.
fn assert_all_move(what: &str, trained: &Trained, exact: &Value) {
    let [before, after] = [&trained.start, &trained.after_first_step].map(by_name);
    for tensor in exact["after_first_step"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let start = samples(before[name]);
        let way =
            |values: Vec<f64>| values.iter().zip(&start).map(|(after, before)| (after - before).powi(2)).sum::<f64>();
        let (ours, exact) = (way(samples(after[name])), way(reals_of(&tensor["samples"])));
        assert!(ours >= 0.25 * exact, "{what}: {name} moves by {:e} instead of {:e}", ours.sqrt(), exact.sqrt());
    }
}

/// What ten steps and one give.
pub(crate) struct Trained {
    pub(crate) losses: Vec<f64>,
    pub(crate) grad_norms: Vec<f64>,
    pub(crate) start: Adapter,
    pub(crate) after_first_step: Adapter,
}

/// Trains with the settings of a reference: ten steps, and one.
pub(crate) fn ten_steps_and_one(
    model: &BaseModel,
    lora: &LoraConfig,
    start: Adapter,
    rows: &[TokenizedRow],
    reference: &Value,
) -> Trained {
    let real = |key: &str| reference[key].as_f64().unwrap();
    let ten = SftSettings {
        weight_decay: real("weight_decay"),
        max_grad_norm: Some(real("max_grad_norm")),
        ..SftSettings::new(10, rows.len(), real("learning_rate"))
    };
    let (cancel, mut grad_norms) = (CancelFlag::new(), Vec::new());
    let train = |settings: &SftSettings, on_step: &mut dyn FnMut(&StepReport)| {
        let rng = |seed: u64| ChaCha8Rng::seed_from_u64(seed);
        let streams = TrainStreams { order: rng(1), dropout: rng(2) };
        train_sft(model, &start, lora.dropout, rows, settings, streams, &cancel, on_step).unwrap()
    };
    let losses = train(&ten, &mut |step| grad_norms.push(step.grad_norm)).losses;
    let after_first_step = train(&SftSettings { steps: 1, ..ten }, &mut |_| {}).adapter;
    Trained { losses, grad_norms, start, after_first_step }
}

/// The tensors of an adapter by name.
pub(crate) fn by_name(adapter: &Adapter) -> BTreeMap<&str, &[f32]> {
    adapter.layout().tensors().iter().map(|tensor| (tensor.name.as_str(), adapter.tensor(tensor))).collect()
}

/// The default model.
pub(crate) fn default_model(precision: Precision) -> BaseModel {
    fedward::model::init_backend();
    let checkpoint = Checkpoint::open(&crate::support::default_model_path()).unwrap();
    BaseModel::load(checkpoint.config, &*checkpoint.weights, crate::support::test_device(), precision).unwrap()
}

/// Seconds that this thread has computed so far: what other processes do on the machine does not count.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// New tokens for which a cache has room at first.
pub(crate) const FIRST_SLOTS: usize = 129;

/// Continues prompts greedily, and says how far logits of chosen tokens are below the highest ones that whole passes over the
/// same tokens give, at most, in units of the largest logit (nothing but rounding), and how long continuations are.
pub(crate) fn logits_behind(
    model: &BaseModel,
    prompts: &[Vec<u32>],
    max_new_tokens: usize,
    stop_ids: &[u32],
) -> (f64, Vec<usize>) {
    let settings = GenerationSettings {
        max_new_tokens,
        temperature: 0.0,
        top_p: 1.0,
        top_k: None,
        batch_size: prompts.len(),
        stop_ids: stop_ids.to_vec(),
    };
    let (rng_of, cancel) = (|_| ChaCha8Rng::seed_from_u64(0), CancelFlag::new());
    let done = generate(model, None, prompts, &settings, &rng_of, &cancel, &mut |_| {}).unwrap();
    let mut most = 0.0_f64;
    for (prompt, done) in prompts.iter().zip(&done) {
        for (place, &id) in done.ids.iter().enumerate().step_by(10) {
            let logits = model.next_token_logits(None, &[prompt, &done.ids[..place]].concat(), &cancel).unwrap();
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let largest = logits.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
            most = most.max(f64::from((highest - logits[id as usize]) / largest));
        }
    }
    (most, done.iter().map(|done| done.ids.len()).collect())
}
