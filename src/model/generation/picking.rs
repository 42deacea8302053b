//! Choosing next tokens.

use tch::Tensor;

use super::{GenerationSettings, batch::Row};
use crate::model::{ModelError, Result, sampling::Sampler};

/// Chooses next tokens.
pub(super) enum Picker {
    Greedy,
    Draw(Sampler),
}

impl Picker {
    /// As settings say, if they can be followed.
    pub(super) fn new(settings: &GenerationSettings) -> Result<Self> {
        let GenerationSettings { temperature, top_p, top_k, batch_size, .. } = *settings;
        let problem = if !(temperature >= 0.0 && temperature.is_finite()) {
            format!("temperature is {temperature}; it must be 0 (greedy) or above")
        } else if !(0.0..=1.0).contains(&top_p) {
            format!("top_p is {top_p}; it must lie in 0..=1")
        } else if top_k == Some(0) {
            "top_k is 0; it must be at least 1, or absent".into()
        } else if batch_size == 0 {
            "batch_size is 0; it must be at least 1".into()
        } else if temperature == 0.0 {
            return Ok(Self::Greedy);
        } else {
            return Ok(Self::Draw(Sampler { temperature, top_p, top_k }));
        };
        Err(ModelError::Unusable(problem))
    }

    /// The next token of each row.
    ///
    /// # Shapes
    ///
    /// `logits`: `[rows, vocab_size]` → `[rows]`.
    pub(super) fn pick(&self, logits: &Tensor, rows: &mut [Row]) -> Result<Vec<u32>> {
        match self {
            Self::Greedy => {
                let ids = Vec::<i64>::try_from(logits.f_argmax(1, false)?)?;
                Ok(ids.into_iter().map(|id| id as u32).collect())
            }
            Self::Draw(sampler) if logits.device().is_cuda() => {
                sampler.draw_on_device(logits, &mut rows.iter_mut().map(|row| &mut row.rng).collect::<Vec<_>>())
            }
            Self::Draw(sampler) => {
                let vocabulary = logits.size()[1] as usize;
                let values = Vec::<f32>::try_from(logits.f_reshape([-1])?)?;
                let drawn = values.chunks(vocabulary).zip(rows).map(|(logits, row)| sampler.draw(logits, &mut row.rng));
                Ok(drawn.collect())
            }
        }
    }
}
