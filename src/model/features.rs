//! Rows as vectors: what a classifier on top of the model sees.

use fedward_actors::CancelFlag;
use tch::{Kind, Tensor};

use super::{BaseModel, Result, scoring::passes, transformer::Transformer};
use crate::lora::LoraRef;

/// The mean over all positions of each row's hidden states after the final norm.
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
    let _no_grad = tch::no_grad_guard();
    let model = Transformer::new(model, adapter, cancel)?;
    model.check_rows(rows.iter().map(Vec::as_slice))?;
    let mut features = vec![Vec::new(); rows.len()];
    for pass in passes(rows.iter().map(Vec::len)) {
        let ids: Vec<&[u32]> = pass.iter().map(|&row| rows[row].as_slice()).collect();
        let packed = model.pack(&ids, true)?;
        let (normed, _) = model.final_norm(&model.forward_to(&packed, layers)?)?;
        let normed = normed.f_to_kind(Kind::Float)?;
        let sum = |start: usize, length: usize| -> Result<Tensor> {
            Ok(normed.f_narrow(0, start as i64, length as i64)?.f_sum_dim_intlist([0_i64].as_slice(), false, None)?)
        };
        let shared = sum(0, packed.prefix())?;
        for (member, &row) in pass.iter().enumerate() {
            let own = packed.own(member);
            let mut total = sum(own.start, own.len())?.f_add_(&shared)?;
            features[row] = Vec::try_from(total.f_mul_scalar_(1.0 / rows[row].len() as f64)?)?;
        }
    }
    Ok(features)
}
