//! Dropout of the inputs of A.

use rand_chacha::{ChaCha8Rng, rand_core::Rng};
use tch::{Device, Kind, Tensor};

use crate::model::{ModelError, Result};

/// Draws which inputs of A are dropped, from a stream of its own.
#[derive(Clone)]
pub(crate) struct Dropout {
    rng: ChaCha8Rng,
    probability: f64,
}

impl Dropout {
    /// Drops with `probability`, rounded to a multiple of 1/65536.
    pub(crate) const fn new(rng: ChaCha8Rng, probability: f64) -> Self {
        Self { rng, probability }
    }

    pub(super) fn mask(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let threshold = (self.probability * 65536.0).round() as u32;
        let kept = (1.0 / (1.0 - self.probability)) as f32;
        if device != Device::Cpu {
            let mask = hashed(self.rng.next_u64(), shape, device)?.f_ge(i64::from(threshold))?;
            return Ok(mask.f_to_kind(kind)?.f_mul_scalar_(f64::from(kept))?);
        }
        let count = shape.iter().product::<i64>() as usize;
        let mut values = Vec::with_capacity(count + 3);
        while values.len() < count {
            let draw = self.rng.next_u64();
            for shift in [0, 16, 32, 48] {
                let sixteen = (draw >> shift) as u32 & 0xffff;
                values.push(if sixteen < threshold { 0.0 } else { kept });
            }
        }
        Ok(Tensor::f_from_slice(&values[..count])?.f_view(shape)?.f_to_device(device)?.f_to_kind(kind)?)
    }
}

/// Sixteen bits for each element, from a seed and the element's place: a device makes them itself, instead of waiting for
/// what one thread draws. The finalizer of `MurmurHash3` (Appleby, 2008), between two halves of the seed.
fn hashed(seed: u64, shape: &[i64], device: Device) -> Result<Tensor> {
    // Scalars of 32 bits; products wrap around.
    let scalar = |bits: u32| i64::from(bits.cast_signed());
    let shifted = |x: &Tensor, by: i64| -> Result<Tensor> {
        // The shift copies the sign, which a number without one does not have.
        Ok(x.f_bitwise_right_shift_tensor_scalar(by)?.f_bitwise_and_(scalar(u32::MAX >> by))?)
    };
    let count = shape.iter().product::<i64>();
    if i32::try_from(count).is_err() {
        let problem = format!("dropout cannot mask {count} inputs at once; lower training.pass_tokens");
        return Err(ModelError::Unusable(problem));
    }
    let mut x = Tensor::f_arange(count, (Kind::Int, device))?;
    x = x.f_mul_scalar_(scalar(0x9E37_79B9))?.f_add_scalar_(scalar(seed as u32))?;
    for (shift, factor) in [(16, 0x85EB_CA6B), (13, 0xC2B2_AE35)] {
        let high = shifted(&x, shift)?;
        x = x.f_bitwise_xor_tensor_(&high)?.f_mul_scalar_(scalar(factor))?;
        x = x.f_add_scalar_(scalar((seed >> 32) as u32))?;
    }
    let high = shifted(&x, 16)?;
    Ok(x.f_bitwise_xor_tensor_(&high)?.f_bitwise_and_(0xffff)?.f_view(shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(seed: u64) -> Vec<i64> {
        Vec::try_from(hashed(seed, &[300, 400], Device::Cpu).unwrap().to_kind(Kind::Int64).reshape([-1])).unwrap()
    }

    #[test]
    fn hashed_bits_are_spread_evenly_and_belong_to_their_seed() {
        let (first, again, other) = (bits(7), bits(7), bits(7 << 32));
        assert_eq!(first, again);
        for seed in [&first, &other] {
            assert!(seed.iter().all(|&bits| (0..65536).contains(&bits)));
            for threshold in [655, 6554, 32768, 58982] {
                let share = seed.iter().filter(|&&bits| bits < threshold).count() as f64 / seed.len() as f64;
                // Four standard deviations of 120,000 draws.
                assert!((share - threshold as f64 / 65536.0).abs() < 4.0 * 0.5 / 120_000_f64.sqrt(), "{share}");
            }
        }
        // What neighbours, lines and seeds do says nothing of one another: half of the pairs are on the same side.
        let agree = |left: &[i64], right: &[i64]| {
            let same = left.iter().zip(right).filter(|(left, right)| (**left < 32768) == (**right < 32768)).count();
            same as f64 / left.len().min(right.len()) as f64
        };
        for share in [agree(&first, &other), agree(&first, &first[1..]), agree(&first, &first[400..])] {
            assert!((share - 0.5).abs() < 0.01, "{share}");
        }
    }
}
