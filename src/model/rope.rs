//! Rotary position embeddings (Su et al., 2021) in rotate-half order, stretched as Llama 3 does it.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use super::{ModelConfig, Result};

/// Cosines and sines of the rotation angles of some tokens.
///
/// # Shapes
///
/// `cos`, `sin`, `neg_sin`: `[tokens, 1, head_dim / 2]`.
pub(crate) struct Rotation {
    cos: Tensor,
    sin: Tensor,
    neg_sin: Tensor,
}

impl Rotation {
    /// The rotation of tokens at `positions`.
    pub(crate) fn new(config: &ModelConfig, positions: &[usize], device: Device, kind: Kind) -> Result<Self> {
        let frequencies = inverse_frequencies(config);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for &position in positions {
            for &frequency in &frequencies {
                // Rounded to f32 before the cosine, as checkpoints were trained.
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        let shape = [positions.len() as i64, 1, frequencies.len() as i64];
        let place = |values: &[f32]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device)?.f_to_kind(kind)?)
        };
        let (cos, sin) = (place(&cos)?, place(&sin)?);
        let neg_sin = sin.f_neg()?;
        Ok(Self { cos, sin, neg_sin })
    }

    /// Rotates the first `heads` heads of each token in place.
    ///
    /// # Shapes
    ///
    /// `states`: `[tokens, at least heads × head_dim]`.
    pub(crate) fn apply(&self, states: &Tensor, heads: i64) -> Result<()> {
        self.rotate(states, heads, &self.sin, &self.neg_sin)
    }

    /// Rotates back: the gradient of [`Rotation::apply`].
    ///
    /// # Shapes
    ///
    /// As [`Rotation::apply`].
    pub(crate) fn apply_backward(&self, states: &Tensor, heads: i64) -> Result<()> {
        self.rotate(states, heads, &self.neg_sin, &self.sin)
    }

    fn rotate(&self, states: &Tensor, heads: i64, sin: &Tensor, neg_sin: &Tensor) -> Result<()> {
        let (tokens, half) = (self.cos.size()[0], self.cos.size()[2]);
        let halves = states.f_narrow(1, 0, heads * half * 2)?.f_view([tokens, heads, 2, half])?;
        let (mut first, mut second) = (halves.f_select(2, 0)?, halves.f_select(2, 1)?);
        let rotated_first = first.f_mul(&self.cos)?.f_addcmul_(&second, neg_sin)?;
        let rotated_second = second.f_mul(&self.cos)?.f_addcmul_(&first, sin)?;
        first.f_copy_(&rotated_first)?;
        second.f_copy_(&rotated_second)?;
        Ok(())
    }
}

/// Rotation per position of each pair of dimensions, in radians.
fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
    (0..config.head_dim / 2)
        .map(|pair| {
            let frequency = 1.0 / config.rope_theta.powf(2.0 * pair as f64 / config.head_dim as f64);
            let Some(scaling) = config.rope_scaling else { return frequency as f32 };
            let wavelength = TAU / frequency;
            let context = scaling.original_max_position_embeddings;
            let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
            let stretched = frequency / scaling.factor;
            let scaled = if wavelength > context / low {
                stretched
            } else if wavelength < context / high {
                frequency
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth).mul_add(stretched, smooth * frequency)
            };
            scaled as f32
        })
        .collect()
}
