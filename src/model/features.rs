//! Rows as vectors: what a classifier on top of the model sees.

use fedward_actors::CancelFlag;
use tch::Kind;

use super::{BaseModel, Result, Work, transformer::Transformer};
use crate::lora::LoraRef;

/// What a classifier sees of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// The mean over its positions of their hidden states: `[hidden_size]`.
    pub mean: Vec<f32>,
    /// Whether it was too long, and the mean is that of its first tokens.
    pub is_cut: bool,
}

/// The mean over all positions of each row's hidden states after the final norm.
///
/// Each row is computed alone: what is computed beside it would change it by rounding.
///
/// # Shapes
///
/// → `[rows][hidden_size]`
///
/// # Errors
///
/// As [`score`](super::score).
pub fn mean_hidden(
    model: &BaseModel,
    adapter: Option<LoraRef>,
    rows: &[Vec<u32>],
    layers: usize,
    cancel: &CancelFlag,
) -> Result<Vec<Vec<f32>>> {
    model.compute(Work::Reading, || {
        let model = Transformer::new(model, adapter, cancel)?;
        model.check_rows(rows.iter().map(Vec::as_slice))?;
        let mean = |row: &Vec<u32>| -> Result<Vec<f32>> {
            let packed = model.pack(&[row], false)?;
            let (normed, _) = model.final_norm(&model.forward_to(&packed, layers)?)?;
            let mean = normed.f_to_kind(Kind::Float)?.f_mean_dim([0_i64].as_slice(), false, None)?;
            Ok(Vec::try_from(mean)?)
        };
        rows.iter().map(mean).collect()
    })
}
