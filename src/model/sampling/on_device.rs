//! Drawing from logits that lie on a device: what comes to the host are likely tokens, not vocabularies.

use fedward_actors::streams::unit;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::{Candidate, Sampler, by_weight};
use crate::model::Result;

/// Most likely tokens among which a nucleus is looked for.
const LIKELY: usize = 1024;

/// Most weights that are computed at once, of 8 bytes each.
const MOST_WEIGHTS: i64 = 1 << 24;

impl Sampler {
    /// Draws a token for each row: the one that [`Sampler::draw`] draws, but where sums that are rounded otherwise end between
    /// two.
    ///
    /// # Shapes
    ///
    /// `logits`: `[rows, vocab_size]` → `[rows]`
    pub(crate) fn draw_on_device(&self, logits: &Tensor, rngs: &mut [&mut ChaCha8Rng]) -> Result<Vec<u32>> {
        let vocabulary = logits.size()[1].max(1);
        let chosen = Self { top_k: self.top_k.filter(|&top_k| (top_k as i64) < vocabulary), ..*self };
        let at_once = (MOST_WEIGHTS / vocabulary).max(1) as usize;
        let mut drawn = Vec::with_capacity(rngs.len());
        for (chunk, rngs) in rngs.chunks_mut(at_once).enumerate() {
            let logits = logits.f_narrow(0, (chunk * at_once) as i64, rngs.len() as i64)?;
            let weights = chosen.weights(&logits)?;
            drawn.extend(if chosen.top_k.is_none() && chosen.top_p >= 1.0 {
                draw_from_all(&weights, rngs)?
            } else {
                chosen.draw_from_likely(&logits, &weights, rngs)?
            });
        }
        Ok(drawn)
    }

    /// What [`Sampler::candidates`] computes.
    ///
    /// # Shapes
    ///
    /// `[rows, vocab_size]` → the same
    fn weights(&self, logits: &Tensor) -> Result<Tensor> {
        let below = logits.f_sub(&logits.f_amax([1_i64].as_slice(), true)?)?;
        Ok(below.f_to_kind(Kind::Double)?.f_div_scalar_(self.temperature)?.f_exp_()?)
    }

    fn draw_from_likely(&self, logits: &Tensor, weights: &Tensor, rngs: &mut [&mut ChaCha8Rng]) -> Result<Vec<u32>> {
        let vocabulary = logits.size()[1] as usize;
        let count = self.top_k.unwrap_or(LIKELY).min(vocabulary);
        let (_, ids) = first_of_equals(weights)?.f_topk(count as i64, 1, true, true)?;
        let likely = weights.f_gather(1, &ids, false)?;
        let likely = Vec::<f64>::try_from(likely.f_reshape([-1])?)?;
        let ids = Vec::<i64>::try_from(ids.f_reshape([-1])?)?;
        let totals = Vec::<f64>::try_from(weights.f_sum_dim_intlist([1_i64].as_slice(), false, None)?)?;
        let rows = ids.chunks(count).zip(likely.chunks(count)).zip(totals).zip(rngs).enumerate();
        rows.map(|(row, (((ids, likely), total), rng))| {
            let mut candidates: Vec<Candidate> =
                ids.iter().zip(likely).map(|(&id, &weight)| (id as u32, weight)).collect();
            candidates.sort_unstable_by(by_weight);
            let sum: f64 = likely.iter().sum();
            if self.top_k.is_some() {
                return Ok(self.draw_from(candidates, sum, rng));
            }
            if count < vocabulary && sum < self.top_p * total {
                return Ok(self.draw(&Vec::<f32>::try_from(logits.f_get(row as i64)?)?, rng));
            }
            Ok(self.draw_from(candidates, total, rng))
        })
        .collect()
    }
}

/// Weights that tell equal ones apart: the lower id is the likelier, as on the host. That is far less than what separates
/// logits that are not equal, which come from products in bf16 or f32.
///
/// # Shapes
///
/// `[rows, vocab_size]` → the same
fn first_of_equals(weights: &Tensor) -> Result<Tensor> {
    let mut ids = Tensor::f_arange(weights.size()[1], (Kind::Double, weights.device()))?;
    Ok(weights.f_mul(&ids.f_mul_scalar_(-(0.5_f64.powi(50)))?.f_add_scalar_(1.0)?)?)
}

