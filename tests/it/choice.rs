//! Questions with options on the default model against transformers' likelihoods and lm-evaluation-harness's formulas
//! (`tests/reference/choice_likelihoods.py`), on made-up questions.

use std::path::PathBuf;

use fedward::eval::{
    BenchId,
    choice::{Candidates, Choice, ChoiceItem},
};
use serde_json::Value;

use crate::{
    engine_support::{reals_of, relative_error},
    fixture,
    support::{default_chat_model, measured},
};

#[test]
fn accuracy_and_its_norm_are_those_of_the_harness() {
    let questions = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/choice/questions.jsonl");
    let items = ChoiceItem::load(&questions).unwrap();
    let expected = fixture("choice_likelihoods.json");
    let model = default_chat_model();
    for (candidates, form) in [(Candidates::Letters, "letters"), (Candidates::Texts, "texts")] {
        let bench = Choice { id: BenchId::own("made_up"), items: items.clone(), candidates };
        let found = measured(&model, &bench);
        let expected = expected[form].as_array().unwrap();
        assert_eq!(found.findings.len(), expected.len());
        let mut worst = 0.0_f64;
        for (finding, expected) in found.findings.iter().zip(expected) {
            let (ours, theirs) = (&finding.verdicts["log_likelihoods"], &expected["log_likelihoods"]);
            worst = worst.max(relative_error(&reals_of(ours), &reals_of(theirs)));
            for key in ["right", "right_norm"] {
                assert_eq!(finding.verdicts[key], expected[key], "{form}: {key}");
            }
        }
        eprintln!("{form}: relative error of a question's likelihoods: at most {worst:e}");
        // f32 against f64.
        assert!(worst < 2e-5, "{form}: {worst:e}");
        let n = expected.len() as f64;
        for (value, key) in [("accuracy", "right"), ("accuracy_norm", "right_norm")] {
            let right = expected.iter().filter(|item| item[key] == Value::Bool(true)).count() as f64;
            assert!((found.score.values[value] - right / n).abs() < 1e-12, "{form}: {value}");
            assert_eq!(found.score.items.as_ref().unwrap().scores[key].iter().sum::<f64>().to_bits(), right.to_bits());
            assert!(right > 0.0 && right < n, "{form}: {key} shows little");
        }
        let chance = items.iter().map(|item| 1.0 / item.options.len() as f64).sum::<f64>() / n;
        assert!((found.score.values["chance"] - chance).abs() < 1e-12);
    }
    // Questions on which both agree would show little of the norm.
    assert!(expected["texts"].as_array().unwrap().iter().any(|item| item["right"] != item["right_norm"]));
}
