//! Greedy continuations of 64 chat prompts of different lengths by the default model, token for token those of
//! transformers' `generate` (`tests/reference/greedy.py`), in f32.

use fedward::model::{BaseModel, FinishReason, GenerationSettings, Precision, generate};
use fedward_actors::CancelFlag;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;

use crate::{
    engine_support::{default_model, ids_of},
    fixture,
};

const STOP: u32 = 2;
/// Logits of ours and of transformers differ by up to this much in `f32`, depending on the processor: where the two
/// largest are nearer, either may be taken.
const ROUNDING: f64 = 1e-3;

/// Their continuation without the stop token, and whether there was one.
fn theirs(case: &Value) -> (Vec<u32>, FinishReason) {
    let mut ids = ids_of(&case["ids"]);
    if ids.last() == Some(&STOP) {
        ids.pop();
        return (ids, FinishReason::Stop);
    }
    (ids, FinishReason::Length)
}

/// Whether the first difference of two continuations is a tie of their two tokens.
fn parts_at_a_tie(model: &BaseModel, prompt: &[u32], ours: &[u32], theirs: &[u32]) -> bool {
    let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
    let prefix = [prompt, &ours[..same]].concat();
    let logits = model.next_token_logits(None, &prefix, &CancelFlag::new()).unwrap();
    let logit = |ids: &[u32]| f64::from(logits[ids.get(same).copied().unwrap_or(STOP) as usize]);
    (logit(ours) - logit(theirs)).abs() < ROUNDING
}

#[test]
fn sixty_four_prompts_are_continued_as_by_transformers() {
    let model = default_model(Precision::F32);
    let cases = fixture("greedy.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 64);
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids_of(&case["prompt"])).collect();
    let lengths: std::collections::BTreeSet<usize> = prompts.iter().map(Vec::len).collect();
    assert!(lengths.len() > 10, "the prompts should differ in length");
    let settings = GenerationSettings {
        max_new_tokens: 64,
        temperature: 0.0,
        top_p: 1.0,
        top_k: None,
        batch_size: 24,
        stop_ids: vec![STOP],
    };
    let rng_of = |prompt: usize| ChaCha8Rng::seed_from_u64(prompt as u64);
    let done = generate(&model, None, &prompts, &settings, &rng_of, &CancelFlag::new(), &mut |_| {}).unwrap();
    let mut ties = Vec::new();
    for (index, (case, found)) in cases.iter().zip(&done).enumerate() {
        let (ids, finish_reason) = theirs(case);
        if found.ids == ids {
            assert_eq!(found.finish_reason, finish_reason, "prompt {index}");
            continue;
        }
        let gap = case["gap"].as_f64().unwrap();
        let tie = gap < ROUNDING && parts_at_a_tie(&model, &prompts[index], &found.ids, &ids);
        assert!(tie, "prompt {index} (gap {gap:e}): found {:?}, expected {ids:?}", found.ids);
        ties.push(index);
    }
    eprintln!(
        "{} of {} continuations are equal; a tie went the other way in {ties:?}",
        cases.len() - ties.len(),
        cases.len()
    );
}