/// # Shapes
///
/// `weights`: `[rows, vocab_size]` → `[rows]`
fn draw_from_all(weights: &Tensor, rngs: &mut [&mut ChaCha8Rng]) -> Result<Vec<u32>> {
    let vocabulary = weights.size()[1];
    let units: Vec<f64> = rngs.iter_mut().map(|rng| unit(rng)).collect();
    let units = Tensor::f_from_slice(&units)?.f_unsqueeze(1)?.f_to_device(weights.device())?;
    let sums = weights.f_cumsum(1, None)?;
    let reached = sums.f_le_tensor(&units.f_mul(&sums.f_narrow(1, vocabulary - 1, 1)?)?)?;
    let before = reached.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64)?;
    // Rounding can leave a remainder of almost nothing.
    let drawn = Vec::<i64>::try_from(before.f_clamp_max(vocabulary - 1)?)?;
    Ok(drawn.into_iter().map(|id| id as u32).collect())
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;
    use tch::Device;

    use super::*;

    /// A CUDA device if there is one: its operations are others.
    fn device() -> Device {
        crate::model::init_backend();
        Device::cuda_if_available()
    }

    /// Rounded as products in bf16 are, so that many are equal.
    fn logits(rows: usize, vocabulary: usize, spread: f64) -> Vec<f32> {
        let mut noise = ChaCha8Rng::seed_from_u64(3);
        (0..rows * vocabulary).map(|_| half::bf16::from_f64(spread * unit(&mut noise)).to_f32()).collect()
    }

    #[test]
    fn tokens_are_those_that_the_host_draws() {
        let rows = 40;
        // The wide ones have their nucleus among few tokens, the narrow ones have not.
        for (vocabulary, spread) in [(5_000, 8.0), (5_000, 0.1), (500, 3.0)] {
            let logits = logits(rows, vocabulary, spread);
            let on_device = Tensor::from_slice(&logits).view([rows as i64, vocabulary as i64]).to_device(device());
            for (temperature, top_p, top_k) in [
                (1.0, 1.0, None),
                (0.5, 1.0, None),
                (1.0, 0.6, None),
                (1.3, 1.0, Some(50)),
                (0.8, 0.9, Some(7)),
                (1.0, 1.0, Some(500)),
                (1.0, 0.7, Some(10_000)),
            ] {
                let sampler = Sampler { temperature, top_p, top_k };
                let mut rngs: Vec<ChaCha8Rng> = (0..rows as u64).map(ChaCha8Rng::seed_from_u64).collect();
                let mut theirs = rngs.clone();
                let expected: Vec<u32> =
                    logits.chunks(vocabulary).zip(&mut theirs).map(|(row, rng)| sampler.draw(row, rng)).collect();
                let found = sampler.draw_on_device(&on_device, &mut rngs.iter_mut().collect::<Vec<_>>()).unwrap();
                assert_eq!(found, expected, "{sampler:?} at {spread}");
                assert!(rngs == theirs, "streams go on alike");
            }
        }
    }

    #[test]
    fn many_weights_are_computed_a_part_at_a_time() {
        let (rows, vocabulary) = (3, MOST_WEIGHTS / 2);
        let logits = Tensor::zeros([rows, vocabulary], (Kind::Float, device()));
        // One token of each row is all but certain.
        for row in 0..rows {
            let _ = logits.get(row).narrow(0, 7 * row + 1, 1).fill_(100.0);
        }
        let sampler = Sampler { temperature: 1.0, top_p: 1.0, top_k: None };
        let mut rngs: Vec<ChaCha8Rng> = (0..rows as u64).map(ChaCha8Rng::seed_from_u64).collect();
        let drawn = sampler.draw_on_device(&logits, &mut rngs.iter_mut().collect::<Vec<_>>()).unwrap();
        assert_eq!(drawn, [1, 8, 15]);
    }
}
