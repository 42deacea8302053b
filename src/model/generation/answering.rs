//! Short answers to questions that begin alike, and how likely they begin with given tokens: what guards need.
//!
//! On the CPU each question is computed alone, behind tokens that all questions share, so an answer does not depend on what
//! else is asked, to the last bit.

use std::collections::BTreeMap;

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tch::{Kind, Tensor};

use super::{Batch, GenerationSettings, Picker, Room, Row};
use crate::{
    lora::LoraRef,
    model::{BaseModel, ChatTokenizer, Portions, Result, Work, transformer::Transformer},
};

/// What is asked.
pub(crate) struct Questions<'q> {
    /// Questions, as prompts.
    pub(crate) prompts: &'q [Vec<u32>],
    /// Tokens that questions may begin with; each question takes the first that it begins with whole.
    pub(crate) openings: &'q [Vec<u32>],
    /// Tokens whose probabilities are wanted.
    pub(crate) words: [u32; 2],
    /// Tokens of the longest answer.
    pub(crate) longest_answer: usize,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answered {
    /// Its text, decoded greedily.
    pub(crate) text: String,
    /// Probability, over the whole vocabulary, that each word is the first token that is no white space.
    pub(crate) probabilities: [f64; 2],
}

/// Answers each question, in their order.
///
/// # Errors
///
/// As [`generate`](super::generate).
pub(crate) fn answer(
    model: &BaseModel,
    tokenizer: &ChatTokenizer,
    adapter: Option<LoraRef>,
    questions: &Questions,
    cancel: &fedward_actors::CancelFlag,
) -> Result<Vec<Answered>> {
    let answered =
        |(ids, probabilities): (Vec<u32>, [f64; 2])| Ok(Answered { text: tokenizer.decode(&ids)?, probabilities });
    let decoded = model.compute(Work::Reading, || decode(model, tokenizer, adapter, questions, cancel))?;
    decoded.into_iter().map(answered).collect()
}

/// The tokens of each answer, and how likely each word begins it.
fn decode(
    model: &BaseModel,
    tokenizer: &ChatTokenizer,
    adapter: Option<LoraRef>,
    questions: &Questions,
    cancel: &fedward_actors::CancelFlag,
) -> Result<Vec<(Vec<u32>, [f64; 2])>> {
    let prompts = questions.prompts;
    let settings = GenerationSettings {
        max_new_tokens: questions.longest_answer,
        temperature: 0.0,
        top_p: 1.0,
        top_k: None,
        batch_size: Portions::on(model.device()).questions,
        stop_ids: tokenizer.stop_ids().to_vec(),
    };
    let picker = Picker::new(&settings)?;
    let model = Transformer::new(model, adapter, cancel)?;
    model.check_rows(prompts.iter().map(Vec::as_slice))?;
    let room = Room::new(&model, &settings);
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut probabilities = vec![[0.0; 2]; prompts.len()];
    for (opening, members) in by_opening(questions) {
        let opening = opening.map(|opening| model.open(opening)).transpose()?;
        for members in room.cut(&members, |prompt| prompts[prompt].len()) {
            // Greedy decoding draws nothing.
            let rng = || ChaCha8Rng::seed_from_u64(0);
            let rows = members.iter().map(|&prompt| Row::new(prompt, &prompts[prompt], rng())).collect();
            let opening = opening.as_ref();
            let mut watch = |row: &Row, logits: &Tensor| {
                if tokenizer.decode(&row.ids)?.trim().is_empty() {
                    probabilities[row.prompt] = probabilities_of(questions.words, logits)?;
                }
                Ok(())
            };
            let batch = Batch { model: &model, picker: &picker, settings: &settings, room, rows, prompts, opening };
            batch.run(Some(&mut watch), &mut |row| answers[row.prompt] = row.ids)?;
        }
    }
    Ok(answers.into_iter().zip(probabilities).collect())
}

/// The questions by what they begin with, short ones first.
fn by_opening<'q>(questions: &Questions<'q>) -> BTreeMap<Option<&'q [u32]>, Vec<usize>> {
    let mut groups: BTreeMap<Option<&[u32]>, Vec<usize>> = BTreeMap::new();
    let mut order: Vec<usize> = (0..questions.prompts.len()).collect();
    order.sort_by_key(|&prompt| questions.prompts[prompt].len());
    for prompt in order {
        let ids = &questions.prompts[prompt];
        // The last token of a question is computed for its answer.
        let fits = |opening: &&Vec<u32>| !opening.is_empty() && opening.len() < ids.len() && ids.starts_with(opening);
        let opening = questions.openings.iter().find(fits).map(Vec::as_slice);
        groups.entry(opening).or_default().push(prompt);
    }
    groups
}

/// # Shapes
///
/// `logits`: `[vocab_size]`
fn probabilities_of(words: [u32; 2], logits: &Tensor) -> Result<[f64; 2]> {
    let probabilities = logits.f_to_kind(Kind::Double)?.f_softmax(-1, None::<Kind>)?;
    let [first, second] = words.map(|word| probabilities.f_double_value(&[i64::from(word)]));
    Ok([first?, second?])
}
