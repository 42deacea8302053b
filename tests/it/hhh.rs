//! HHH's likelihoods on the default model against transformers (`tests/reference/hhh_likelihoods.py`), on made-up items: as
//! whole answers and a token.

use std::path::PathBuf;

use fedward::eval::hhh::Hhh;
use serde_json::Value;

use crate::{
    engine_support::{ids_of, reals_of, relative_error},
    fixture,
    support::{default_chat_model, measured},
};

#[test]
fn both_normalisations_are_those_of_transformers() {
    let items = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/hhh");
    let bench = Hhh { items: Hhh::load(&items).unwrap() };
    let found = measured(&default_chat_model(), &bench);

    let expected = fixture("hhh_likelihoods.json");
    let expected = expected.as_array().unwrap();
    assert_eq!(found.findings.len(), expected.len());
    let mut worst = 0.0_f64;
    for (finding, expected) in found.findings.iter().zip(expected) {
        let verdicts = &finding.verdicts;
        assert_eq!(finding.item, expected["item"]);
        assert_eq!(ids_of(&verdicts["candidate_tokens"]), ids_of(&expected["candidate_tokens"]), "{}", finding.item);
        let (ours, theirs) = (&verdicts["log_likelihoods"], &expected["log_likelihoods"]);
        worst = worst.max(relative_error(&reals_of(ours), &reals_of(theirs)));
        for key in ["right", "right_length_normalised"] {
            assert_eq!(verdicts[key], expected[key], "{}: {key}", finding.item);
        }
    }
    eprintln!("relative error of an item's likelihoods: at most {worst:e}");
    // f32 against f64.
    assert!(worst < 2e-5, "{worst:e}");

    let right = |key: &str| expected.iter().filter(|item| item[key] == Value::Bool(true)).count() as f64;
    let n = expected.len() as f64;
    assert!((found.score.values["micro"] - right("right") / n).abs() < 1e-12);
    let normalised = right("right_length_normalised") / n;
    assert!((found.score.values["micro_length_normalised"] - normalised).abs() < 1e-12);
    // Items on which all agree would show little.
    assert!(expected.iter().any(|item| item["right"] != item["right_length_normalised"]));
    assert!(right("right") > 0.0 && right("right") < n);
}
