//! Llama Guard's protocol on a tiny model, against transformers (`tests/reference/llama_guard.py`), and guards that are
//! fitted, measured and named by the program.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, LazyLock},
};

use fedward::{
    model::{ChatModel, Precision, WeightSource},
    safety::guard::{ChatRespondent, ProtocolGuard, Reading, Respondent, SafetyGuard},
};
use fedward_actors::{
    CancelFlag,
    ports::GuardModel,
    protocol::{ChatMessage, ChatRow},
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use crate::{
    engine_support::{FormulaWeights, reals_of},
    fixture,
    support::{fedward, test_device},
};

static REFERENCE: LazyLock<Value> = LazyLock::new(|| fixture("llama_guard.json"));

/// A Hugging Face directory of the tiny guard; `template` is the name of one of the reference's, or a template.
fn checkpoint(template: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("config.json", &REFERENCE["config"]);
    write("tokenizer.json", &REFERENCE["tokenizer"]);
    let template = REFERENCE["templates"].get(template).cloned().unwrap_or_else(|| json!(template));
    write(
        "tokenizer_config.json",
        &json!({"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": template}),
    );
    let tensors = REFERENCE["tensors"].as_object().unwrap().iter().map(|(name, shape)| {
        let shape: Vec<i64> = serde_json::from_value(shape.clone()).unwrap();
        let values = Vec::<f32>::try_from(FormulaWeights.tensor(name, &shape).unwrap().reshape([-1])).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name, shape.iter().map(|&size| size as usize).collect::<Vec<_>>(), bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views: HashMap<_, _> = tensors
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()))
        .collect();
    fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    dir
}

fn respondent(template: &str) -> Result<ChatRespondent, String> {
    fedward::model::init_backend();
    let dir = checkpoint(template);
    let model = ChatModel::open("tiny guard", dir.path(), test_device(), Precision::F32, 2).unwrap();
    ChatRespondent::checkpoint(Arc::new(model), 512).map_err(|error| error.to_string())
}

fn conversations() -> Vec<Vec<ChatMessage>> {
    let of_case = |case: &Value| serde_json::from_value(case["messages"].clone()).unwrap();
    REFERENCE["cases"].as_array().unwrap().iter().map(of_case).collect()
}

/// Probabilities in f32 against f64: they are softmaxes over 260 tokens of logits that are right to about 1e-5.
#[test]
fn answers_and_scores_are_those_of_transformers_in_both_forms_of_template() {
    for template in ["texts", "parts"] {
        let answers = respondent(template).unwrap().answers(&conversations(), &CancelFlag::new()).unwrap();
        for (answer, case) in answers.iter().zip(REFERENCE["cases"].as_array().unwrap()) {
            let found = [answer.safe_probability, answer.unsafe_probability];
            for (found, expected) in found.into_iter().zip(reals_of(&case["probabilities"])) {
                assert!((found / expected - 1.0).abs() < 1e-4, "{template}: found {found}, expected {expected}");
            }
            assert_eq!(answer.text, case["text"].as_str().unwrap());
            assert!(!answer.is_cut);
        }
    }
}

fn rows() -> Vec<ChatRow> {
    conversations().into_iter().map(|messages| ChatRow { messages, topic: None, label: None }).collect()
}

#[test]
fn company_changes_no_verdict_to_the_last_bit() {
    let guard = ProtocolGuard::new(respondent("texts").unwrap(), 0.5);
    let rows = rows();
    let together = guard.assess(&rows, &CancelFlag::new()).unwrap();
    let mut backwards: Vec<_> = rows.iter().rev().cloned().collect();
    backwards.extend(rows.clone());
    let backwards = guard.assess(&backwards, &CancelFlag::new()).unwrap();
    for (index, row) in rows.iter().enumerate() {
        let alone = &guard.assess(std::slice::from_ref(row), &CancelFlag::new()).unwrap()[0];
        assert_eq!(alone.unsafe_probability.to_bits(), together[index].unsafe_probability.to_bits());
        assert_eq!(alone, &together[index]);
        assert_eq!(alone, &backwards[rows.len() - 1 - index]);
        assert_eq!(alone, &backwards[rows.len() + index]);
    }
}

#[test]
fn noise_is_malformed_counted_and_never_safe() {
    let guard = ProtocolGuard::new(respondent("parts").unwrap(), 1.0);
    let verdicts = guard.assess(&rows(), &CancelFlag::new()).unwrap();
    assert!(verdicts.iter().all(|verdict| verdict.is_unsafe && verdict.hazards.is_empty()));
    let tally = guard.tally().unwrap();
    assert_eq!((tally.answers, tally.malformed), (6, 6));
    assert!(tally.mean_mass_outside().unwrap() > 0.9);
    assert_eq!(Reading::of(REFERENCE["cases"][0]["text"].as_str().unwrap()), Reading::Malformed);
}

#[test]
fn a_long_conversation_is_cut_so_that_the_question_stays_whole() {
    let guard = respondent("texts").unwrap();
    let long = "many words ".repeat(200);
    let turns = [long.as_str(), long.as_str()].map(|text| ChatMessage::new(fedward_actors::protocol::Role::User, text));
    let answers = guard.answers(&[turns[..1].to_vec()], &CancelFlag::new()).unwrap();
    assert!(answers[0].is_cut);
}

#[test]
fn another_kind_of_model_is_no_guard() {
    let error = respondent("{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    let error = error.err().unwrap();
    assert!(error.contains("does not ask for \"safe\" or \"unsafe\""), "{error}");
}

fn run(args: &[&str]) -> Output {
    fedward().args(args).output().unwrap()
}

fn line(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// Rows about colours are safe, rows about numbers stand for unsafe ones.
fn labelled(folder: &Path) -> PathBuf {
    let path = folder.join("labelled.jsonl");
    let colours = ["red", "green", "blue", "white", "grey", "black", "pink", "brown", "teal", "cyan"];
    let mut lines = Vec::new();
    for (index, colour) in colours.iter().cycle().take(40).enumerate() {
        let safe = json!({"prompt": format!("Is the {colour} door {index} nice?"), "label": "safe"});
        let hazards = if index % 2 == 0 { "S2" } else { "S2,S9" };
        let number = index * 7919 + 10_000;
        let unsafe_ = json!({"prompt": format!("{number} {number} {number}"), "label": "unsafe", "hazards": hazards});
        lines.extend([safe, unsafe_].map(|row| row.to_string()));
    }
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// What the program makes of rows that a child can tell apart: heads learn them, and an adapter that was hardly trained
/// answers nonsense, which is counted.
#[test]
fn guards_are_trained_measured_and_named_by_scenarios() {
    let folder = tempfile::tempdir().unwrap();
    let rows = labelled(folder.path());
    let rows = rows.to_str().unwrap();
    let tiny = checkpoint("texts");
    let tiny = tiny.path().to_str().unwrap();
    let [head, lora] = ["head", "lora"].map(|kind| folder.path().join(kind).to_str().unwrap().to_owned());

    let train = ["guard", "train", "--data", rows, "--model", tiny, "--out"];
    let trained =
        line(&run(&[&train[..], &[&head, "--kind", "head", "--layers", "2", "--max-length", "400"]].concat()));
    assert_eq!((trained["fitted_rows"].as_u64(), trained["held_out"]["all"]["n"].as_u64()), (Some(64), Some(16)));
    assert!(trained["held_out"]["all"]["auc"].as_f64().unwrap() > 0.9, "{trained}");
    let measured = line(&run(&["guard", "eval", "--guard", &head, "--data", rows]));
    assert_eq!((measured["n"].as_u64(), measured["left_out_as_fitted_on"].as_u64()), (Some(16), Some(64)));
    assert_eq!(measured["auc"], trained["held_out"]["all"]["auc"]);
    assert_eq!(measured["by_hazard"][0]["hazard"], "S2");
    assert_eq!(measured["curve"].as_array().unwrap().len(), 13);

    let few = ["--kind", "lora", "--epochs", "1", "--batch-size", "4", "--rank", "2", "--max-length", "900"];
    let trained = line(&run(&[&train[..], &[&lora], &few].concat()));
    assert_eq!(trained["malformed"], 16, "{trained}");
    assert_eq!(trained["held_out"]["all"]["recall"], 1.0);
    assert!(Path::new(&lora).join("adapter_config.json").is_file());
    // It is asked as the checkpoint was, not in our words.
    let stored: Value = serde_json::from_slice(&fs::read(Path::new(&lora).join("guard.json")).unwrap()).unwrap();
    assert_eq!(stored["fitted"]["phrasing"], "own");

    let scenario = folder.path().join("guarded.toml");
    let guard = |keys: &str| {
        let head = "name = \"guarded\"\nquestion = \"which guard?\"\n[guard]\nenabled = true\n";
        fs::write(&scenario, format!("{head}{keys}\n")).unwrap();
        let output = run(&["check", scenario.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (keys, expected) in [
        ("kind = \"trained\"\npath = \"head\"", "linear head on a model's hidden states"),
        ("kind = \"trained\"\npath = \"lora\"", "fine-tuned chat model"),
        (&format!("kind = \"llama_guard\"\nmodel = {tiny:?}"), "over the whole vocabulary"),
    ] {
        let (code, stderr) = guard(keys);
        assert!(code == Some(0) && stderr.contains(expected), "{keys}: {stderr}");
    }
    // Nothing that could not be judged is trained on, and the rows say why.
    let small = format!(
        "kind = \"llama_guard\"\nmodel = {tiny:?}\n[federation]\nclients = 2\ncohort = 2\nrounds = 1\n[data]\nrows_per_client = 3\n\
         [evaluation]\nprompts = 1\nutility_rows = 1\nmax_new_tokens = 1\n"
    );
    assert_eq!(guard(&small).0, Some(0));
    let out = folder.path().join("out");
    let ran = run(&["run", scenario.to_str().unwrap(), "--metrics", "off", "--out", out.to_str().unwrap()]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let round: Value = serde_json::from_slice(&fs::read(out.join("rounds.jsonl")).unwrap()).unwrap();
    assert_eq!((&round["rows_kept"], &round["rows_malformed"]), (&json!(0), &json!(6)), "{round}");
    assert_eq!(round["accepted"], 0);
    for (keys, expected) in [
        ("kind = \"trained\"", "guard.kind: found \"trained\", which needs guard.path"),
        ("kind = \"trained\"\npath = \"nowhere\"", "nowhere: there is no guard.json"),
        ("kind = \"llama_guard\"\nmodel = \"nowhere\"", "guard.model: there is no file config.json"),
        ("layers = 31", "guard.layers: found 31; allowed: 1 to 30"),
        ("path = \"head\"", "guard.path: is set, but guard.kind = \"embedded\" does not read it; read by \"trained\""),
    ] {
        let (code, stderr) = guard(keys);
        assert!(code == Some(1) && stderr.contains(expected), "{keys}: {stderr}");
    }
}

/// Rows that only their responses tell apart: a guard of responses learns them, and sees nothing in their queries.
#[test]
fn guards_can_be_fitted_to_a_part_of_each_row_and_measured_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let row = |index: usize, response: String, label: &str| {
        json!({"prompt": format!("Say {index}."), "response": response, "label": label}).to_string()
    };
    let colours = ["red", "green", "blue", "white", "grey", "black", "pink", "brown", "teal", "cyan"];
    let rows = (0..40).flat_map(|index| {
        let number = index * 7919 + 10_000;
        let colour = colours[index % colours.len()];
        let safe = row(index, format!("The {colour} door {index} is nice."), "safe");
        let unsafe_ = row(index, format!("{number} {number} {number}"), "unsafe");
        if index % 2 == 0 { [safe, unsafe_] } else { [unsafe_, safe] }
    });
    fs::write(&path, rows.collect::<Vec<_>>().join("\n")).unwrap();
    let (rows, tiny) = (path.to_str().unwrap(), checkpoint("texts"));
    let head = folder.path().join("head").to_str().unwrap().to_owned();
    let fit = ["--kind", "head", "--layers", "2", "--max-length", "400", "--assess", "response"];
    let from = ["guard", "train", "--data", rows, "--model", tiny.path().to_str().unwrap(), "--out", &head];
    let trained = line(&run(&[&from[..], &fit].concat()));
    let measure = |more: &[&str]| line(&run(&[&["guard", "eval", "--guard", &head, "--data", rows], more].concat()));
    let auc = |measured: &Value| measured["auc"].as_f64().unwrap();

    let alike = measure(&[]);
    assert_eq!((&alike["assess"], &alike["left_out_as_fitted_on"]), (&json!("response"), &json!(64)));
    assert!(auc(&alike) > 0.9, "{alike}");
    assert_eq!(alike["auc"], trained["held_out"]["all"]["auc"]);
    let refused = run(&["guard", "eval", "--guard", &head, "--data", rows, "--assess", "query"]);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && stderr.contains("fitted on the response alone"), "{stderr}");
    // The two rows of a query are one to a guard of queries, so none of them is on both sides.
    let queries = folder.path().join("queries").to_str().unwrap().to_owned();
    let fit = ["--kind", "head", "--layers", "2", "--max-length", "400", "--assess", "query"];
    let trained = line(&run(&[&from[..6], &["--out", &queries], &fit].concat()));
    assert_eq!((&trained["fitted_rows"], &trained["held_out"]["all"]["n"]), (&json!(32), &json!(8)));
    let measured = line(&run(&["guard", "eval", "--guard", &queries, "--data", rows]));
    assert_eq!((&measured["n"], &measured["left_out_as_fitted_on"]), (&json!(16), &json!(64)));

    let scenario = folder.path().join("guarded.toml");
    for (guard, assess, is_allowed, expected) in [
        ("head", "both", true, "the guard reads responses alone"),
        ("head", "response", true, "the guard reads responses alone"),
        ("head", "query", false, "reads the response alone and nothing else"),
        ("queries", "both", true, "the guard reads prompts alone"),
    ] {
        let keys = format!("enabled = true\nkind = \"trained\"\npath = {guard:?}\nassess = {assess:?}\n");
        fs::write(&scenario, format!("name = \"g\"\nquestion = \"which part?\"\n[guard]\n{keys}")).unwrap();
        let checked = run(&["check", scenario.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() == is_allowed && stderr.contains(expected), "{guard}, {assess}: {stderr}");
    }
}
