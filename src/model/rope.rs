//! Rotary position embeddings (Su et al., 2021) in rotate-half order, and how they are stretched for long contexts.

use std::f64::consts::TAU;

use fedward_native::kernels;
use tch::{Device, Kind, Tensor};

use super::{Llama3RopeScaling, ModelConfig, Result, RopeScaling, Span, YarnRopeScaling};

/// Rotations of some tokens, for each kind of layer.
pub(crate) struct Rotations {
    full: Rotation,
    /// Where sliding layers rotate by other angles.
    sliding: Option<Rotation>,
}

impl Rotations {
    /// The rotations of tokens at `positions`.
    pub(crate) fn new(config: &ModelConfig, positions: &[usize], device: Device, kind: Kind) -> Result<Self> {
        let full = Rotation::new(&Angles::new(config), positions, device, kind)?;
        let theta = config.design.sliding.as_ref().and_then(|sliding| sliding.rope_theta);
        let sliding = theta
            .map(|theta| Rotation::new(&Angles::unstretched(config.head_dim, theta), positions, device, kind))
            .transpose()?;
        Ok(Self { full, sliding })
    }

    /// Those of a layer.
    pub(crate) fn of(&self, span: Span) -> &Rotation {
        match (&self.sliding, span) {
            (Some(sliding), Span::Sliding) => sliding,
            _ => &self.full,
        }
    }
}

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
    fn new(angles: &Angles, positions: &[usize], device: Device, kind: Kind) -> Result<Self> {
        let Angles { frequencies, factor } = angles;
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for &position in positions {
            for &frequency in frequencies {
                // Rounded to f32 before the cosine, as checkpoints were trained.
                let angle = f64::from(position as f32 * frequency);
                cos.push((angle.cos() * factor) as f32);
                sin.push((angle.sin() * factor) as f32);
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
        if kernels::fits(states) && kernels::fits(&self.cos) {
            kernels::rotate(states, heads as usize, &self.cos, sin);
            return Ok(());
        }
        let halves = states.f_narrow(1, 0, heads * half * 2)?.f_view([tokens, heads, 2, half])?;
        let (mut first, mut second) = (halves.f_select(2, 0)?, halves.f_select(2, 1)?);
        let rotated_first = first.f_mul(&self.cos)?.f_addcmul_(&second, neg_sin)?;
        let rotated_second = second.f_mul(&self.cos)?.f_addcmul_(&first, sin)?;
        first.f_copy_(&rotated_first)?;
        second.f_copy_(&rotated_second)?;
        Ok(())
    }
}

/// How far each pair of dimensions turns from one position to the next.
struct Angles {
    /// In radians.
    frequencies: Vec<f32>,
    /// What rotated states are multiplied by.
    factor: f64,
}

impl Angles {
    fn new(config: &ModelConfig) -> Self {
        let (width, theta) = (config.head_dim, config.rope_theta);
        let stretched = |by: &dyn Fn(f64) -> f64| {
            unstretched(width, theta).map(|frequency| by(frequency) as f32).collect::<Vec<_>>()
        };
        match &config.rope_scaling {
            None => Self::unstretched(width, theta),
            Some(RopeScaling::Linear { factor }) => {
                Self { frequencies: stretched(&|frequency| frequency / factor), factor: 1.0 }
            }
            Some(RopeScaling::Llama3(scaling)) => {
                Self { frequencies: stretched(&|frequency| llama3(scaling, frequency)), factor: 1.0 }
            }
            Some(RopeScaling::Yarn(scaling)) => yarn(scaling, width, theta),
        }
    }

    fn unstretched(width: i64, theta: f64) -> Self {
        Self { frequencies: unstretched(width, theta).map(|frequency| frequency as f32).collect(), factor: 1.0 }
    }
}

fn unstretched(width: i64, theta: f64) -> impl Iterator<Item = f64> {
    (0..width / 2).map(move |pair| 1.0 / theta.powf(2.0 * pair as f64 / width as f64))
}

fn llama3(scaling: &Llama3RopeScaling, frequency: f64) -> f64 {
    let wavelength = TAU / frequency;
    let context = scaling.original_max_position_embeddings;
    let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
    let stretched = frequency / scaling.factor;
    if wavelength > context / low {
        stretched
    } else if wavelength < context / high {
        frequency
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        (1.0 - smooth).mul_add(stretched, smooth * frequency)
    }
}

/// Between the dimensions that turn `beta_fast` and `beta_slow` times within the original context, frequencies go over
/// from their own to the stretched ones on a line.
fn yarn(scaling: &YarnRopeScaling, width: i64, theta: f64) -> Angles {
    let border = |turns: f64| {
        let context = scaling.original_max_position_embeddings;
        width as f64 * (context / (turns * TAU)).ln() / (2.0 * theta.ln())
    };
    let (mut first, mut last) = (border(scaling.beta_fast), border(scaling.beta_slow));
    if scaling.truncate {
        (first, last) = (first.floor(), last.ceil());
    }
    let (first, last) = (first.max(0.0), last.min(width as f64 - 1.0));
    // A ramp of no length would divide by zero.
    let length = if (last - first).abs() < f64::EPSILON { 0.001 } else { last - first };
    let frequencies = (0_i32..)
        .zip(unstretched(width, theta))
        .map(|(pair, frequency)| {
            let share = ((f64::from(pair) - first) / length).clamp(0.0, 1.0);
            (frequency / scaling.factor).mul_add(share, frequency * (1.0 - share)) as f32
        })
        .collect();
    let sharper = if scaling.factor > 1.0 { 0.1 * scaling.factor.ln() + 1.0 } else { 1.0 };
    Angles { frequencies, factor: scaling.attention_factor.unwrap_or(sharper) }
}
