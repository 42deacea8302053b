//! AdamW (Loshchilov & Hutter, 2019) on one flat buffer.

use tch::Tensor;

use crate::model::Result;

/// Constants of AdamW; the defaults are `torch.optim.AdamW`'s, but without weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// Share of each value that a step takes away, times the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// Moments of the gradients so far.
pub(crate) struct AdamW {
    settings: AdamSettings,
    mean: Tensor,
    mean_square: Tensor,
    steps: i32,
}

impl AdamW {
    /// # Shapes
    ///
    /// `values`: `[n]`, any.
    pub(crate) fn new(values: &Tensor, settings: AdamSettings) -> Result<Self> {
        Ok(Self { settings, mean: values.f_zeros_like()?, mean_square: values.f_zeros_like()?, steps: 0 })
    }

    /// Updates `values` in place.
    ///
    /// # Shapes
    ///
    /// `values`, `grads`: `[n]`.
    pub(crate) fn step(&mut self, values: &mut Tensor, grads: &Tensor, learning_rate: f64) -> Result<()> {
        let AdamSettings { beta1, beta2, epsilon, weight_decay } = self.settings;
        self.steps += 1;
        if weight_decay != 0.0 {
            let _ = values.f_mul_scalar_(learning_rate.mul_add(-weight_decay, 1.0))?;
        }
        let _ = self.mean.f_lerp_(grads, 1.0 - beta1)?;
        let squares = grads.f_square()?;
        let _ = self.mean_square.f_mul_scalar_(beta2)?.f_add_(&squares.f_mul_scalar(1.0 - beta2)?)?;
        let bias1 = 1.0 - beta1.powi(self.steps);
        let bias2 = 1.0 - beta2.powi(self.steps);
        let divisor = self.mean_square.f_sqrt()?.f_div_scalar_(bias2.sqrt())?.f_add_scalar_(epsilon)?;
        let update = self.mean.f_div(&divisor)?.f_mul_scalar_(-learning_rate / bias1)?;
        let _ = values.f_add_(&update)?;
        Ok(())
    }
}
